"""What a server notes about an account, for its owner: sealed to the owner's key, and each entry bound to all before.

The server can write entries and read none of them again. It cannot alter or leave out what its owner has seen: whoever
remembers the newest hash notices. It could leave something out before it is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from atedb.account.root import Card
from atedb.crypto.aead import SealBrokenError
from atedb.crypto.hashing import HASH_SIZE, digest
from atedb.crypto.kem import KemKey, seal_to
from atedb.errors import DamagedError

MAX_SEALED = 4096
"""Bytes of a sealed entry."""
_PURPOSE = b"atedb v1 audit entry"


class What(StrEnum):
    """What has happened."""

    REGISTERED = "registered"
    LOGGED_IN = "logged in"
    LOGIN_REFUSED = "login refused"
    LOGGED_OUT = "logged out"
    TOKEN_MADE = "token made"
    TOKEN_REVOKED = "token revoked"
    SECOND_FACTOR = "second factor given"
    FACTOR_REFUSED = "second factor refused"
    PASSWORD_CHANGED = "password changed"
    RECOVERED = "account recovered"
    INVITED = "invitation made"
    CHAIN_REFUSED = "chain refused"


class AuditEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """time: seconds since 1970. about: the token, name or chain that is meant. address: where it came from."""

    time: int
    what: What
    about: Annotated[str, Meta(max_length=300)]
    address: Annotated[str, Meta(max_length=64)]


class Mark(NamedTuple):
    """A place in the log: the number of the newest entry, from 1, and the hash that all up to it give."""

    number: int
    hash: bytes


BEGINNING = Mark(0, bytes(HASH_SIZE))


def seal_entry(entry: AuditEntry, card: Card) -> bytes:
    """The entry, for the owner of the card."""
    return seal_to(card.kem, msgspec.msgpack.encode(entry), _PURPOSE + card.email.encode())


def open_entry(sealed: bytes, key: KemKey, email: str) -> AuditEntry:
    """The entry again. Raises DamagedError."""
    try:
        return msgspec.msgpack.decode(key.open(sealed, _PURPOSE + email.encode()), type=AuditEntry)
    except (SealBrokenError, msgspec.MsgspecError):
        raise DamagedError("an entry of the audit log was not made for this account") from None


def after(mark: Mark, sealed: bytes) -> Mark:
    """The place behind one more entry."""
    number = mark.number + 1
    return Mark(number, digest(b"atedb v1 audit" + mark.hash + number.to_bytes(8, "little") + sealed))


def marks(start: Mark, entries: Sequence[bytes]) -> Iterator[Mark]:
    """The place behind each of some entries that follow `start`."""
    for sealed in entries:
        start = after(start, sealed)
        yield start
