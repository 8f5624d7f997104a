"""The link: what it sends and hands over, when it begins again, and what it tells whoever waits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing

from atedb.chain.position import START, Position
from atedb.crypto.hashing import digest
from atedb.errors import ForkError, QuotaError, StaleError, UnreachableError
from atedb.net.client import OpenedChain, ServerConnection
from atedb.net.errors import ConnectionLostError
from atedb.net.link import ANSWER_SECONDS, BACKOFF_MAX, GRACE, Link, LinkState

HEADER = b"header"


def after(tail: Position, frame: bytes) -> Position:
    return Position(tail.sequence + 1, digest(tail.hash + frame))


class FakeServer:
    """A log of frames, its followers, and switches for what can go wrong. slow: seconds for an append."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.tails = [START]
        self.news = trio.Event()
        self.reachable = True
        self.refusal: Exception | None = None
        self.silent = False
        self.slow = 0.0
        self.dials: list[float] = []
        self.created: object = None
        self.live: list[FakeConnection] = []

    @property
    def tail(self) -> Position:
        return self.tails[-1]

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.tails.append(after(self.tail, frame))
        self.news.set()
        self.news = trio.Event()

    def cut(self) -> None:
        """End every connection."""
        for connection in self.live:
            connection.ended.set()

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[ServerConnection]:
        self.dials.append(trio.current_time())
        if not self.reachable:
            raise ConnectionLostError("nobody there")
        connection = FakeConnection(self)
        self.live.append(connection)
        try:
            yield cast(ServerConnection, connection)
        finally:
            self.live.remove(connection)


