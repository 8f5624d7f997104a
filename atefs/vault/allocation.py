"""Allocating room for files, and zeroing or freeing ranges of them (man 2 fallocate).

A log cannot keep room for bytes that are not written: to allocate is to ask whether there is room for them now, and to
give the file its new size.
"""

from __future__ import annotations

from collections.abc import Callable

from atedb.errors import NoSpaceError
from atefs.errors import FileTooBigError, InvalidError, IsDirectoryError, NotRegularError, QuotaError
from atefs.vault.flags import FIXED, IMMUTABLE, refusal
from atefs.vault.holes import Holes
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import FILE_MAX, OBJECT_COST
from atefs.vault.reap import Reaper
from atefs.vault.space import Space
from atefs.vault.truncation import Truncation


class Allocation:
    """Ranges of regular files: `length` bytes from `offset`. Errors as in man 2 fallocate.

    clock: for mtime and ctime; None where the kernel sees to them.
    """

    def __init__(
        self, inodes: Inodes, holes: Holes, truncation: Truncation, reaper: Reaper,
        *, space: Space, clock: Callable[[], int] | None,
    ) -> None:  # fmt: skip
        self._inodes = inodes
        self._holes = holes
        self._truncation = truncation
        self._reaper = reaper
        self._space = space
        self._clock = clock

    def punch(self, ino: int, offset: int, length: int) -> None:
        """Make them a hole, as far as the file goes."""
        inode = self._file(ino, FIXED)
        _check_range(offset, length)
        self._inodes.ready(inode)
        self._holes.punch(inode, offset, length)
        self._finish(inode, 0)

    def allocate(self, ino: int, offset: int, length: int, *, keep_size: bool) -> None:
        """See to it that there is room for them."""
        inode = self._file(ino, IMMUTABLE)
        self._prepare(inode, offset, length)
        self._finish(inode, 0 if keep_size else offset + length)

    def zero(self, ino: int, offset: int, length: int, *, keep_size: bool) -> None:
        """The same, and they read as zeros afterwards."""
        inode = self._file(ino, FIXED)
        self._prepare(inode, offset, length)
        self._holes.punch(inode, offset, length)
        self._finish(inode, 0 if keep_size else offset + length)

    def _file(self, ino: int, forbidden: int) -> Inode:
        """A regular file without the flags `forbidden`."""
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if inode.is_dir:
            raise IsDirectoryError("A directory has no content to allocate room for.")
        if not inode.is_file:
            raise NotRegularError("Only a regular file has content to allocate room for.")
        if inode.flags & forbidden:
            raise refusal(inode)
        return inode

    def _prepare(self, inode: Inode, offset: int, length: int) -> None:
        _check_range(offset, length)
        if offset + length > FILE_MAX:
            raise FileTooBigError(f"A file ends at {FILE_MAX} bytes at the latest.")
        self._check_room(inode, offset, length)
        self._inodes.ready(inode)

    def _check_room(self, inode: Inode, offset: int, length: int) -> None:
        """Counting what is there already is worth it only when there is no room for all of the range."""
        try:
            self._space.check_room(OBJECT_COST + length)
        except (NoSpaceError, QuotaError):
            end = offset + length
            held = 0
            for low, high in self._holes.runs(inode, offset):
                if low >= end:
                    break
                held += min(high, end) - low
            self._space.check_room(OBJECT_COST + length - held)

    def _finish(self, inode: Inode, size: int) -> None:
        if size > inode.size:
            self._truncation.truncate(inode, size)
        if self._clock is not None:
            inode.mtime = inode.ctime = self._clock()
        self._inodes.touch(inode)
        if inode.layout is not None and inode.layout.waits:
            self._reaper.add(inode.ino)


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length <= 0:
        raise InvalidError("A range begins in the file and has a length.")
