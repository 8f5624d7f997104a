"""The link: what may take long, as long as something moves."""

from __future__ import annotations

import pytest
import trio

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
