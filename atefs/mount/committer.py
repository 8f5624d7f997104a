"""When what the vault holds in memory goes to the log, and who waits for it.

Everything is committed INTERVAL seconds after it was done, or when COMMIT_BYTES of it have gathered. Whoever calls
fsync waits for a commit and a barrier: several at once share one of each. What is little, and wanted by one alone, is
promised on the spot and committed later (`Chain.promise`); where that cannot be, both are done on the spot. A big
commit is sealed and written by a thread, while requests are answered and new state gathers behind it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import trio

from atedb import threads
from atedb.chain.batch import Batch
from atedb.chain.chain import Chain
from atedb.chain.view import Checkpoint
from atedb.errors import AteError, NoSpaceError, NotResident
from atefs.mount import memory
from atefs.mount.waiting import Waiting
from atefs.vault.commit import Frozen
from atefs.vault.vault import Vault

log = logging.getLogger(__name__)

MIB = 1 << 20
INTERVAL = 4.0
"""Seconds; with the time that writing takes, what was done is in the log within five."""
COMMIT_BYTES = 8 * MIB
COMMIT_OBJECTS = 20_000
COUNT_EVERY = 64
"""Changes between two counts of what is dirty, since counting takes longer than most of them."""
EAGER = 0.02
"""Seconds, where somebody elsewhere waits to see what is done here."""
EAGER_DUTY = 10
"""How many times as long as the last commit took the next one waits at least then."""
INLINE_BYTES = MIB
INLINE_BARRIER = 1e-3
TRIM_BYTES = 32 * MIB
BRAKE_BYTES = 128 * MIB
BRAKE_OBJECTS = 100_000


class _Round:
    """One commit with its barrier, and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.waiters = 0
        self.error: Exception | None = None


