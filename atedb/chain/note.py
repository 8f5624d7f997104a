"""Small facts kept in files of their own: a line of JSON and a line with its hash, replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from atedb.chain.disk import Disk
from atedb.crypto.hashing import digest
from atedb.errors import DamagedError

T = TypeVar("T", bound=msgspec.Struct)


def save_note(disk: Disk, path: Path, note: msgspec.Struct) -> None:
    """Make the file hold `note`, durably."""
    body = msgspec.json.encode(note)
    disk.replace(path, body + b"\n" + digest(body).hex().encode() + b"\n")


def load_note(disk: Disk, path: Path, kind: type[T]) -> T | None:
    """What the file holds; None when there is none. Raises DamagedError."""
    if path.name not in disk.names(path.parent):
        return None
    body, _, mark = disk.read_bytes(path).partition(b"\n")
    try:
        if mark == digest(body).hex().encode() + b"\n":
            return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        pass
    raise DamagedError(f"{path} is not what was written")
