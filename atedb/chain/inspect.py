"""What can be said of a store without its secrets and without its lock."""

from __future__ import annotations

from pathlib import Path

import msgspec

from atedb.chain import view
from atedb.chain.disk import RealDisk
from atedb.chain.header import load_header
from atedb.chain.lock import holder
from atedb.chain.log import segment_path
from atedb.chain.manifest import load_manifest
from atedb.chain.walk import segment_numbers
from atedb.errors import DamagedError, StorageError


class StoreInfo(msgspec.Struct):
    """suite, hash, signature: algorithms. created: ns since the epoch. segments, bytes: of the log on disk.

    sealed_sequence: the newest batch in the segments that are full, by the manifest; None when it is damaged. in_use:
    by whom. view_bytes: what the view takes on disk.
    """

    store: str
    format: int
    chain: str
    suite: str
    hash: str
    signature: str
    created: int
    segments: int
    bytes: int
    sealed_sequence: int | None
    in_use: str | None
    view_bytes: int


def read_info(store: Path) -> StoreInfo:
    """What the files of the store say. Raises StoreNotFoundError, DamagedError, UnsupportedError, StorageError."""
    disk = RealDisk()
    header = load_header(disk, store)
    numbers = segment_numbers(disk, store)
    try:
        sealed = load_manifest(disk, store).sealed
        newest = sealed[-1].last if sealed else 0
    except (DamagedError, StorageError):
        newest = None
    return StoreInfo(
        store=str(store),
        format=header.format,
        chain=header.chain_id.hex(),
        suite=header.suite,
        hash=header.hash,
        signature=header.signature,
        created=header.created,
        segments=len(numbers),
        bytes=sum(_size(segment_path(store, n)) for n in numbers),
        sealed_sequence=newest,
        in_use=holder(store),
        view_bytes=sum(_size(path) for path in (store / view.FOLDER).glob("*")),
    )


def _size(path: Path) -> int:
    """A file's length; 0 when it has gone meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
