"""Attributes as the kernel reads them, packed once for each change of an inode."""

from __future__ import annotations

import os

from atefs.mount.direct.protocol import ATTR, ATTR_OUT, ENTRY, STATFS_OUT, STATX_OUT
from atefs.mount.ids import Ids
from atefs.vault.inode import Inode, StatFs
from atefs.vault.limits import PAGE

TIMEOUT = 86_400
"""Seconds that the kernel may rely on names and attributes: nobody else changes them."""
CACHE_MAX = 65_536
_SECOND = 1_000_000_000
_STATX_BASIC_AND_BTIME = 0xFFF
_VALID = ATTR_OUT.pack(TIMEOUT, 0, 0)

NOWHERE = ENTRY.pack(0, 0, TIMEOUT, 0, 0, 0) + bytes(ATTR.size)
"""The answer to a lookup of a name that is not there, which the kernel may remember."""


class Attributes:
    """Packed entries by inode number. An entry (128 bytes) ends with the attributes (88 bytes)."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._packed: dict[int, tuple[int, bytes]] = {}

    def entry(self, inode: Inode) -> bytes:
        """What LOOKUP and its like answer."""
        known = self._packed.get(inode.ino)
        if known is not None and known[0] == inode.stamp:
            return known[1]
        packed = ENTRY.pack(inode.ino, inode.generation, TIMEOUT, TIMEOUT, 0, 0) + self._attr(inode)
        if len(self._packed) >= CACHE_MAX:
            self._packed.clear()
        self._packed[inode.ino] = inode.stamp, packed
        return packed

    def attr(self, inode: Inode) -> bytes:
        """What GETATTR and SETATTR answer."""
        return _VALID + self.entry(inode)[ENTRY.size :]

    def drop(self, ino: int) -> None:
        """The kernel has forgotten the inode."""
        self._packed.pop(ino, None)

    def _attr(self, inode: Inode) -> bytes:
        access, access_ns = divmod(inode.atime, _SECOND)
        modify, modify_ns = divmod(inode.mtime, _SECOND)
        change, change_ns = divmod(inode.ctime, _SECOND)
        return ATTR.pack(
            inode.ino, inode.size, inode.blocks, access, modify, change, access_ns, modify_ns, change_ns,
            inode.mode, inode.nlink, self._ids.user(inode.uid), self._ids.group(inode.gid), inode.rdev, PAGE, 0,
        )  # fmt: skip


def statx(inode: Inode, ids: Ids) -> bytes:
    """man 2 statx, with the birth time."""
    times = [
        part
        for time in (inode.atime, inode.btime, inode.ctime, inode.mtime)
        for part in (time // _SECOND, time % _SECOND, 0)
    ]
    return STATX_OUT.pack(
        TIMEOUT, 0, 0, 0, 0,
        _STATX_BASIC_AND_BTIME, PAGE, 0, inode.nlink, ids.user(inode.uid), ids.group(inode.gid), inode.mode, 0,
        inode.ino, inode.size, inode.blocks, 0, *times, os.major(inode.rdev), os.minor(inode.rdev), 0, 0,
    )  # fmt: skip


def statfs(now: StatFs) -> bytes:
    """man 3 statvfs."""
    return STATFS_OUT.pack(
        now.total, now.free, now.available, now.files, now.files_free, now.bsize, now.namemax, now.bsize, 0
    )
