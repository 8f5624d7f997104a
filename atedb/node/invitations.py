"""Codes with which people may register: each works once, and for a while. A file for each, in `DATA/invitations`.

Files are named by hashes of the codes, and have no code in them. A server that has no account yet makes a code for its
administrator when it starts, and keeps it in memory.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import NamedTuple

import msgspec

from atedb.chain.disk import RealDisk
from atedb.crypto.aead import random_bytes
from atedb.crypto.hashing import digest
from atedb.node.data_folder import made

FOLDER = "invitations"
SECONDS = 7 * 86_400
_BYTES = 10
_GROUP = 4


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom it is for. email: empty for anybody. expires: seconds since 1970."""

    email: str
    admin: bool
    expires: int


class Invited(NamedTuple):
    """A code as it is shown, this once."""

    code: str
    invitation: Invitation


class Invitations:
    """The codes of one data folder. Plain synchronous calls on small files."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._disk = RealDisk()

    def make(self, email: str, now: float, *, admin: bool = False) -> Invited:
        """A new code; durable on return. Raises StorageError."""
        invited = Invited(new_code(), Invitation(email, admin, int(now) + SECONDS))
        made(self._folder.parent, FOLDER)
        self._disk.replace(self._path(invited.code), msgspec.json.encode(invited.invitation))
        return invited

    def find(self, code: str, now: float) -> Invitation | None:
        """Whom a code is for; None for one that was never made, was used, or is too old. Raises StorageError."""
        path = self._path(code)
        if not path.exists():
            return None
        try:
            invitation = msgspec.json.decode(self._disk.read_bytes(path), type=Invitation)
        except msgspec.MsgspecError:
            return None
        return invitation if invitation.expires > now else None

    def use(self, code: str) -> None:
        """It works no more. Durable on return. Raises StorageError."""
        self._disk.unlink(self._path(code))
        self._disk.sync_folder(self._folder)

    def _path(self, code: str) -> Path:
        return self._folder / f"{digest(b'atedb v1 invitation' + plain_code(code).encode()).hex()}.json"


def new_code() -> str:
    """80 random bits in four groups of four letters and digits (RFC 4648's base32)."""
    text = base64.b32encode(random_bytes(_BYTES)).decode("ascii")
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def plain_code(code: str) -> str:
    """The code without what makes it readable."""
    return code.replace("-", "").strip().upper()
