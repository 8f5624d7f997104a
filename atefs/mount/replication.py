"""A mounted vault as one of several replicas of its chain: what the link brings goes under what is being done here.

Batches of others are taken in between two commits. What is dirty is committed first, so that the chain knows all that
was done here; what is pending is then put on top of theirs by a merge. Afterwards the vault forgets what it knew of
everything that they changed, and the kernel is told to do so as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from atedb import threads
from atedb.chain.chain import Chain
from atedb.chain.header import NAME as HEADER
from atedb.chain.header import parse_header
from atedb.chain.position import Position
from atedb.chain.rebase import Rebase
from atedb.chain.replica import Replica
from atedb.errors import ForkError
from atefs.mount.adapter import KernelAdapter
from atefs.mount.committer import Committer
from atefs.mount.shared_slots import SLOTS
from atefs.mount.waiting import Waiting
from atefs.vault.conflicts import Conflict
from atefs.vault.merge import merge
from atefs.vault.refresh import Stale, Touched
from atefs.vault.vault import Vault

HUSH_SECONDS = 2.0
REMIND_SECONDS = 2.0
"""When the kernel is told of names once more. What a program had asked before others changed a name may be answered,
and the kernel told that it is so no longer, before that program has its turn: it would take up the answer, for a day.
"""

log = logging.getLogger(__name__)


class Replication:
    """The replica as its link knows it (`atedb.net.link.Local`), from before its vault is mounted to the end.

    device: what conflicts that are made here are called after. clock: nanoseconds since 1970.
    """

    def __init__(self, chain: Chain, device: str, clock: Callable[[], int]) -> None:
        self.replica = Replica(chain)
        self.rebases = 0
        self.conflicts = 0
        self._chain = chain
        self._device = device
        self._clock = clock
        self._mounted: tuple[Vault, Committer, Waiting] | None = None
        self._stale = Stale(set(), set(), set())
        self._rebasing = trio.Lock()
        self._told = trio.Event()
        self._telling = False
        self._reminder: set[tuple[int, bytes]] = set()
        self._renamed = trio.Event()
        self._heard = trio.Event()
        self._news = self._known = 0
        self._quiet = trio.Event()

    def serve(self, vault: Vault, committer: Committer, loop: Waiting) -> None:
        """From now on the vault answers requests, and has to be kept in step."""
        self._mounted = vault, committer, loop

    # -- what the link asks

    @property
    def acked(self) -> Position:
        return self.replica.acked

    @property
    def ready(self) -> int:
        return self._chain.durable

    def founding(self) -> tuple[bytes, bytes] | None:
        if self.acked.sequence or not self._chain.written:
            return None
        store = self._chain.store
        return (store / HEADER).read_bytes(), (store / SLOTS).read_bytes()

    def meet(self, header: bytes, tail: Position) -> None:
        if parse_header(header).chain_id != self._chain.header.chain_id:
            raise ForkError(
                "the server has another vault under this address than the one that is here; nothing was sent; mount it "
                "at another place, or put this one under another address"
            )
        self.replica.check_tail(tail)

    def pending(self, limit: int) -> list[bytes]:
        return self.replica.pending(self.acked.sequence, limit)

    async def acknowledge(self, position: Position) -> None:
        self.replica.acknowledge(position)

    async def take(self, frames: Sequence[bytes]) -> None:
        if self._mounted is None:
            await self._take_unmounted(frames)
            return
        frames = self.replica.pass_over(frames)
        if not frames:  # one's own, coming back: nothing that is being done here has to stop for them
            return
        vault, committer, loop = self._mounted
        touched = Touched()
        async with committer.alone():
            await committer.drain()
            with loop.closed(), trio.CancelScope(shield=True), _blocking(self._chain):
                committer.flush()
                try:
                    left = self.replica.receive(frames, touched)
                    if left:
                        self._chain.barrier()
                        await loop.in_thread(lambda: self._rebase(left, touched))
                finally:  # whatever went wrong, what was applied before has to be seen
                    self._tell(vault.refresh(touched))
        committer.memory.keep()

    async def _take_unmounted(self, frames: Sequence[bytes]) -> None:
        """What an earlier mount has left pending is put on top of others' batches all the same."""
        left = self.replica.receive(frames, _nobody)
        if left:
            async with self._rebasing:
                with trio.CancelScope(shield=True):
                    await threads.run(self._rebase, left, Touched())

    async def at_rest(self) -> None:
        """Before the vault is mounted: return when the chain may be used, which it may until the next wait."""
        async with self._rebasing:
            pass

    def _rebase(self, frames: Sequence[bytes], touched: Touched) -> None:
        """In a thread, while nobody else uses the chain."""
        found: list[Conflict] = []

        def merged(rebase: Rebase) -> None:
            found.extend(merge(rebase, self._chain, device=self._device, now=self._clock(), touched=touched))

        began, acked = time.monotonic(), self.acked
        try:
            self.replica.rebase(frames, merged, touched)
        finally:  # it may have happened although something failed
            self.rebases += self.acked != acked
        took = time.monotonic() - began
        log.info("what was pending lies on top of %d batches of others now, which took %.1f s", len(frames), took)
        self.conflicts += len(found)
        for conflict in found:
            log.info("a conflict: inode %d is kept under another name; see: atefs conflicts", conflict.ino)

    # -- what the kernel is told

    def _tell(self, stale: Stale) -> None:
        self._stale.attributes.update(stale.attributes)
        self._stale.pages.update(stale.pages)
        self._stale.entries.update(stale.entries)
        if stale.entries:
            self._reminder |= stale.entries
            self._renamed.set()
        self._news += 1
        self._told.set()

    async def tell_kernel(self, adapter: KernelAdapter, loop: Waiting) -> None:
        """Have the kernel forget what others changed, for ever.

        A task of its own: the kernel may make it wait for whoever holds a folder, and they may wait for the link.
        """
        while True:
            await self._told.wait()
            self._told = trio.Event()
            if self._quiet.is_set():
                return
            stale, self._stale = self._stale, Stale(set(), set(), set())
            news = self._news
            self._telling = True
            try:
                with loop.elsewhere():
                    await threads.run(adapter.outdate, *stale, abandon=True)
            finally:
                self._telling = False
            if self._mounted is not None:
                self._mounted[0].told(stale._replace(entries=set()), self._stale)
            self._known = news
            self._heard.set()
            self._heard = trio.Event()

    async def remind_kernel(self, adapter: KernelAdapter, loop: Waiting) -> None:
        """Tell the kernel of names once more, REMIND_SECONDS after others have changed them or later, for ever.

        Until then nobody moves or removes them without looking again (`Vault.require_told`).
        """
        while True:
            await self._renamed.wait()
            self._renamed = trio.Event()
            entries, self._reminder = self._reminder, set()
            await trio.sleep(REMIND_SECONDS)
            if self._quiet.is_set():
                return
            with loop.elsewhere():
                await threads.run(adapter.outdate, (), (), entries, abandon=True)
            if self._mounted is not None:
                newer = self._stale.entries | self._reminder
                self._mounted[0].told(Stale(set(), set(), entries), Stale(set(), set(), newer))

    async def told(self) -> None:
        """Return when the kernel knows of all that has come so far."""
        news = self._news
        while self._known < news:
            await self._heard.wait()

    async def hush(self) -> None:
        """The mount is about to end: the kernel is told nothing more. Waits a moment for what it is being told."""
        self._quiet.set()
        with trio.move_on_after(HUSH_SECONDS):
            while self._telling:
                await trio.sleep(HUSH_SECONDS / 100)


@contextmanager
def _blocking(chain: Chain) -> Iterator[None]:
    """Inside, what is not in memory is waited for: it is metadata, on the disk of this machine."""
    before, chain.nowait = chain.nowait, False
    try:
        yield
    finally:
        chain.nowait = before


def _nobody(_tombstone: bool, _body: bytes, _key: bytes) -> None:
    """Nothing is cached yet that others could change."""
