"""Sealed bodies that were fetched from a server, in files of their own, as many as fit.

Nothing here is ever synced: a body that is torn, damaged or gone is fetched again, because the seal tells. The newest
use counts for what goes first; of bodies that were cached by an earlier process, the file's time stands for it. Bodies
that are pinned lie in a folder of their own and stay.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from atedb.chain.disk import Buffer, RealFile
from atedb.errors import StorageError

FOLDER = "blobs"
_PINNED = "pinned"
_SHARDS = 256
_BLOCK = 4096
_MOST = 10 << 30
_SHARE = 10
_RECENT = 64 << 20
_TOUCH_AFTER = 3600


class Wanted(NamedTuple):
    """A body by its place in the chain: the batch, and the index in it."""

    sequence: int
    place: int


def default_limit(store: Path) -> int:
    """Bytes: 10 GiB, or a tenth of the disk where that is less."""
    numbers = os.statvfs(store)
    return min(_MOST, numbers.f_blocks * numbers.f_frsize // _SHARE)


class BlobCache:
    """The bodies under `folder`, which is made when the first one comes. limit: bytes on the disk, without the pinned.

    For any thread.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._used: OrderedDict[Wanted, int] | None = None  # least recently used first; None until it is needed
        self._bytes = 0
        # What has just come is kept in memory until it is asked for: it must not be evicted before.
        self._recent: OrderedDict[Wanted, bytes] = OrderedDict()
        self._recent_bytes = 0

    def get(self, wanted: Wanted, length: int, *, nowait: bool) -> Buffer | None:
        """The body, `length` bytes; None when it is not here. Raises NotResident if `nowait`."""
        found = self._recent.get(wanted)
        if found is not None:
            return found
        for path in (self._path(wanted), self._pinned(wanted)):
            if path.exists():
                with contextlib.suppress(StorageError), contextlib.closing(RealFile(path, os.O_RDONLY)) as file:
                    body = file.read_resident(length, 0) if nowait else file.read(length, 0)
                    if len(body) == length:
                        self._touch(wanted, path)
                        return body
        return None

    def has(self, wanted: Wanted) -> bool:
        """Whether there is such a body, sound or not."""
        return wanted in self._recent or self._path(wanted).exists() or self._pinned(wanted).exists()

    def put(self, wanted: Wanted, body: bytes, *, pinned: bool = False) -> None:
        """Keep a body. That the disk has no room for it is no error: it stays in memory for a while."""
        path = self._pinned(wanted) if pinned else self._path(wanted)
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{threading.get_ident():x}.tmp")
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(body)
            temporary.replace(path)
        with self._lock:
            self._recent[wanted] = body
            self._recent_bytes += len(body)
            while self._recent_bytes > _RECENT and len(self._recent) > 1:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1])
            if not pinned:
                used = self._load()
                self._bytes += _size(len(body)) - used.pop(wanted, 0)
                used[wanted] = _size(len(body))
                self._evict(used)

    def discard(self, wanted: Wanted) -> None:
        """Forget a body that is not what was fetched."""
        with self._lock:
            self._recent_bytes -= len(self._recent.pop(wanted, b""))
            self._bytes -= self._load().pop(wanted, 0)
            self._path(wanted).unlink(missing_ok=True)
            self._pinned(wanted).unlink(missing_ok=True)

    def pin(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Keep these, whatever else comes; those that are not here yet are returned, to be fetched and `put` pinned."""
        missing = []
        with self._lock:
            for one in wanted:
                if self._pinned(one).exists():
                    continue
                try:
                    self._pinned(one).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._path(one).replace(self._pinned(one))
                except OSError:
                    missing.append(one)
                self._bytes -= self._load().pop(one, 0)
        return missing

    def unpin(self, wanted: Iterable[Wanted]) -> None:
        """Let these go when there is no room."""
        with self._lock:
            used = self._load()
            for one in wanted:
                with contextlib.suppress(OSError):
                    self._path(one).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._pinned(one).replace(self._path(one))
                    used[one] = _size(self._path(one).stat().st_size)
                    self._bytes += used[one]
            self._evict(used)

    def pinned(self) -> Iterator[Wanted]:
        """All that is pinned."""
        for entry in _entries(self.folder / _PINNED):
            yield _parse(entry.name)

    @property
    def bytes(self) -> int:
        """What the bodies take on the disk, without the pinned."""
        with self._lock:
            self._load()
            return self._bytes

    def _path(self, wanted: Wanted) -> Path:
        return self.folder / f"{wanted.sequence % _SHARDS:02x}" / f"{wanted.sequence:x}-{wanted.place:x}"

    def _pinned(self, wanted: Wanted) -> Path:
        return self.folder / _PINNED / f"{wanted.sequence:x}-{wanted.place:x}"

    def _touch(self, wanted: Wanted, path: Path) -> None:
        with self._lock:
            if self._used is not None and wanted in self._used:
                self._used.move_to_end(wanted)
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _TOUCH_AFTER:
                os.utime(path)

    def _load(self) -> OrderedDict[Wanted, int]:
        """What is here, oldest first; reads the folder the first time."""
        if self._used is None:
            found = [
                (entry.stat().st_mtime, _parse(entry.name), _size(entry.stat().st_size))
                for shard in _entries(self.folder)
                if shard.name != _PINNED
                for entry in _entries(self.folder / shard.name)
            ]
            self._used = OrderedDict((wanted, size) for _, wanted, size in sorted(found))
            self._bytes = sum(self._used.values())
        return self._used

    def _evict(self, used: OrderedDict[Wanted, int]) -> None:
        while self._bytes > self.limit and used:
            wanted, size = used.popitem(last=False)
            self._bytes -= size
            self._path(wanted).unlink(missing_ok=True)


def _size(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _parse(name: str) -> Wanted:
    sequence, _, place = name.partition("-")
    return Wanted(int(sequence, 16), int(place, 16))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.endswith(".tmp")]
    except FileNotFoundError:
        return []