class FakeConnection:
    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.ended = trio.Event()
        self.own: set[int] = set()

    async def open(self, _path: str, *, create: tuple[bytes, bytes] | None) -> OpenedChain:
        self.server.created = create
        return OpenedChain(HEADER, self.server.tail, None, True)

    async def append(self, frames: Sequence[bytes]) -> Position:
        await trio.lowlevel.checkpoint()
        if self.server.silent:
            await trio.sleep_forever()
        await trio.sleep(self.server.slow)
        if self.server.refusal is not None:
            raise self.server.refusal
        for frame in frames:
            if not frame.startswith(b"%d " % (self.server.tail.sequence + 1)):
                raise StaleError(self.server.tail)
            self.own.add(self.server.tail.sequence + 1)
            self.server.add(frame)
        return self.server.tail

    def follow(self, first: int, *, slim: bool) -> FakeFollowing:
        assert slim
        return FakeFollowing(self.server, first - 1, self.own)

    async def bodies(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        if self.server.silent:
            await trio.sleep_forever()
        return [b"%d.%d" % pair for pair in wanted]

    async def ping(self) -> float:
        if self.server.silent:
            await trio.sleep_forever()
        return 0.0

    async def wait_lost(self) -> None:
        await self.ended.wait()


class FakeFollowing:
    """Of what the connection has appended itself, it hears where it is only."""

    def __init__(self, server: FakeServer, at: int, own: set[int]) -> None:
        self.server = server
        self.at = at
        self.own = own

    def __aiter__(self) -> FakeFollowing:
        return self

    async def __anext__(self) -> list[bytes] | Position:
        while self.at >= len(self.server.frames):
            await self.server.news.wait()
        await trio.lowlevel.checkpoint()
        before, mine = self.at, self.at + 1 in self.own
        while self.at < len(self.server.frames) and (self.at + 1 in self.own) == mine:
            self.at += 1
        return self.server.tails[self.at] if mine else self.server.frames[before : self.at]


class FakeReplica:
    """Its batches are "SEQUENCE NAME:WHAT"; those that are pending get new sequences when others were first.

    folds: and become one. fetching, merging: how long that takes, before and after it is known what others had.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[bytes] = []
        self.tails = [START]
        self.mine: list[str] = []
        self.rebases = 0
        self.lie: Exception | None = None
        self.folds = False
        self.fetching = self.merging = 0.0
        self.broken = False

    @property
    def acked(self) -> Position:
        return self.tails[-1]

    @property
    def ready(self) -> int:
        return self.acked.sequence + len(self.mine)

    def founding(self) -> tuple[bytes, bytes] | None:
        return None if self.log else (HEADER, b"keys")

    def meet(self, header: bytes, tail: Position) -> None:
        assert header == HEADER
        if tail.sequence < self.acked.sequence:
            raise ForkError("the server has less than it had")

    def _frame(self, place: int) -> bytes:
        return f"{self.acked.sequence + 1 + place} {self.name}:{self.mine[place]}".encode()

    def pending(self, limit: int) -> list[bytes]:
        return [self._frame(place) for place in range(min(len(self.mine), 3))]

    def _push(self, frame: bytes) -> None:
        self.log.append(frame)
        self.tails.append(after(self.acked, frame))

    async def acknowledge(self, position: Position) -> None:
        while self.acked.sequence < position.sequence:
            self._push(self._frame(0))
            self.mine.pop(0)
        if position not in self.tails:
            raise ForkError("not ours")

    async def take(self, frames: Sequence[bytes]) -> None:
        if self.lie is not None:
            raise self.lie
        for frame in frames:
            sequence = int(frame.split()[0])
            if sequence <= self.acked.sequence:
                continue
            assert sequence == self.acked.sequence + 1
            if self.mine and frame == self._frame(0):
                self._push(frame)
                self.mine.pop(0)
            else:
                await trio.sleep(self.fetching)
                self._push(frame)
                if self.mine:
                    await trio.sleep(self.merging)
                    self.rebases += 1
                    if self.broken:
                        self.broken = False
                        raise ConnectionLostError("after all was done")
                    if self.folds:
                        self.mine = ["+".join(self.mine)]


class Machine:
    """A replica with its link running."""

    def __init__(self, server: FakeServer, name: str, nursery: trio.Nursery) -> None:
        self.replica = FakeReplica(name)
        self.states: list[LinkState] = []
        self.link = Link(
            server.dial, "/t/c", self.replica, changed=lambda: self.states.append(self.link.state), jitter=lambda: 0.5
        )
        nursery.start_soon(self.link.run)

    def write(self, *what: str) -> int:
        self.replica.mine.extend(what)
        self.link.wake()
        return self.replica.ready


def simulated(test: Callable[[trio.Nursery], Any]) -> None:
    """Run the test in trio, with a clock that skips what nobody uses; the links end with it."""

    async def main() -> None:
        with trio.fail_after(1e6):
            async with trio.open_nursery() as nursery:
                await test(nursery)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_is_pending_is_sent_in_order_and_what_others_write_is_taken() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a, b = Machine(server, "a", nursery), Machine(server, "b", nursery)
        await a.link.acknowledged(a.write(*"12345"), 5)
        await b.link.acknowledged(b.write("x"), 5)
        await trio.testing.wait_all_tasks_blocked()
        assert server.created == (HEADER, b"keys")
        assert [frame.decode().split()[1] for frame in server.frames] == ["a:1", "a:2", "a:3", "a:4", "a:5", "b:x"]
        assert a.replica.log == b.replica.log == server.frames
        assert a.states == [LinkState.ONLINE]

    simulated(test)


def test_replicas_that_write_at_the_same_time_end_up_with_one_order() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        machines = [Machine(server, name, nursery) for name in "abc"]
        for turn in range(20):
            for machine in machines:
                machine.write(str(turn))
            if turn % 3 == 0:
                await trio.lowlevel.checkpoint()
        for machine in machines:
            await machine.link.acknowledged(machine.replica.ready, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert all(machine.replica.log == server.frames for machine in machines)
        for name in "abc":
            of_one = [f.decode().split(":")[1] for f in server.frames if f" {name}:".encode() in f]
            assert of_one == [str(turn) for turn in range(20)]
        assert any(machine.replica.rebases for machine in machines)

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
def test_whoever_waits_follows_their_batches_when_others_are_put_beneath_them() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        server.refusal = QuotaError("full")
        target = a.write("2")
        done = trio.Event()

        async def wait() -> None:
            await a.link.acknowledged(target, 1000)
            done.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        server.add(b"2 b:first")
        await trio.testing.wait_all_tasks_blocked()
        assert a.replica.acked.sequence == target
        assert not done.is_set()
        server.refusal = None
        await done.wait()
        assert server.frames[-1] == b"3 a:2"

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
def test_whoever_waits_for_batches_that_became_one_waits_for_that_one() -> None:
    """And not for as many others as there were: they may never come."""

    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        a.replica.folds = True
        await a.link.acknowledged(a.write("1"), 5)
        server.refusal = QuotaError("full")
        target = a.write(*"23456")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(a.link.acknowledged, target, 1000)
        await trio.testing.wait_all_tasks_blocked()
        server.add(b"2 b:first")
        await trio.testing.wait_all_tasks_blocked()
        server.refusal = None
        with trio.fail_after(100):
            while a.link._targets:
                await trio.sleep(1)
        assert server.frames[-1] == b"3 a:2+3+4+5+6"

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
@pytest.mark.parametrize("fails", [False, True])
def test_whoever_waits_is_not_deceived_by_batches_of_others_while_theirs_are_put_on_top(*, fails: bool) -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        server.refusal = QuotaError("full")
        target = a.write("2")
        done = trio.Event()

        async def wait() -> None:
            await a.link.acknowledged(target, 1000)
            done.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        a.replica.merging = 10.0
        a.replica.broken = fails
        server.add(b"2 b:first")
        for _ in range(20):
            await trio.sleep(1)
            a.link.wake()
        assert not done.is_set()
        server.refusal = None
        await done.wait()
        assert b"3 a:2" in server.frames

    simulated(test)


def test_a_merge_that_takes_long_is_not_held_against_the_server() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        a.replica.fetching = 3 * ANSWER_SECONDS
        server.add(b"2 b:first")
        await a.link.acknowledged(a.write("2"), 10 * ANSWER_SECONDS)
        assert len(server.dials) == 1

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
def test_a_server_that_is_full_for_days_is_tried_as_often_as_before() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        server.refusal = QuotaError("full")
        a.write("2")
        await trio.sleep(1100 * BACKOFF_MAX)
        assert len(server.dials) == 1
        server.refusal = None
        await trio.sleep(BACKOFF_MAX)
        assert server.frames[-1] == b"2 a:2"

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
def test_a_server_that_is_full_goes_on_being_followed_and_is_tried_again() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        server.refusal = QuotaError("full")
        a, b = Machine(server, "a", nursery), Machine(server, "b", nursery)
        a.write("1")
        await trio.sleep(20)
        assert (a.link.state, str(a.link.error)) == (LinkState.ONLINE, "full")
        server.add(b"1 c:0")
        await trio.testing.wait_all_tasks_blocked()
        assert b.replica.log == [b"1 c:0"]
        server.refusal = None
        await a.link.acknowledged(a.replica.ready, 100)
        assert a.link.error is None

    simulated(test)


def test_a_lost_connection_is_made_again_and_what_was_sent_twice_is_there_once() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        server.cut()
        a.write("2")
        await trio.testing.wait_all_tasks_blocked()
        server.cut()
        await trio.sleep(5)
        await a.link.acknowledged(a.write("3"), 5)
        assert [frame.split(b":")[1] for frame in server.frames] == [b"1", b"2", b"3"]
        assert a.states[:3] == [LinkState.ONLINE, LinkState.OFFLINE, LinkState.ONLINE]

    simulated(test)


def test_attempts_get_rarer_and_never_end() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        server.reachable = False
        a = Machine(server, "a", nursery)
        await trio.sleep(1000)
        gaps = [round(later - sooner, 6) for sooner, later in zip(server.dials, server.dials[1:], strict=False)]
        assert gaps == sorted(gaps)
        assert gaps[0] < 1
        assert max(gaps) <= BACKOFF_MAX
        assert 30 < len(gaps) < 80
        server.reachable = True
        await trio.sleep(BACKOFF_MAX)
        assert a.link.state is LinkState.ONLINE

    simulated(test)


def test_waiting_for_a_server_out_of_reach_fails_soon_and_within_its_bound_otherwise() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        server.reachable = False
        a = Machine(server, "a", nursery)
        await trio.sleep(1)
        with pytest.raises(UnreachableError):
            await a.link.acknowledged(a.write("0"), 30)
        assert trio.current_time() < 2 * GRACE
        start = trio.current_time()
        with pytest.raises(UnreachableError, match=r"cannot be reached.*nobody there"):
            await a.link.acknowledged(a.write("1"), 30)
        with pytest.raises(UnreachableError):
            await a.link.bodies([(1, 0)])
        assert trio.current_time() - start < 1
        assert not await a.link.in_step(7)
        server.reachable = True
        assert await a.link.in_step(BACKOFF_MAX)
        await a.link.acknowledged(a.replica.ready, 60)
        server.silent = True
        start = trio.current_time()
        with pytest.raises(UnreachableError):
            await a.link.acknowledged(a.write("2"), 5)
        assert trio.current_time() - start == pytest.approx(5)

    simulated(test)


def test_a_silent_server_is_left_within_the_time_of_two_pings() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await trio.sleep(1)
        server.silent = True
        server.reachable = False
        await trio.sleep(21)
        assert a.link.state is LinkState.OFFLINE
        assert "silent" in str(a.link.error) or "nobody there" in str(a.link.error)

    simulated(test)


@pytest.mark.expect_log("the link to the server has ended: it shows another past")
def test_a_server_that_shows_what_cannot_be_is_not_asked_again() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await trio.sleep(1)
        a.replica.lie = ForkError("it shows another past")
        server.add(b"1 b:0")
        await trio.sleep(1000)
        assert a.link.state is LinkState.STOPPED
        assert len(server.dials) == 1
        with pytest.raises(UnreachableError, match="another past"):
            await a.link.acknowledged(a.write("1"), 30)

    simulated(test)


def test_bodies_come_over_the_connection_that_there_is() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        assert await a.link.bodies([(3, 1), (2, 2)]) == [b"3.1", b"2.2"]
        server.silent = True
        with pytest.raises(UnreachableError):
            await a.link.bodies([(1, 1)])

    simulated(test)


def test_what_a_server_had_is_here_once_it_was_taken_in_as_a_whole() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        taken: list[bytes] = []
        real = a.replica.take

        async def slowly(frames: Sequence[bytes]) -> None:
            await real(frames)
            await trio.sleep(1)  # what follows from them
            taken.extend(frames)

        a.replica.take = slowly  # type: ignore[method-assign]
        await a.link.in_step(10)
        server.add(b"1 x")
        server.add(b"2 x")
        await a.link.reached(2)
        assert taken == [b"1 x", b"2 x"]
        await a.link.reached(1)
        server.reachable = False
        server.cut()
        with pytest.raises(UnreachableError):
            await a.link.reached(3)

    simulated(test)


@pytest.mark.expect_log("a defect ended the connection")
def test_a_defect_ends_the_connection_and_nothing_else() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await trio.sleep(1)
        a.replica.lie = ZeroDivisionError("odd")
        server.add(b"1 b:0")
        await trio.sleep(1)
        assert a.link.state is LinkState.OFFLINE
        assert "a defect" in str(a.link.error)
        a.replica.lie = None
        await trio.sleep(2 * BACKOFF_MAX)
        assert a.replica.log == server.frames

    simulated(test)


def test_whoever_needs_the_server_sits_out_a_moment_without_it() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await trio.sleep(1)
        server.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert a.link.state is LinkState.OFFLINE
        assert await a.link.bodies([(1, 1)]) == [b"1.1"]
        server.cut()
        await trio.testing.wait_all_tasks_blocked()
        await a.link.acknowledged(a.write("1"), 30)

    simulated(test)


def test_an_empty_replica_is_not_in_step_with_a_chain_that_has_nothing_yet() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        assert not await a.link.in_step(7)
        assert a.link.state is LinkState.ONLINE
        server.add(b"1 b:x")
        assert await a.link.in_step(7)
        assert a.replica.acked == server.tail

    simulated(test)
