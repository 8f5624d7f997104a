"""Inode flags (man 2 ioctl_iflags, man 1 chattr), of which immutable and append-only bind everybody, root included.

The kernel asks who may set them, and does not know them otherwise: it is the vault that refuses what they forbid. What
an operation needs to know is one test of an integer: `inode.flags & FIXED`, and `refusal` is the error to raise.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from atefs.errors import NotPermittedError, NotSupportedError
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.space import Space

IMMUTABLE = 0x10
"""Nothing about the inode changes: content, attributes, names."""
APPEND = 0x20
"""A file gets longer, a directory gets more entries, and nothing else changes."""
NODUMP = 0x40
NOATIME = 0x80
FIXED = IMMUTABLE | APPEND
INHERITED = NODUMP | NOATIME
"""What a new inode takes from its directory, as on ext4."""
_KNOWN = FIXED | NODUMP | NOATIME


class Flags:
    """Getting and setting them, of files and directories.

    kernel_times: as for `Vault`. A kernel with a write-back cache does not ask for a file's change time again: one that
    it does not know of would come to light at the next mount only, as a change that nobody made then.
    """

    def __init__(self, inodes: Inodes, space: Space, clock: Callable[[], int], *, kernel_times: bool) -> None:
        self._inodes = inodes
        self._space = space
        self._clock = clock
        self._kernel_times = kernel_times

    def get(self, ino: int) -> int:
        return _bearer(self._inodes.get(ino)).flags

    def set(self, ino: int, flags: int) -> Inode:
        """flags: all that are to be set from now on. An immutable inode that stays so keeps the others as well."""
        self._space.check_writable()
        inode = _bearer(self._inodes.get(ino))
        if flags & ~_KNOWN:
            raise NotSupportedError("Of the inode flags there are immutable, append-only, no dump and no access time.")
        if inode.flags & flags & IMMUTABLE and inode.flags != flags:
            raise refusal(inode)
        self._inodes.ready(inode)
        inode.flags = flags
        if inode.is_dir or not self._kernel_times:
            inode.ctime = self._clock()
        self._inodes.touch(inode)
        return inode


def refusal(*inodes: Inode) -> NotPermittedError:
    """The error for what the flags of one of these forbid."""
    inode = next(inode for inode in inodes if inode.flags & FIXED)
    kind = "immutable" if inode.flags & IMMUTABLE else "append-only"
    return NotPermittedError(f"Inode {inode.ino} is {kind} (chattr); nothing was changed.")


def check_open(inode: Inode, how: int) -> None:
    """Raises NotPermittedError for a way of opening that the inode's flags forbid. how: the flags of man 2 open."""
    if inode.flags & FIXED and how & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
        adds_only = how & os.O_APPEND and not how & os.O_TRUNC
        if inode.flags & IMMUTABLE or not adds_only:
            raise refusal(inode)


def _bearer(inode: Inode) -> Inode:
    if not (inode.is_file or inode.is_dir):
        raise NotSupportedError("Only files and directories have flags.")
    return inode
