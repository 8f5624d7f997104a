"""The manifest: which segments a chain consists of, and how each sealed one ends.

JSON, followed by a line with its hash. Replaced as a whole, before the first batch enters a new segment.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from atedb.chain.disk import Disk
from atedb.chain.format import require_format
from atedb.crypto.hashing import digest
from atedb.errors import DamagedError

NAME = "manifest"


class SealedSegment(msgspec.Struct, frozen=True):
    """A segment that will not change. last: sequence of its last batch; head: that batch's hash, hexadecimal."""

    number: int
    first: int
    last: int
    length: int
    head: str


class Manifest(msgspec.Struct, frozen=True):
    """active: the number of the segment that is written to."""

    format: int
    chain: str
    active: int
    sealed: list[SealedSegment]

    def encode(self) -> bytes:
        """The file's bytes."""
        body = msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
        return body + digest(body).hex().encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises DamagedError, or UnsupportedError for a newer format."""
        body, mark = data[:-65], data[-65:]
        if digest(body).hex().encode() + b"\n" != mark:
            raise DamagedError("the manifest is not what was written")
        try:
            manifest = msgspec.json.decode(body, type=cls)
        except msgspec.DecodeError as error:
            raise DamagedError(f"the manifest cannot be read: {error}") from None
        require_format(manifest.format)
        return manifest

    def save(self, disk: Disk, store: Path) -> None:
        """Swap it in durably."""
        disk.replace(store / NAME, self.encode())

    def is_saved(self, disk: Disk, store: Path) -> bool:
        """Whether the store has exactly this one."""
        return NAME in disk.names(store) and disk.read_bytes(store / NAME) == self.encode()


def load_manifest(disk: Disk, store: Path) -> Manifest:
    """The store's manifest. Raises DamagedError."""
    if NAME not in disk.names(store):
        raise DamagedError("the manifest is missing")
    return Manifest.decode(disk.read_bytes(store / NAME))
