"""Leases over a connection: given, refused, waited for however long, given up, and ended with the connection."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atedb.net import serving as serving_module
from atedb.net.client import ServerConnection
from atedb.net.errors import ConnectionLostError, HeldError, NoLocksError
from atedb.net.host import Claim
from atedb.net.locks import LAST
from atedb.net.messages import GetDocument
from atedb.net.requests import ANSWER_SECONDS, MAX_SMALL
from atedb.testing.links import Link
from tests.net.wire import PATH, ListChain, Node, connected, run


def claim(name: str = "lock") -> Claim:
    return Claim(name, b"me", 0, LAST, True, 20.0)


def node_with_held(*names: str) -> tuple[Node, ListChain]:
    """A node with a chain of which somebody else has something."""
    chain = ListChain(documents={"chain": (b"header", 1)})
    node = Node({PATH: chain})
    chain.held = {name: trio.Event() for name in names}
    return node, chain


def test_what_somebody_else_has_is_refused_with_what_is_in_the_way() -> None:
    async def main() -> None:
        node, _ = node_with_held("lock")
        async with connected(node) as connection:
            for refused in (connection.take_lease(claim()), connection.test_lease(claim())):
                with pytest.raises(HeldError) as held:
                    await refused
                assert (held.value.start, held.value.end, held.value.exclusive) == (0, 9, True)
            await connection.test_lease(claim("other"))

    run(main)


def test_it_is_waited_for_longer_than_for_any_answer_and_by_more_than_there_are_places_for() -> None:
    async def main() -> None:
        node, chain = node_with_held("lock")
        got: list[int] = []

        async def wait(connection: ServerConnection) -> None:
            got.append((await connection.take_lease(claim(), wait=True)).token)

        async with connected(node) as connection, trio.open_nursery() as nursery:
            for _ in range(3 * MAX_SMALL):
                nursery.start_soon(wait, connection)
            await trio.sleep(5 * ANSWER_SECONDS)
            assert await connection.document("nothing") == (b"", 0)  # there is a place for others
            assert got == []
            chain.held["lock"].set()
            await wait_all_tasks_blocked()
        assert sorted(got) == list(range(1, 3 * MAX_SMALL + 1))

    run(main)


def test_who_stops_waiting_is_not_given_it_and_the_server_forgets_it() -> None:
    async def main() -> None:
        node, chain = node_with_held("lock")
        late: list[str] = []
        async with connected(node) as connection:
            with trio.move_on_after(1):
                await connection.take_lease(claim(), wait=True, late=lambda: late.append("late"))
            await connection.ping()
            await wait_all_tasks_blocked()
            chain.held.pop("lock").set()
            await wait_all_tasks_blocked()
            assert (chain.tokens, late) == (0, [])
            assert (await connection.take_lease(claim())).token == 1

    run(main)


def test_who_is_given_it_just_when_it_is_no_longer_waited_for_is_told() -> None:
    async def main() -> None:
        node, chain = node_with_held("lock")
        late: list[str] = []
        link = Link(delay=lambda: 1.0)
        async with connected(node, link) as connection, trio.open_nursery() as nursery:

            async def wait() -> None:
                with scope:
                    await connection.take_lease(claim(), wait=True, late=lambda: late.append("late"))

            scope = trio.CancelScope()
            nursery.start_soon(wait)
            await trio.sleep(10)
            chain.held["lock"].set()
            await trio.sleep(0.5)
            scope.cancel()
            await trio.sleep(5)
            assert (chain.tokens, late) == (1, ["late"])

    run(main)


def test_a_cut_link_ends_the_wait_at_both_ends_and_the_chain_is_told_who_has_gone() -> None:
    async def main() -> None:
        node, chain = node_with_held("lock")
        link = Link()
        async with connected(node, link) as connection:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(ConnectionLostError):
                        await connection.take_lease(claim(), wait=True)

                nursery.start_soon(wait)
                await trio.sleep(1)
                assert chain.left == 0
                link.cut()
            await wait_all_tasks_blocked()
            assert chain.left == 1
            chain.held["lock"].set()
            await wait_all_tasks_blocked()
            assert chain.tokens == 0

    run(main)


def test_a_server_that_stops_does_not_wait_for_those_who_wait() -> None:
    async def main() -> None:
        node, _ = node_with_held("lock")
        stopping = trio.Event()
        async with connected(node, stopping=stopping) as connection, trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConnectionLostError):
                    await connection.take_lease(claim(), wait=True)

            nursery.start_soon(wait)
            await trio.sleep(1)
            stopping.set()

    run(main)


def test_there_is_a_bound_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "MAX_WAITS", 2)

    async def main() -> None:
        node, chain = node_with_held("lock")
        async with connected(node) as connection, trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: connection.take_lease(claim(), wait=True))
            await trio.sleep(1)
            with pytest.raises(NoLocksError):
                await connection.take_lease(claim(), wait=True)
            chain.held["lock"].set()

    run(main)


def test_a_request_with_the_number_of_one_that_waits_ends_the_connection() -> None:
    async def main() -> None:
        node, _ = node_with_held("lock")
        async with connected(node) as connection, trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(ConnectionLostError, match="number of one that is under way"):
                    await connection.take_lease(claim(), wait=True)

            nursery.start_soon(wait)
            await trio.sleep(1)
            requests = connection._requests
            number = next(number for number, one in requests._waiting.items() if one.queued)
            requests.send(GetDocument(number, "keys"))

    run(main)
