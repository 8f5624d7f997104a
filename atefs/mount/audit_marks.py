"""How far an account's audit log was shown on this machine: a server cannot take entries away unnoticed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from atedb.account.audit import BEGINNING, Mark
from atedb.chain.disk import RealDisk
from atedb.crypto.hashing import digest
from atedb.errors import DamagedError
from atefs.mount import places


def seen(server: str, email: str) -> Mark:
    """The end of the log when it was shown last; BEGINNING if it never was. Raises DamagedError, StorageError."""
    path = _path(server, email)
    if not path.exists():
        return BEGINNING
    try:
        return msgspec.json.decode(RealDisk().read_bytes(path), type=Mark)
    except msgspec.MsgspecError:
        raise DamagedError(f"{path} is not what was written; remove it, and look at the whole log again") from None


def note(server: str, email: str, mark: Mark) -> None:
    """It was shown up to here. Raises StorageError."""
    places.write_private(_path(server, email), msgspec.json.encode(mark))


def _path(server: str, email: str) -> Path:
    return places.state_home() / "audit" / digest(f"{server} {email}".encode())[:16].hex()
