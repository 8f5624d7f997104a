"""Files as the chain sees them: a small surface, so that tests can hand in a disk that fails.

Everything a chain does to stable storage, but for the view's LMDB file, goes through a `Disk`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from atedb.errors import AteError, NoSpaceError, NotResident, ReadOnlyError, StorageError

Buffer = bytes | bytearray | memoryview

_MAX_VECTORS = 1024
_READ_AHEAD = 512 << 10


class File(Protocol):
    """An open file. Offsets and lengths are bytes."""

    def read(self, length: int, offset: int) -> bytearray:
        """Up to `length` bytes; shorter at the end of the file."""

    def read_resident(self, length: int, offset: int) -> bytearray:
        """As `read`, but raises NotResident rather than wait for the device."""

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        """All of `buffers`, one after the other, from `offset`."""

    def push(self, offset: int, length: int) -> None:
        """Have the device begin to write the range, and forget the pages of it that are written already.

        Promises nothing, but may wait for room in the device's queue.
        """

    def truncate(self, length: int) -> None:
        """Set the file's length."""

    def sync(self) -> None:
        """Return once the file's bytes and length are on stable storage."""

    def size(self) -> int:
        """The file's length."""

    def close(self) -> None:
        """Release the descriptor."""


class ThroughFile(Protocol):
    """A file whose writes are on stable storage when they return. Its length stays as it is."""

    def write(self, data: memoryview, offset: int) -> None:
        """All of `data`. Its length, its place in memory and `offset` are multiples of 4096. Raises StorageError."""

    def close(self) -> None:
        """Release the descriptor."""