class Committer:
    """The one place that commits while a vault is mounted.

    write_back: has the kernel hand over the pages that it caches of files open for writing; awaited before a commit
    that time asked for, while there is room for them. `writers` is how many files are open for writing; `full` says
    that more has gathered than memory should hold, so that the next writer has to wait for `room`. `eager`: others are
    to see soon what is done here, so it is committed EAGER seconds later. `upstream`: awaited by `sync` with the newest
    sequence, when that is on stable storage here and has to be so elsewhere as well. `committed`: called when something
    is. clock: seconds, in the event loop; stopwatch: in any thread.
    """

    def __init__(
        self,
        vault: Vault,
        chain: Chain,
        loop: Waiting,
        write_back: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = trio.current_time,
        *,
        stopwatch: Callable[[], float] = perf_counter,
    ) -> None:
        self._vault = vault
        self._chain = chain
        self._loop = loop
        self._write_back = write_back
        self._clock = clock
        self._stopwatch = stopwatch
        self._armed: float | None = None
        self._hurried = False
        self._alarm = trio.Event()
        self._round = _Round()
        self._busy = False
        self._flight = 0
        self._promised_bytes = 0
        self._owed: tuple[Batch, Frozen] | None = None
        self._chore = False
        self._remembered = chain.head
        self._barrier_mean = 0.0
        self._unsynced = 0
        self._trimmed = 0
        self.memory = memory.Bound()
        self._checkpointing = False
        self._handing_over = False
        self._touches = 0
        self._held = False
        self._quiet = trio.Event()
        self._pause = EAGER
        self._calm = 0.0
        self.eager = False
        self.upstream: Callable[[int], Awaitable[None]] | None = None
        self.committed: Callable[[], None] = lambda: None
        self.full = False
        self.writers = 0
        self.error: Exception | None = None
        self.commits = 0
        self.bytes = 0
        self.slowest = 0.0

    # What requests see

    def touch(self) -> None:
        """Something was changed. Called after every request that changes anything, so it must cost next to nothing."""
        if self._armed is None:
            self._armed = self._clock() + (self._pause if self.eager else INTERVAL)
            self._alarm.set()
        self._touches += 1
        if self._vault.dirty_bytes >= COMMIT_BYTES or not self._touches % COUNT_EVERY:
            self._weigh()

    def _weigh(self) -> None:
        """See how much has gathered: whether it is time to commit, and whether writers have to wait."""
        size, objects = self._vault.dirty_bytes, self._vault.dirty_objects
        self.full = size + self._flight > BRAKE_BYTES or objects > BRAKE_OBJECTS
        if (size >= COMMIT_BYTES or objects >= COMMIT_OBJECTS) and not self._hurried:
            self._hurried = True
            self._alarm.set()

    async def room(self) -> None:
        """Wait until there is room for more. Raises what the commit failed with, if it made none."""
        while self.full:
            await self._next_round()
            self._weigh()

    def check(self) -> None:
        """Raise what stands in the way of keeping what was written: its writer learns of it at close."""
        if self.error is not None:
            raise self.error

    @property
    def clean(self) -> bool:
        """Whether all that was done is on stable storage here."""
        durable = self._chain.durable == self._chain.written
        return durable and not self._busy and not self._owed and not self._vault.dirty_objects

    async def sync(self) -> None:
        """Return when everything done before this call is on stable storage. Raises AteError if it is not."""
        if not self.sync_now():
            await self.sync_here()
            if self.upstream is not None:
                await self.upstream(self._chain.durable)

    async def sync_here(self) -> None:
        """As `sync`, on this machine only, whatever is wanted elsewhere."""
        await self._next_round()

    async def share(self) -> None:
        """As `sync_here`, and all of it can be sent to the server."""
        if not self.sync_now():
            await self.sync_here()
        self._settle()
        self.committed()

    def sync_now(self) -> bool:
        """As `sync`, where that is quick enough to be done on the spot and nobody else waits. False: use `sync`."""
        together = self._busy or self._held or self._round.waiters or self.upstream or self._loop.pending()
        if together or self._vault.dirty_bytes - self._promised_bytes > INLINE_BYTES or not self._barrier_is_quick():
            return False
        return self._sync_inline()

    async def _next_round(self) -> None:
        round_ = self._round
        round_.waiters += 1
        self._alarm.set()
        self._loop.pass_on()
        await round_.done.wait()
        if round_.error is not None:
            raise round_.error

    def _sync_inline(self) -> bool:
        """Have little promised, or commit it with a barrier, on the spot. False: it has become too much for that.

        Settling is put off until no request is there: until then the vault reads from what is in flight.
        """
        try:
            frozen = self._freeze_blocking()
            if frozen is not None and not self._promised(frozen):
                if self._flight > INLINE_BYTES:
                    self._thaw(frozen)
                    return False
                self._write_inline(frozen)
            if self._chain.durable < self._chain.written:
                self._barrier()
        except Exception as error:
            self._failed(error)
            raise
        self._succeeded()
        return True

    def _promised(self, frozen: Frozen) -> bool:
        """Whether the chain has put it on stable storage, so that it can be committed with what comes later."""
        start = self._stopwatch()
        if frozen.loose:
            if not self._chain.promise(frozen.loose):
                return False
            self._waited(start)
        self._vault.promised(frozen)
        self._promised_bytes, self._flight = self._flight, 0
        return True

    async def _promised_to_all(self) -> bool:
        """Whether what is dirty could be promised: to all who wait, and sooner than it is committed."""
        if self.full or self.upstream is not None or not (self._chain.has_journal and self._barrier_is_quick()):
            return False
        frozen = await self._freeze() if self._vault.dirty_bytes - self._promised_bytes <= INLINE_BYTES else None
        if frozen is None:
            return False
        if self._promised(frozen):
            return True
        self._thaw(frozen)
        return False

    def _settle(self) -> None:
        """Settle the commit that was put off, if there is one. To be called before anything that needs the chain."""
        if self._owed is not None:
            (batch, frozen), self._owed = self._owed, None
            self._chain.settle(batch)
            self._vault.settled(frozen)

    def _idle(self) -> None:
        """What is left to do of a commit when nobody waits."""
        self._chore = False
        self._settle()
        if not self._busy and not self._held:
            self._chain.make_ready()

    # The task

    async def run(self) -> None:
        """Commit whenever it is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                timed = await self._due()
                if timed and self.writers:
                    await self._handed_over(nursery)
                await self._turn(timed)
                if self._chain.checkpoint_due() and not self._checkpointing and not self._held:
                    self._begin_checkpoint(nursery)

    async def _due(self) -> bool:
        """Return when a commit is due. True: by the clock, with all that is done each INTERVAL and not more often."""
        lull = self._clock() + INTERVAL
        while not (self._round.waiters or self._hurried):
            self._alarm = trio.Event()
            due = self._armed
            if due is None and self.eager and (self.writers or self._chain.head != self._remembered):
                due = lull  # without being armed: the next change is to be seen sooner
            elif due is None and self.writers:
                due = self._armed = self._clock() + INTERVAL
            if due is not None and self._clock() >= due:
                return not self.eager or self._clock() >= self._calm
            with trio.move_on_at(due if due is not None else float("inf")):
                await self._alarm.wait()
        return False

    async def _handed_over(self, nursery: trio.Nursery) -> None:
        """Return when the kernel has handed over what it caches, or when there is no room for more of it.

        Some kernels wait in syncfs until all has been taken. What is left then waits for room, which only a commit
        makes: it goes with the next one.
        """
        if not self._handing_over:
            self._handing_over = True
            nursery.start_soon(self._hand_over)
        while self._handing_over and not self.full:
            self._alarm = trio.Event()
            await self._alarm.wait()

    async def _hand_over(self) -> None:
        try:
            await self._write_back()
        finally:
            self._handing_over = False
            self._alarm.set()

    async def _turn(self, timed: bool) -> None:
        """One commit of all that is dirty, its barrier if anybody or the clock asked for one; or a promise of it."""
        while self._held:
            await self._quiet.wait()
        self._settle()
        self._busy = True
        start = self._clock()
        self._calm = start + INTERVAL if timed else self._calm
        round_, self._round = self._round, _Round()
        hurried, self._hurried = self._hurried, False
        armed, self._armed = self._armed, None
        try:
            if not timed and not hurried and await self._promised_to_all():
                self._armed = armed or self._armed or start + INTERVAL
            else:
                await self._commit_all(round_, timed)
        except Exception as error:
            self._failed(error)
            round_.error = error
            self._armed = self._clock() + INTERVAL
        else:
            self._succeeded()
        finally:
            self._busy = False
            self._pause = max(EAGER, EAGER_DUTY * (self._clock() - start))
            round_.done.set()
            self._now_quiet()
        if timed and self.bytes - self._trimmed >= TRIM_BYTES and not self._vault.dirty_bytes:
            self._trimmed = self.bytes
            self.memory.lower()
        else:
            self.memory.keep()

    async def _commit_all(self, round_: _Round, timed: bool) -> None:
        await self._commit()
        wanted = round_.waiters or timed or self.eager or self._chain.checkpoint_due()
        if wanted and self._chain.durable < self._chain.written:
            await self._barrier_somewhere(hasty=bool(round_.waiters))
        self._settle()
        self.committed()
        if timed:
            await self._remember()

    async def _remember(self) -> None:
        """What is durable now must not be taken for a torn tail after a crash, nor be rolled back unnoticed."""
        head = self._chain.head
        if head.sequence == self._chain.durable and head != self._remembered:
            with self._loop.elsewhere():
                await threads.run(self._chain.remember, head)
            self._remembered = head

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Inside, no commit, barrier or checkpoint is under way, and none begins but by `flush`."""
        while self._held:
            await self._quiet.wait()
        self._held = True
        try:
            while self._busy or self._checkpointing:
                await self._quiet.wait()
            yield
        finally:
            self._held = False
            self._now_quiet()

    def look(self) -> None:
        """Others have added to the chain: see whether something follows from that, such as a checkpoint."""
        self._alarm.set()

    async def drain(self) -> None:
        """Inside `alone`: commit until little is dirty; what then is, `flush` does on the spot. Raises AteError."""
        while self._vault.dirty_bytes > INLINE_BYTES:
            await self._commit()

    def flush(self) -> None:
        """Inside `alone`: commit what is dirty now, so that the chain has all of it. Raises AteError."""
        while (frozen := self._freeze_blocking()) is not None:
            self._write_inline(frozen)
        self._settle()

    def _now_quiet(self) -> None:
        """Wake whoever waits for commits to pause, or to go on."""
        self._quiet.set()
        self._quiet = trio.Event()

    async def finish(self) -> None:
        """After `run` was ended: all that is left to stable storage. Raises AteError."""
        while await self._commit():
            pass
        self._settle()
        if self._chain.durable < self._chain.written:
            await threads.run(self._barrier)

    # Steps

    async def _commit(self) -> bool:
        """Commit what is dirty now. False: nothing was."""
        frozen = await self._freeze()
        if frozen is None:
            return False
        size = self._flight
        if size <= INLINE_BYTES:
            self._write_inline(frozen)
            return True
        batch = self._chain.prepare(frozen.changes)
        start = self._stopwatch()
        try:
            with self._loop.elsewhere():
                await threads.run(self._chain.write, batch)
        except BaseException:
            self._chain.abandon(batch)
            self._thaw(frozen)
            raise
        self._owed = batch, frozen
        self._settle()
        self._written(start)
        return True

    def _write_inline(self, frozen: Frozen) -> None:
        batch = self._chain.prepare(frozen.changes)
        start = self._stopwatch()
        try:
            self._chain.write(batch)
        except BaseException:
            self._chain.abandon(batch)
            self._thaw(frozen)
            raise
        self._owed = batch, frozen
        if not self._chore:
            self._chore = True
            self._loop.later(self._idle)
        self._written(start)

    def _written(self, start: float) -> None:
        """The commit is in the log."""
        self.bytes += self._flight
        self._unsynced += self._flight
        self._flight = self._promised_bytes = 0
        self.commits += 1
        self.slowest = max(self.slowest, self._stopwatch() - start)

    def _thaw(self, frozen: Frozen) -> None:
        self._vault.thaw(frozen)
        self._flight = 0

    async def _freeze(self) -> Frozen | None:
        """A consistent cut of what is dirty. What has to be read for it is fetched by a thread."""
        for _ in range(64):
            try:
                return self._frozen()
            except NotResident as absent:
                await self._loop.in_thread(absent.fetch)
        return self._freeze_blocking()

    def _freeze_blocking(self) -> Frozen | None:
        while True:
            try:
                return self._frozen()
            except NotResident as absent:
                absent.fetch()

    def _frozen(self) -> Frozen | None:
        self._settle()
        before = self._vault.dirty_bytes
        frozen = self._vault.freeze()
        self._flight = before if frozen is not None else 0
        return frozen

    def _barrier_is_quick(self) -> bool:
        """Whether little has to reach the disk, and a barrier for little has been quick lately."""
        return self._unsynced <= INLINE_BYTES and self._barrier_mean <= INLINE_BARRIER

    def _barrier(self) -> None:
        waiting, self._unsynced = self._unsynced, 0
        start = self._stopwatch()
        self._chain.barrier()
        if waiting <= INLINE_BYTES:
            self._waited(start)

    def _waited(self, start: float) -> None:
        """The disk has been waited for since then, for little."""
        self._barrier_mean += ((self._stopwatch() - start) - self._barrier_mean) / 8

    async def _barrier_somewhere(self, hasty: bool) -> None:
        """In a thread, unless somebody waits for it and the disk is quick enough to do it on the spot."""
        if hasty and self._barrier_is_quick():
            self._barrier()
        else:
            with self._loop.elsewhere():
                await threads.run(self._barrier)

    def _begin_checkpoint(self, nursery: trio.Nursery) -> None:
        """To be called between commits and barriers; what takes long goes on beside them."""
        self._settle()
        try:
            point = self._chain.begin_checkpoint()
        except AteError as error:
            self._failed(error)
            return
        self._checkpointing = True
        nursery.start_soon(self._checkpoint, point)

    async def _checkpoint(self, point: Checkpoint) -> None:
        """Fold what was committed into the view's file, in a thread. A failure costs the next opening time, no data."""
        written = False
        try:
            with self._loop.elsewhere():
                await threads.run(self._chain.write_checkpoint, point)
            written = True
        except AteError as error:
            log.warning("a checkpoint failed, and is tried again later: %s", error)
        finally:
            self._chain.end_checkpoint(written=written)
            self._checkpointing = False
            self._now_quiet()

    def _failed(self, error: Exception) -> None:
        """Remember it for close and fsync, and say it once."""
        if type(error) is not type(self.error):
            again = isinstance(error, NoSpaceError)
            kept = "it is kept in memory and tried again" if again else "what was synced before is safe"
            log.error("a commit failed: %s; %s", error, kept, exc_info=None if isinstance(error, AteError) else error)
        self.error = error

    def _succeeded(self) -> None:
        if self.error is not None and self._chain.failed is None:
            log.info("commits succeed again")
            self.error = None
