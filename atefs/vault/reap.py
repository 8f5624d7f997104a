"""Deferred deletion: inodes that nobody can reach any more, and regions that a truncation cut off."""

from __future__ import annotations

from collections import deque

from atefs.errors import StaleError
from atefs.vault.codec import decode_orphan, orphans_group
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.maps import Maps
from atefs.vault.objects import Objects
from atefs.vault.ranges import cut
from atefs.vault.truncation import Truncation


class Reaper:
    """Works through the orphans in bounded steps, those included that a crash left behind.

    Each step only makes state dirty; the next commit carries it. So a crash loses at most the work of a step.
    """

    def __init__(self, objects: Objects, inodes: Inodes, maps: Maps, truncation: Truncation) -> None:
        self._objects = objects
        self._inodes = inodes
        self._maps = maps
        self._truncation = truncation
        self._queue: deque[int] = deque()
        self._scanned = False

    def add(self, ino: int) -> None:
        """This inode has doomed regions."""
        self._queue.append(ino)

    def dispose(self, inode: Inode) -> None:
        """The inode has no name and no user: delete it, at once where that is small."""
        if self._truncation.dispose(inode):
            self.add(inode.ino)
        else:
            self._inodes.remove(inode)

    def reap(self, max_events: int) -> bool:
        """Delete up to about `max_events` objects (always at least one region's). True: there is more to do."""
        if not self._scanned:
            rows = self._objects.members(orphans_group(self._objects.log))
            self._queue.extend(decode_orphan(value) for value in rows.values())
            self._scanned = True
        while self._queue and max_events > 0:
            try:
                inode = self._inodes.get(self._queue[0])
            except StaleError:
                self._queue.popleft()
                continue
            max_events -= self._work_on(inode, max_events)
            if self._done(inode):
                self._queue.popleft()
        return bool(self._queue)

    def _work_on(self, inode: Inode, max_events: int) -> int:
        unused = inode.nlink == 0 and inode.ino not in self._inodes.references
        if unused and not (inode.layout is not None and inode.layout.doomed):
            before = len(self._maps.graves)
            if not self._truncation.dispose(inode):
                self._inodes.remove(inode)
            return len(self._maps.graves) - before + 1
        events = 0
        while inode.layout is not None and inode.layout.doomed and events < max_events:
            events += self._reap_region(inode, inode.layout.doomed)
        if unused and self._done(inode):
            self.dispose(inode)
        return events

    def _reap_region(self, inode: Inode, doomed: list[tuple[int, int]]) -> int:
        region = doomed[-1][1] - 1
        dead = self._maps.load(inode.ino, region)
        self._inodes.ready(inode)
        cut(doomed, region, region + 1)
        inode.blocks -= dead.sectors()
        self._inodes.touch(inode)
        return self._maps.bury_region(inode.ino, region, dead)

    def _done(self, inode: Inode) -> bool:
        return inode.layout is None or not inode.layout.doomed
