"""Deferred deletion: inodes nobody can reach any more, regions a truncation cut off, shared content nobody uses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from atefs.errors import StaleError
from atefs.vault.codec import decode_orphan, orphans_group
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import Layout
from atefs.vault.limits import KEPT_FOR, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.objects import Objects
from atefs.vault.ranges import cut
from atefs.vault.shared import Shared
from atefs.vault.shares import Users, unused
from atefs.vault.truncation import Truncation


class Reaper:
    """Works through the orphans in bounded steps, those included that a crash left behind.

    Each step only makes state dirty; the next commit carries it. So a crash loses at most the work of a step.
    """

    def __init__(
        self, objects: Objects, inodes: Inodes, maps: Maps, shared: Shared, truncation: Truncation,
        *, keeper: int, clock: Callable[[], int],
    ) -> None:  # fmt: skip
        """keeper: this device, as in `Inode.keeper`. clock: nanoseconds since 1970."""
        self._keeper = keeper
        self._clock = clock
        self._objects = objects
        self._inodes = inodes
        self._maps = maps
        self._shared = shared
        self._truncation = truncation
        self._queue: deque[int] = deque()
        self._scanned = False
        self._told: Callable[[], None] = lambda: None

    def when_left(self, told: Callable[[], None]) -> None:
        """Have `told` called whenever something is left for `reap`. It must not call the vault."""
        self._told = self._shared.told = told

    def look_again(self) -> None:
        """The set of orphans may have got some that were not made here."""
        self._scanned = False
        self._told()

    def add(self, ino: int) -> None:
        """This inode has doomed regions."""
        self._queue.append(ino)
        self._told()

    def dispose(self, inode: Inode) -> None:
        """The inode has no name and no user: delete it, at once where that is small."""
        if self._truncation.dispose(inode):
            self.add(inode.ino)
        else:
            self._inodes.remove(inode)

    def let_go(self, inode: Inode) -> None:
        """`dispose`, where no request changes anything: so that it is committed, the one who calls `reap` is told."""
        self.dispose(inode)
        self._told()

    def reap(self, max_events: int, shrunk: Callable[[int], None]) -> bool:
        """Delete up to about `max_events` objects (always at least one region's). True: there is more to do.

        shrunk: called with the number of each inode that takes less room now and has a name still.
        """
        if not self._scanned:
            rows = self._objects.members(orphans_group(self._objects.log))
            self._queue.extend(decode_orphan(value) for value in rows.values())
            self._scanned = True
        while self._take_freed() and max_events > 0:
            try:
                inode = self._inodes.get(self._queue[0])
            except StaleError:
                self._queue.popleft()
                continue
            if self._kept_elsewhere(inode):
                self._queue.popleft()
                continue
            blocks = inode.blocks
            max_events -= self._work_on(inode, max_events)
            if inode.blocks != blocks and inode.nlink:
                shrunk(inode.ino)
            if self._done(inode):
                self._queue.popleft()
        return self._take_freed()

    def _take_freed(self) -> bool:
        """Is there anything in the queue, with what has become free meanwhile?"""
        if self._shared.freed:
            self._queue.extend(self._shared.freed)
            self._shared.freed.clear()
        return bool(self._queue)

    def _kept_elsewhere(self, inode: Inode) -> bool:
        """Has another device it open still? One that is not heard of any more gets a while to come back."""
        if inode.nlink or inode.keeper in {0, self._keeper}:
            return False
        return self._clock() - inode.ctime < KEPT_FOR

    def _work_on(self, inode: Inode, max_events: int) -> int:
        layout = inode.layout
        before = len(self._maps.graves)
        if layout is not None and layout.users is not None:
            unreachable = self._drop_unused(inode, layout, layout.users)
        else:
            unreachable = inode.nlink == 0 and inode.ino not in self._inodes.references
            if unreachable and (layout is None or not layout.doomed or layout.borrows()):
                self._dispose(inode, layout)
                return len(self._maps.graves) - before + 1
        events = len(self._maps.graves) - before
        while layout is not None and layout.waits and events < max_events:
            events += self._return_region(inode, layout) if layout.cut else self._reap_region(inode, layout)
        if unreachable and self._done(inode):
            self._dispose(inode, layout)
        return max(events, 1)

    def _dispose(self, inode: Inode, layout: Layout | None) -> None:
        """All of an inode that nobody uses: at once, but for regions that go one by one."""
        if layout is not None:
            self._shared.hold_bases([*layout.bases, *layout.cut])
            self._truncation.hold(layout)
        if not self._truncation.dispose(inode, held=True):
            self._inodes.remove(inode)

    def _drop_unused(self, inode: Inode, layout: Layout, users: Users) -> bool:
        """Regions of shared content that nobody uses are content no longer. True: that goes for all of it."""
        regions = unused(layout.own(), users)
        for start, end in regions:
            first, last = start * REGION_BLOCKS, end * REGION_BLOCKS
            maps = self._truncation.edge_maps(inode, first, last)
            self._truncation.drop_blocks(inode, first, last, maps)
        if regions:
            self._inodes.touch(inode)
        return not users

    def _return_region(self, inode: Inode, layout: Layout) -> int:
        """Give back a region that was one of shared content; what it counted in st_blocks goes with it."""
        base = layout.cut[-1]
        last = base.part(base.end - 1, base.end)
        seen = self._maps.borrowed(last.number, last.origin)
        self._shared.hold_bases([last])
        self._inodes.ready(inode)
        layout.cut.pop()
        if base.length > 1:
            layout.cut.append(base.part(base.first, last.first))
        self._shared.count_bases([last], -1)
        inode.blocks -= seen.sectors()
        self._inodes.touch(inode)
        return 1

    def _reap_region(self, inode: Inode, layout: Layout) -> int:
        assert layout.doomed is not None
        region = layout.doomed[-1][1] - 1
        dead = self._maps.load(inode.content, region)
        self._maps.hold(dead)
        self._inodes.ready(inode)
        cut(layout.doomed, region, region + 1)
        inode.blocks -= dead.sectors()
        self._inodes.touch(inode)
        return self._maps.bury_region(inode.content, region, dead)

    def _done(self, inode: Inode) -> bool:
        return inode.layout is None or not inode.layout.waits
