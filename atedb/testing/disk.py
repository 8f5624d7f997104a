"""A disk that loses power: what was not synced may be dropped, torn or reordered.

Files really lie in a folder, so that whatever bypasses `Disk` (LMDB) sees them; beside them the disk remembers what is
on stable storage and what is not. At the chosen step it cuts the power; `survivors` then writes out one of the states
in which the folder may come back.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from atedb.chain.disk import Buffer, RealDisk, RealFile, translated

SECTOR = 512


class PowerCut(BaseException):
    """The power is gone; nothing reaches the disk from here on."""


class _Inode:
    """One file: what of it is stable, and the writes since, each (offset, data), or (length, None) for a truncation."""

    def __init__(self) -> None:
        self.stable = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        """All that was written is stable."""
        for at, data in self.pending:
            if data is None:
                _resize(self.stable, at)
            else:
                _overwrite(self.stable, at, data)
        self.pending.clear()

    def survive(self, rng: random.Random) -> bytes:
        """A content that may be found after a power cut: any subset of the pending writes, in any order, torn."""
        content = bytearray(self.stable)
        kept = [op for op in self.pending if rng.random() < 0.6]
        rng.shuffle(kept)
        for at, data in kept:
            if data is None:
                _resize(content, at)
                continue
            for start, piece in _sectors(at, data):
                if rng.random() < 0.8:
                    _overwrite(content, start, piece)
        return bytes(content)


def _sectors(at: int, data: bytes) -> list[tuple[int, bytes]]:
    pieces = []
    start = 0
    while start < len(data):
        stop = min(len(data), start + SECTOR - (at + start) % SECTOR)
        pieces.append((at + start, data[start:stop]))
        start = stop
    return pieces


def _resize(content: bytearray, length: int) -> None:
    del content[length:]
    content.extend(bytes(length - len(content)))


def _overwrite(content: bytearray, at: int, data: bytes) -> None:
    if len(content) < at + len(data):
        _resize(content, at + len(data))
    content[at : at + len(data)] = data


class FaultyFile(RealFile):
    """A file of a FaultyDisk."""

    def __init__(self, disk: FaultyDisk, inode: _Inode, path: Path, flags: int) -> None:
        super().__init__(path, flags)
        self._disk = disk
        self._inode = inode

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        cut = self._disk.step("write")
        self._take(b"".join(buffers), offset)
        self._disk.after(cut)

    def write_through(self, data: bytes, offset: int) -> None:
        """As `write`, and stable when it returns; before that, torn like any other."""
        cut = self._disk.step("write through")
        self._take(data, offset)
        if not self._disk.lies and not cut:
            self._inode.sync()
        self._disk.after(cut)

    def _take(self, data: bytes, offset: int) -> None:
        self._inode.pending.append((offset, data))
        super().write([data], offset)

    def truncate(self, length: int) -> None:
        cut = self._disk.step("truncate")
        self._inode.pending.append((length, None))
        super().truncate(length)
        self._disk.after(cut)

    def sync(self) -> None:
        cut = self._disk.step("sync")
        if not self._disk.lies and not cut:
            self._inode.sync()
        self._disk.after(cut)


class FaultyThroughFile:
    """A file of a FaultyDisk that is written past the page cache."""

    def __init__(self, file: FaultyFile) -> None:
        self._file = file

    def write(self, data: memoryview, offset: int) -> None:
        self._file.write_through(bytes(data), offset)

    def close(self) -> None:
        self._file.close()


class FaultyDisk(RealDisk):
    """A `Disk` over the folder `root`.

    cut_at: the step (1, 2, …) at which the power goes; the step itself may or may not take effect. fail_at, failure:
    the step that fails with this errno instead. lies: syncs do nothing, as on a disk that acknowledges too early.
    on_cut: called when the power goes.
    """

    on_cut: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, root: Path, *, cut_at: int = 0, fail_at: int = 0, failure: int = errno.EIO, lies: bool = False
    ) -> None:
        self.root = root
        self.cut_at = cut_at
        self.fail_at = fail_at
        self.failure = failure
        self.lies = lies
        self.steps = 0
        self.trace: list[str] = []
        self._dead = False
        self._live: dict[Path, _Inode] = {}
        self._stable: dict[Path, _Inode] = {}
        self._names: dict[Path, list[tuple[str, Path, Path | None, _Inode | None]]] = {}

    def step(self, what: str) -> bool:
        """Count one step; True when the power goes during it."""
        if self._dead:
            raise PowerCut
        self.steps += 1
        self.trace.append(what)
        if self.steps == self.fail_at:
            raise translated(OSError(self.failure, os.strerror(self.failure)), what)
        return self.steps == self.cut_at

    def after(self, cut: bool) -> None:
        """End a step."""
        if cut:
            self.cut()
            raise PowerCut

    def cut(self) -> None:
        """The power goes now, or the process that uses the disk is killed."""
        self._dead = True
        self.on_cut()

    @property
    def dead(self) -> bool:
        """Whether nothing reaches it any more."""
        return self._dead

    def revive(self) -> None:
        """The process was killed and another one begins: what was written is there, synced or not."""
        self._dead = False
        self.cut_at = 0

    def create(self, path: Path) -> FaultyFile:
        cut = self.step("create")
        inode = self._live[path] = _Inode()
        self._names.setdefault(path.parent, []).append(("link", path, None, inode))
        file = FaultyFile(self, inode, path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.after(cut)
        return file

    def open(self, path: Path, *, writable: bool = False) -> FaultyFile:
        self._adopt(path)
        inode = self._live.get(path) or _Inode()
        return FaultyFile(self, inode, path, os.O_RDWR if writable else os.O_RDONLY)

    def open_through(self, path: Path) -> FaultyThroughFile:
        return FaultyThroughFile(self.open(path, writable=True))

    def _adopt(self, path: Path) -> None:
        """A file that was there before this disk was is stable as it lies."""
        if path not in self._live and path.exists():
            inode = self._live[path] = self._stable[path] = _Inode()
            inode.stable = bytearray(path.read_bytes())

    def _rename(self, old: Path, new: Path) -> None:
        cut = self.step("rename")
        self._adopt(new)
        inode = self._live.pop(old)
        self._live[new] = inode
        self._names.setdefault(new.parent, []).append(("rename", old, new, inode))
        super()._rename(old, new)
        self.after(cut)

    def unlink(self, path: Path) -> None:
        if not path.exists():
            return
        cut = self.step("unlink")
        self._adopt(path)
        self._live.pop(path, None)
        self._names.setdefault(path.parent, []).append(("unlink", path, None, None))
        path.unlink()
        self.after(cut)

    def sync_folder(self, folder: Path) -> None:
        cut = self.step("sync folder")
        if not self.lies and not cut:
            _play(self._stable, self._names.pop(folder, []))
        self.after(cut)

    def survivors(self, target: Path, rng: random.Random) -> None:
        """Write one state that the folder may come back in into the empty folder `target`."""
        names = dict(self._stable)
        for operations in self._names.values():
            # A journal keeps the order of the operations on names: some first part of them has happened.
            _play(names, operations[: rng.randint(0, len(operations))])
        for folder in [self.root, *(p for p in self.root.rglob("*") if p.is_dir())]:
            (target / folder.relative_to(self.root)).mkdir(parents=True, exist_ok=True)
        for path in self.root.rglob("*"):
            if path.is_file() and path not in self._live and path not in self._stable and not self._named(path):
                shutil.copy2(path, target / path.relative_to(self.root))
        for path, inode in names.items():
            (target / path.relative_to(self.root)).write_bytes(inode.survive(rng))

    def _named(self, path: Path) -> bool:
        return any(path in (src, dst) for operations in self._names.values() for _, src, dst, _ in operations)


def _play(names: dict[Path, _Inode], operations: list[tuple[str, Path, Path | None, _Inode | None]]) -> None:
    for what, path, target, inode in operations:
        if what == "link" and inode is not None:
            names[path] = inode
        elif what == "rename" and target is not None and inode is not None:
            names.pop(path, None)
            names[target] = inode
        elif what == "unlink":
            names.pop(path, None)