class Disk(Protocol):
    """A folder tree on storage."""

    def create(self, path: Path) -> File:
        """A new, empty file open for reading and writing; an existing one is an error."""

    def open(self, path: Path, *, writable: bool = False) -> File:
        """An existing file."""

    def open_through(self, path: Path) -> ThroughFile:
        """An existing file, to be written past the page cache."""

    def read_bytes(self, path: Path) -> bytes:
        """A whole small file."""

    def replace(self, path: Path, data: bytes) -> None:
        """Make `path` hold `data`, durably and all at once: either the old bytes are there or the new."""

    def unlink(self, path: Path) -> None:
        """Remove a file; a missing one is no error."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted."""

    def make_folder(self, path: Path) -> None:
        """Create a folder (0700) and make its name durable; an existing one is no error."""

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable."""

    def free_bytes(self, path: Path) -> int:
        """What an unprivileged writer may still put on the disk that holds `path`."""


def translated(error: OSError, what: str) -> Exception:
    """The error of our tree for a failed system call; `what` says what was being done."""
    detail = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"the store's disk is full ({what}); what was acknowledged is kept; free some space")
    if error.errno == errno.EROFS:
        return ReadOnlyError(f"the store's disk is read-only ({what}); nothing was changed; mount with --read-only")
    return StorageError(f"{what} failed: {detail}; what was acknowledged is kept; check the disk")


class RealFile:
    """A file of the operating system. Closed by `close`, or when the last who may still read from it lets go of it."""

    _fd = -1

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translated(error, f"opening {path}") from error

    def read(self, length: int, offset: int) -> bytearray:
        buffer = bytearray(length)
        try:
            done = os.preadv(self._fd, [buffer], offset)
            while 0 < done < length:
                more = os.preadv(self._fd, [memoryview(buffer)[done:]], offset + done)
                if not more:
                    break
                done += more
        except OSError as error:
            raise translated(error, f"reading {self.path}") from error
        return buffer if done == length else buffer[:done]

    def read_resident(self, length: int, offset: int) -> bytearray:
        buffer = bytearray(length)
        try:
            done = os.preadv(self._fd, [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            done = -1
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # tmpfs and some others: always in memory, or no telling
                return self.read(length, offset)
            raise translated(error, f"reading {self.path}") from error
        if done == length or offset + length > self.size():
            return buffer if done == length else self.read(length, offset)
        raise NotResident(lambda: self._bring_in(offset, length))

    def push(self, offset: int, length: int) -> None:
        # Of dirty pages this begins the writing; only those that are clean already are dropped (mm/fadvise.c).
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def _bring_in(self, offset: int, length: int) -> None:
        """Read a window around the range: what was written together is mostly read together."""
        start = offset - offset % _READ_AHEAD
        with contextlib.suppress(AteError):  # the caller tries again, and is told then
            self.read(max(_READ_AHEAD, offset + length - start), start)

    def write(self, buffers: Sequence[Buffer], offset: int) -> None:
        try:
            for i in range(0, len(buffers), _MAX_VECTORS):
                offset = self._write_vectors(buffers[i : i + _MAX_VECTORS], offset)
        except OSError as error:
            raise translated(error, f"writing {self.path}") from error

    def _write_vectors(self, buffers: Sequence[Buffer], offset: int) -> int:
        done = os.pwritev(self._fd, buffers, offset)
        total = sum(len(b) for b in buffers)
        if done < total:  # a short write: the rest piece by piece, so that the reason comes out as an error
            rest = memoryview(b"".join(buffers))
            while done < total:
                done += os.pwrite(self._fd, rest[done:], offset + done)
        return offset + total

    def truncate(self, length: int) -> None:
        try:
            os.ftruncate(self._fd, length)
        except OSError as error:
            raise translated(error, f"truncating {self.path}") from error

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise translated(error, f"syncing {self.path}") from error

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        opened, self._fd = self._fd, -1  # its number may be another file's from here on
        if opened >= 0:
            os.close(opened)

    __del__ = close


class RealThroughFile:
    """Past the page cache to the device at once: one wait, where a write and a barrier are two (man 2 open, O_DIRECT).

    Where the filesystem cannot do that, the two.
    """

    def __init__(self, path: Path) -> None:
        self._file = RealFile(path, os.O_WRONLY)
        self._direct: RealFile | None = None
        with contextlib.suppress(StorageError):
            self._direct = RealFile(path, os.O_WRONLY | os.O_DIRECT)

    def write(self, data: memoryview, offset: int) -> None:
        if self._direct is not None:
            try:
                if os.pwritev(self._direct._fd, [data], offset, os.RWF_DSYNC) == len(data):
                    return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise translated(error, f"writing {self._file.path}") from error
        self._file.write([data], offset)
        self._file.sync()

    def close(self) -> None:
        self._file.close()
        if self._direct is not None:
            self._direct.close()


class RealDisk:
    """The operating system's filesystem."""

    def create(self, path: Path) -> File:
        return RealFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, path: Path, *, writable: bool = False) -> File:
        return RealFile(path, os.O_RDWR if writable else os.O_RDONLY)

    def open_through(self, path: Path) -> ThroughFile:
        return RealThroughFile(path)

    def read_bytes(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise translated(error, f"reading {path}") from error

    def replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        self.unlink(temporary)
        file = self.create(temporary)
        try:
            file.write([data], 0)
            file.sync()
        finally:
            file.close()
        self._rename(temporary, path)
        self.sync_folder(path.parent)

    def _rename(self, old: Path, new: Path) -> None:
        try:
            os.replace(old, new)
        except OSError as error:
            raise translated(error, f"replacing {new}") from error

    def unlink(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise translated(error, f"removing {path}") from error

    def names(self, folder: Path) -> list[str]:
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            raise translated(error, f"listing {folder}") from error

    def make_folder(self, path: Path) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise translated(error, f"making the folder {path}") from error
        self.sync_folder(path.parent)

    def sync_folder(self, folder: Path) -> None:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise translated(error, f"syncing the folder {folder}") from error

    def free_bytes(self, path: Path) -> int:
        numbers = os.statvfs(path)
        return numbers.f_bavail * numbers.f_frsize
