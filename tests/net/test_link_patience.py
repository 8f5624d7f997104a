"""The link: who waits for it, for how long, and for what."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from atedb.errors import QuotaError, UnreachableError
from atedb.net.client import ServerConnection
from atedb.net.link import ANSWER_SECONDS, Link, LinkState
from tests.net.test_link import FakeReplica, FakeServer, Machine, simulated


def test_what_is_agreed_first_may_take_many_answers() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()

        async def met(_connection: ServerConnection) -> None:
            for _ in range(10):
                await trio.sleep(ANSWER_SECONDS / 2)

        link = Link(server.dial, "/t/c", FakeReplica("a"), met=met)
        nursery.start_soon(link.run)
        await trio.sleep(10 * ANSWER_SECONDS)
        assert (link.state, len(server.dials)) == (LinkState.ONLINE, 1)

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now: full")
def test_who_waits_as_long_as_the_server_takes_something_waits_longer_for_more_and_not_where_it_takes_nothing() -> None:
    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("0"), 5)
        server.slow = 20.0
        start = trio.current_time()
        with pytest.raises(UnreachableError, match="not acknowledged within 5 s"):
            await a.link.acknowledged(a.write("1"), 5)
        await a.link.acknowledged(a.write("2"), 5, moving=True)
        assert trio.current_time() - start >= server.slow
        server.slow, server.refusal = 0.0, QuotaError("full")
        start = trio.current_time()
        with pytest.raises(UnreachableError, match="full"):
            await a.link.acknowledged(a.write("3"), 5, moving=True)
        assert trio.current_time() - start == pytest.approx(5)

    simulated(test)


@pytest.mark.expect_log("the server takes nothing now")
def test_of_several_who_wait_for_the_same_each_waits_for_itself() -> None:
    """Whoever gives up takes nobody else's place with it."""

    async def test(nursery: trio.Nursery) -> None:
        server = FakeServer()
        a = Machine(server, "a", nursery)
        await a.link.acknowledged(a.write("1"), 5)
        server.refusal = QuotaError("full")
        target = a.write("2")
        ended: list[str] = []

        async def wait(name: str, seconds: float) -> None:
            try:
                await a.link.acknowledged(target, seconds)
                ended.append(name)
            except UnreachableError:
                ended.append(f"{name} gave up")

        nursery.start_soon(wait, "first", 1000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, "second", 1)
        await trio.sleep(2)
        server.add(b"2 b:first")
        await trio.sleep(2)
        assert ended == ["second gave up"]
        server.refusal = None
        await trio.sleep(100)
        assert ended == ["second gave up", "first"]
        assert server.frames[-1] == b"3 a:2"

    simulated(test)
