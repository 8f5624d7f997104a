"""The users of servers that this user has met, each with the fingerprint of their card, pinned when first met.

They stand in `people` in the configuration folder. A server that shows other keys for somebody later is found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from atedb.account.root import Card
from atedb.chain.disk import RealDisk
from atedb.errors import AteError, DamagedError, ExitCode
from atefs.mount import places


class OtherKeysError(AteError):
    """A server shows other keys for somebody than it did before, or than somebody says."""

    exit_code = ExitCode.REFUSED


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """fingerprint: of the card, in hexadecimal. verified: it was compared with what they said themselves."""

    fingerprint: str
    verified: bool = False


def people_file() -> Path:
    """Where they are kept."""
    return places.config_home() / "people"


def met(server: str) -> Mapping[str, Person]:
    """Who was met on a server, by e-mail address. Raises DamagedError, StorageError."""
    return _read().get(server, {})


def require_same(server: str, card: Card) -> Person:
    """Who this is: as they were met before, or from now on. Raises OtherKeysError when the keys are others."""
    known = met(server).get(card.email)
    found = card.fingerprint.hex()
    if known is None:
        known = Person(found)
        _write(server, card.email, known)
    if known.fingerprint != found:
        raise OtherKeysError(
            f"{server} shows other keys for {card.email} than before: the fingerprint is {found}, and was "
            f"{known.fingerprint}; somebody may stand between you, or they have begun anew; nothing was changed; have "
            f"them read theirs to you (atefs whoami), and say: atefs verify-user {card.email} --fingerprint …"
        )
    return known


def verify(server: str, card: Card, said: str) -> Person:
    """Believe the card if its fingerprint is what they said. Raises OtherKeysError; nothing has changed then."""
    found = card.fingerprint.hex()
    if said != found:
        raise OtherKeysError(
            f"these are not the keys that {server} shows for {card.email}: their fingerprint is {found}; nothing was "
            "changed; read it once more, and if it stays so, do not share anything with them over this server"
        )
    person = Person(found, verified=True)
    _write(server, card.email, person)
    return person


def _read() -> dict[str, dict[str, Person]]:
    path = people_file()
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(RealDisk().read_bytes(path), type=dict[str, dict[str, Person]])
    except msgspec.MsgspecError:
        raise DamagedError(
            f"{path} is not what was written; nothing was changed; put it back from a copy, or move it away and "
            "compare everybody's fingerprint again"
        ) from None


def _write(server: str, email: str, person: Person) -> None:
    found = _read()
    found.setdefault(server, {})[email] = person
    places.write_private(people_file(), msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
