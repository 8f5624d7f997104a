"""Access times, by the rules of man 8 mount: relatime, strictatime, noatime, nodiratime."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from atedb.errors import NoSpaceError, ReadOnlyError
from atefs.errors import QuotaError
from atefs.vault.flags import NOATIME
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import INLINE_MAX, OBJECT_COST
from atefs.vault.space import Space

DAY = 86_400 * 10**9
"""Nanoseconds after which relatime takes note of an access in any case."""
TICK = 10 * 10**6
"""Nanoseconds by which kernels stamp apart what happens at once: their clock for that goes in steps of 1 to 10 ms."""


class AtimeRule(Enum):
    """When an access is noted."""

    RELATIME = "relatime"
    """If none was since the last change, or for a day."""
    STRICTATIME = "strictatime"
    """Always."""
    NOATIME = "noatime"
    """Never."""


class AtimePolicy(NamedTuple):
    """The rules of a mount; files: for all but directories."""

    files: AtimeRule = AtimeRule.RELATIME
    directories: AtimeRule = AtimeRule.RELATIME


class AccessTimes:
    """Notes that something was read."""

    def __init__(self, inodes: Inodes, space: Space, clock: Callable[[], int], policy: AtimePolicy) -> None:
        self._inodes = inodes
        self._space = space
        self._clock = clock
        self._files, self._directories = policy

    def note(self, ino: int) -> bool:
        """Let the access time be now, if the rule asks for that. True: it has changed.

        An access time is never worth an error: where nothing may be written or there is no room, it stays.
        """
        inode = self._inodes.get(ino)
        rule = self._directories if inode.is_dir else self._files
        if rule is AtimeRule.NOATIME or inode.flags & NOATIME:
            return False
        now = self._clock()
        if rule is AtimeRule.RELATIME and not _is_due(inode, now):
            return False
        try:
            self._space.check_writable()
            self._space.check_room(OBJECT_COST + INLINE_MAX)
        except (ReadOnlyError, NoSpaceError, QuotaError):
            return False
        self._inodes.ready(inode)
        inode.atime = now
        self._inodes.touch(inode)
        return True


def _is_due(inode: Inode, now: int) -> bool:
    """relatime: the last access is not newer than the last change, or a day old."""
    seen = inode.atime - TICK
    return seen < inode.mtime or seen < inode.ctime or now - inode.atime >= DAY
