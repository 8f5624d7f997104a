"""A committer among fakes: what it does with a vault and a chain, counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
import trio.testing

from atedb.chain.heads import Head
from atedb.errors import NotResident
from atefs.mount.committer import Committer
from atefs.mount.waiting import Waiting


class FakeFrozen:
    def __init__(self, size: int, loose: int) -> None:
        self.changes = [size]
        self.loose = [loose] if loose else []
        self.bytes = size


class FakeVault:
    """Counts bytes: what is dirty, in flight, and settled."""

    def __init__(self) -> None:
        self.dirty_bytes = 0
        self.dirty_objects = 0
        self.settled_bytes = 0
        self.promised_bytes = 0
        self.absent = 0

    def write(self, size: int) -> None:
        self.dirty_bytes += size
        self.dirty_objects += 1

    def freeze(self) -> FakeFrozen | None:
        if self.absent:
            self.absent -= 1
            raise NotResident(lambda: None)
        if not self.dirty_bytes:
            return None
        frozen = FakeFrozen(self.dirty_bytes, self.dirty_bytes - self.promised_bytes)
        self.dirty_bytes = self.dirty_objects = 0
        return frozen

    def settled(self, frozen: FakeFrozen) -> None:
        self.settled_bytes += frozen.bytes
        self.promised_bytes = 0

    def promised(self, frozen: FakeFrozen) -> None:
        self.thaw(frozen)
        self.promised_bytes = frozen.bytes

    def thaw(self, frozen: FakeFrozen) -> None:
        self.dirty_bytes += frozen.bytes
        self.dirty_objects += 1


class FakeChain:
    """Counts batches, barriers and promises; `failure` is what the next writes raise. room: for promises."""

    def __init__(self) -> None:
        self.room = self.promises = 0
        self.has_journal = True
        self.written = self.durable = self.barriers = self.checkpoints = 0
        self.failure: Exception | None = None
        self.failed: Exception | None = None
        self.due = False
        self.remembered: list[int] = []
        self.settled = self.ready = 0

    @property
    def head(self) -> Head:
        return Head(self.written, "")

    def remember(self, head: Head) -> None:
        self.remembered.append(head.sequence)

    def prepare(self, changes: list[int]) -> list[int]:
        return changes

    def promise(self, changes: list[int]) -> bool:
        if self.room:
            self.room -= 1
            self.promises += 1
            return True
        return False

    def write(self, batch: list[int]) -> None:
        if self.failure:
            raise self.failure
        self.written += 1

    def settle(self, batch: list[int]) -> None:
        self.settled += 1

    def make_ready(self) -> None:
        self.ready += 1

    def abandon(self, batch: list[int]) -> None:
        pass

    def barrier(self) -> None:
        self.barriers += 1
        self.durable = self.written

    def checkpoint_due(self) -> bool:
        return self.due

    def begin_checkpoint(self) -> None:
        self.due = False

    def write_checkpoint(self, point: None) -> None:
        self.checkpoints += 1

    def end_checkpoint(self, *, written: bool) -> None:
        assert written


class Scene:
    """A committer among fakes, on trio's mock clock."""

    def __init__(self) -> None:
        self.vault = FakeVault()
        self.chain = FakeChain()
        self.loop = Waiting()
        self.write_backs = 0
        self.hand_over: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
        self.committer = Committer(
            cast(Any, self.vault), cast(Any, self.chain), self.loop, self._write_back, trio.current_time
        )

    async def _write_back(self) -> None:
        self.write_backs += 1
        await self.hand_over()

    def write(self, size: int) -> None:
        self.vault.write(size)
        self.committer.touch()

    def play(self, play: Callable[[], Any]) -> None:
        """Run `play` beside the committer's task; time passes whenever everybody waits."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.committer.run)
                await play()
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.02))
