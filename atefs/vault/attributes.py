"""Changing what man 7 inode lists: mode, owner, size and times."""

from __future__ import annotations

from collections.abc import Callable

from atefs.errors import FileTooBigError, InvalidError, IsDirectoryError
from atefs.vault import acl, flags
from atefs.vault.inode import Attributes, Caller, Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import FILE_MAX, OBJECT_COST, TIME_MAX, TIME_MIN
from atefs.vault.ownership import without_set_ids
from atefs.vault.reap import Reaper
from atefs.vault.space import Space
from atefs.vault.truncation import Truncation


class AttributeChanges:
    """setattr, as chmod, chown, truncate and utimensat need it."""

    def __init__(
        self, inodes: Inodes, truncation: Truncation, reaper: Reaper, space: Space, clock: Callable[[], int],
        *, kernel_times: bool,
    ) -> None:  # fmt: skip
        self._inodes = inodes
        self._truncation = truncation
        self._reaper = reaper
        self._space = space
        self._clock = clock
        self._kernel_times = kernel_times

    def change(self, ino: int, wanted: Attributes, caller: Caller | None) -> Inode:
        """Raises IsDirectoryError or InvalidError for a size where there is none, FileTooBigError, DamagedError, and
        NotPermittedError where the inode's flags forbid it.

        A file that is to grow needs room for its inode: NoSpaceError, QuotaError.
        """
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if inode.flags & flags.FIXED:
            _check_flags(inode, wanted)
        if wanted.size is not None:
            _check_size(inode, wanted.size)
            if wanted.size > inode.size:
                self._space.check_room(OBJECT_COST)
        access = acl.held(inode, acl.ACCESS) if wanted.mode is not None and inode.xattrs is not None else None
        self._inodes.ready(inode)
        now = self._clock()
        if wanted.size is None or not self._kernel_times:
            inode.ctime = now
        if wanted.size is not None:
            if not self._kernel_times:
                inode.mtime = now
            self._truncation.truncate(inode, wanted.size)
            if inode.layout is not None and inode.layout.waits:
                self._reaper.add(ino)
            if caller is not None and caller.uid:
                inode.mode = without_set_ids(inode.mode)
        _change_owner_and_mode(inode, wanted)
        if access is not None:
            self._inodes.put_xattrs(inode, {**(inode.xattrs or {}), acl.ACCESS: access.chmod(inode.mode).encode()})
        _change_times(inode, wanted)
        self._inodes.touch(inode)
        return inode


def _check_flags(inode: Inode, wanted: Attributes) -> None:
    """Times may change while a file grows: the kernel hands over those of what it has appended by setattr as well."""
    if inode.flags & flags.IMMUTABLE or any(field is not None for field in wanted[:4]):
        raise flags.refusal(inode)


def _check_size(inode: Inode, size: int) -> None:
    if inode.is_dir:
        raise IsDirectoryError("A directory cannot be truncated.")
    if not inode.is_file or size < 0:
        raise InvalidError("Only a regular file has a size that can be set, from 0 on.")
    if size > FILE_MAX:
        raise FileTooBigError(f"A file ends at {FILE_MAX} bytes at the latest.")


def _change_owner_and_mode(inode: Inode, wanted: Attributes) -> None:
    if wanted.mode is not None:
        inode.mode = inode.mode & ~0o7777 | wanted.mode & 0o7777
    elif (wanted.uid is not None or wanted.gid is not None) and not inode.is_dir:
        inode.mode = without_set_ids(inode.mode)
    if wanted.uid is not None:
        inode.uid = wanted.uid
    if wanted.gid is not None:
        inode.gid = wanted.gid


def _change_times(inode: Inode, wanted: Attributes) -> None:
    """Times outside what 64 bits of nanoseconds hold (1677 to 2262) become the nearest that fits."""
    if wanted.atime is not None:
        inode.atime = min(max(wanted.atime, TIME_MIN), TIME_MAX)
    if wanted.mtime is not None:
        inode.mtime = min(max(wanted.mtime, TIME_MIN), TIME_MAX)
    if wanted.ctime is not None:
        inode.ctime = min(max(wanted.ctime, TIME_MIN), TIME_MAX)
