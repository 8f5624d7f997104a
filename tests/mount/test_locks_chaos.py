"""Programs on three machines lock at random, links are cut and the server is restarted at random: nobody is ever wrong.

Whenever all are quiet, what machines with a connection hold excludes each other, and is just what the server knows.
"""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from atedb.errors import UnreachableError
from atedb.net.errors import DeadlockError, HeldError, RateError
from atedb.net.locks import Lock
from atefs.mount import holdings as holdings_module
from atefs.mount.leases import LEASE_SECONDS
from atefs.mount.standing import Debt, Holder, Standing
from tests.mount.lock_world import FILE, Mount, Server
from tests.vault.memory_chain import MemoryChain

OWNERS = (0xA000, 0xB000)
BYTES = 6
STEPS = 60
SETTLED = 3 * LEASE_SECONDS


class Chaos:
    """One run. seed: decides everything but the order in which trio runs what can run."""

    def __init__(self, seed: int, *, alone: bool) -> None:
        self.chance = random.Random(seed)
        self.server = Server()
        keys = MemoryChain()
        self.mounts = [Mount(self.server, keys, alone=alone) for _ in range(3)]
        self.had = 0

    async def run(self) -> None:
        await self.server.start()
        async with trio.open_nursery() as tasks:
            for mount in self.mounts:
                await mount.connect()
                tasks.start_soon(mount.locks.run)
            for _ in range(3):
                async with trio.open_nursery() as programs:
                    for mount in self.mounts:
                        for owner in OWNERS:
                            programs.start_soon(self._program, mount, owner)
                    programs.start_soon(self._trouble)
                await self._calm()
                self._check()
            for mount in self.mounts:
                for owner in OWNERS:
                    for flock in (False, True):
                        await mount.unlock(owner, flock=flock)
            await self._calm()
            for mount in self.mounts:  # nothing was forgotten anywhere
                assert await mount.try_lock(OWNERS[0], Lock())
                await mount.unlock(OWNERS[0])
            tasks.cancel_scope.cancel()

    async def _program(self, mount: Mount, owner: int) -> None:
        chance = self.chance
        for _ in range(STEPS // 6):
            flock = chance.random() < 0.3
            start = chance.randrange(BYTES)
            end = chance.randrange(start, BYTES)
            if chance.random() < 0.4:
                await mount.unlock(owner, start, end, flock=flock)
            else:
                lock = Lock(start, end, chance.random() < 0.6, 1, flock)
                with trio.move_on_after(chance.expovariate(0.2)):
                    try:
                        await mount.locks.lock(FILE, owner, lock, wait=chance.random() < 0.6)
                        self.had += 1
                    except (HeldError, DeadlockError, UnreachableError):
                        pass
            await trio.sleep(chance.expovariate(1))

    async def _trouble(self) -> None:
        chance = self.chance
        for _ in range(chance.randrange(6)):
            await trio.sleep(chance.expovariate(0.2))
            mount = chance.choice(self.mounts)
            mount.settling, mount.following = chance.choice((0.0, 0.1, 7.0)), chance.choice((0.0, 0.1, 2.0))
            mount.unsettled = chance.choice((None, None, UnreachableError("it takes nothing")))
            if mount.connection is not None:
                mount.connection.delay = chance.choice((0.0, 0.0, 0.5))
            if chance.random() < 0.2:
                self.server.refusal = RateError("slower")
                await trio.sleep(chance.choice((0.1, 1.0, 10.0)))
            elif chance.random() < 0.2:
                for other in self.mounts:
                    if other.connection is not None:
                        other.cut()
                await self.server.start()
            elif mount.connection is not None:
                self.server.silent = chance.random() < 0.2  # which ends when that is noticed
                await trio.sleep(chance.choice((0.0, 8.0)) if self.server.silent else 0.0)
                mount.cut()
            await trio.sleep(chance.choice((0.1, 1.0, 5.0, 30.0)))
            self.server.refusal, self.server.silent = None, False
            for other in self.mounts:
                if other.connection is None and chance.random() < 0.7:
                    await other.connect()

    async def _calm(self) -> None:
        """All are connected, and all that was still to be done is done."""
        for mount in self.mounts:
            mount.settling = mount.following = 0.0
            mount.unsettled = None
            if mount.connection is None:
                await mount.connect()
            assert mount.connection is not None
            mount.connection.delay = 0.0
        await trio.sleep(SETTLED)

    def _check(self) -> None:
        everything = []
        for mount in self.mounts:
            locks = mount.locks.leases
            assert not locks.holdings.uneven
            for holder in (Holder(FILE, owner, flock) for owner in OWNERS for flock in (False, True)):
                mine = [self._plain(one) for one in locks.holdings.held(holder)]
                theirs = [self._plain(one) for one in self._known(locks._name(holder), locks._owner(holder))]
                assert mine == theirs
                everything += [(mount, holder, one) for one in locks.holdings.held(holder)]
        for (mount, holder, one), (other_mount, other_holder, other) in combinations(everything, 2):
            same = (mount, holder.owner) == (other_mount, other_holder.owner)
            if not same and holder.flock == other_holder.flock and one.start <= other.end and other.start <= one.end:
                assert not one.exclusive
                assert not other.exclusive

    def _known(self, name: str, owner: bytes) -> list[Lock]:
        """What the server has, but for what was given as a link was cut, and ends as soon as somebody wants it."""
        record = self.server.leases._records.get((name, owner))
        return [] if record is None or record.session.overdue else self.server.leases._locks.held_by(name, owner)

    @staticmethod
    def _plain(lock: Lock) -> tuple[int, int, bool]:
        return lock.start, lock.end, lock.exclusive


@pytest.mark.expect_log("is lost|on this machine only")
@pytest.mark.parametrize("alone", [False, True])
def test_whatever_happens_locks_exclude_each_other_and_none_is_forgotten(alone: bool) -> None:
    had = 0
    for seed in range(15):
        chaos = Chaos(seed, alone=alone)
        try:
            trio.run(chaos.run, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        had += chaos.had
    assert had > 400


def test_the_same_run_finds_a_mount_that_gives_back_without_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(_connection: object, _holder: Holder, standing: Standing, debt: Debt) -> None:
        """Say nothing."""
        standing.paying.remove(debt)

    monkeypatch.setattr(holdings_module.log, "warning", lambda *_: None)  # it may lose some, or none

    async def main() -> None:
        chaos = Chaos(0, alone=False)
        for mount in chaos.mounts:
            monkeypatch.setattr(mount.locks.leases, "_match", forget)
        await chaos.run()

    with pytest.raises(BaseExceptionGroup):
        trio.run(main, clock=cast(Any, MockClock(autojump_threshold=0)))
