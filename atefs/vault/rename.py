"""Renaming (man 2 rename, renameat2): one step, whatever was there before."""

from __future__ import annotations

import stat
from collections.abc import Callable

from atefs.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    TooManyLinksError,
)
from atefs.vault import limits
from atefs.vault.directory import Directories, check_name
from atefs.vault.flags import FIXED, refusal
from atefs.vault.inode import Caller, Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import ROOT_INO
from atefs.vault.namespace import Namespace

NOREPLACE = 1
EXCHANGE = 2
WHITEOUT = 4
"""What overlayfs needs: the old name becomes that of a character device 0:0, by which it knows what was taken away."""


class Renaming:
    """Moves names between directories."""

    def __init__(
        self, namespace: Namespace, inodes: Inodes, directories: Directories, clock: Callable[[], int]
    ) -> None:
        self._namespace = namespace
        self._inodes = inodes
        self._directories = directories
        self._clock = clock

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, caller: Caller
    ) -> None:  # fmt: skip
        """flags: 0, NOREPLACE or EXCHANGE; the first two with WHITEOUT or without. Errors as in man 2 rename."""
        whiteout, flags = flags & WHITEOUT, flags & ~WHITEOUT
        if flags not in {0, NOREPLACE, EXCHANGE} or (whiteout and flags == EXCHANGE):
            raise InvalidError("rename takes one of NOREPLACE and EXCHANGE, and WHITEOUT with the first only.")
        source = self._namespace.directory_for_change(parent)
        target = source if new_parent == parent else self._namespace.directory_for_change(new_parent)
        check_name(name)
        check_name(new_name)
        entry, other = self._directories.lookup(parent, name), self._directories.lookup(new_parent, new_name)
        if not entry or (flags == EXCHANGE and not other):
            raise NotFoundError("There is no entry of that name.")
        if flags == NOREPLACE and other:
            raise ExistsError("There is an entry of the new name already.")
        inode = self._inodes.get(entry >> 4)
        self._check_not_inside(inode, source, target)
        if entry >> 4 == other >> 4:
            return
        replaced = self._inodes.get(other >> 4) if other else None
        if (source.flags | inode.flags) & FIXED:
            raise refusal(source, inode)
        if replaced is not None and (target.flags | replaced.flags) & FIXED:
            raise refusal(target, replaced)
        if whiteout:
            self._namespace.check_room_for_one()
        if flags == EXCHANGE:
            assert replaced is not None
            self._exchange((source, name, inode, entry), (target, new_name, replaced, other))
        else:
            self._move((source, name, inode, entry), (target, new_name, replaced, other))
        if whiteout:
            self._namespace.make(parent, name, stat.S_IFCHR, 0, caller)

    def _move(self, old: tuple[Inode, bytes, Inode, int], new: tuple[Inode, bytes, Inode | None, int]) -> None:
        source, name, inode, entry = old
        target, new_name, replaced, other = new
        moves_dir = inode.is_dir and source is not target
        if replaced is not None:
            _check_replaceable(inode, replaced)
            self._namespace.ready_to_drop(replaced)
        if moves_dir and replaced is None and target.nlink >= limits.LINK_MAX:
            raise TooManyLinksError(f"A directory can have {limits.LINK_MAX} links.")
        self._inodes.ready(inode)
        now = self._clock()
        self._directories.put(target.ino, new_name, inode, other)
        self._directories.remove(source.ino, name, entry)
        source.size -= 1
        source.nlink -= inode.is_dir
        target.size += replaced is None
        target.nlink += inode.is_dir - (replaced is not None and replaced.is_dir)
        self._moved(inode, target, now)
        self._namespace.stamp_directory(source, now)
        self._namespace.stamp_directory(target, now)
        if replaced is not None:
            self._namespace.drop_link(replaced, now)

    def _exchange(self, one: tuple[Inode, bytes, Inode, int], two: tuple[Inode, bytes, Inode, int]) -> None:
        source, name, inode, entry = one
        target, new_name, replaced, other = two
        self._check_not_inside(replaced, target, source)
        shift = (inode.is_dir - replaced.is_dir) if source is not target else 0
        if (shift and target.nlink + shift > limits.LINK_MAX) or source.nlink - shift > limits.LINK_MAX:
            raise TooManyLinksError(f"A directory can have {limits.LINK_MAX} links.")
        self._inodes.ready(inode)
        self._inodes.ready(replaced)
        now = self._clock()
        self._directories.put(target.ino, new_name, inode, other)
        self._directories.put(source.ino, name, replaced, entry)
        source.nlink -= shift
        target.nlink += shift
        self._moved(inode, target, now)
        self._moved(replaced, source, now)
        self._namespace.stamp_directory(source, now)
        self._namespace.stamp_directory(target, now)

    def _moved(self, inode: Inode, directory: Inode, now: int) -> None:
        if inode.is_dir:
            inode.parent = directory.ino
        inode.ctime = now
        self._inodes.touch(inode)

    def _check_not_inside(self, inode: Inode, source: Inode, target: Inode) -> None:
        """A directory cannot move into itself or below."""
        if not inode.is_dir or source is target:
            return
        at = target
        while at.ino != inode.ino:
            if at.ino == ROOT_INO:
                return
            at = self._inodes.get(at.parent)
        raise InvalidError("A directory cannot be moved into itself.")


def _check_replaceable(inode: Inode, replaced: Inode) -> None:
    if replaced.is_dir:
        if not inode.is_dir:
            raise IsDirectoryError("A directory is in the way.")
        if replaced.size:
            raise NotEmptyError("The directory in the way still has entries.")
    elif inode.is_dir:
        raise NotDirectoryError("Something that is not a directory is in the way.")
