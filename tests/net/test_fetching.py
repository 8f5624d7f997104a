"""Bodies that several want at once come once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from atedb.errors import UnreachableError
from atedb.net.fetching import Body, Fetching


class Server:
    """Counts what it gives; gives it when the test lets it. fails: how many requests fail at first."""

    def __init__(self, fails: int = 0) -> None:
        self.given: list[Body] = []
        self.go = trio.Event()
        self.fails = fails

    async def fetch(self, wanted: Sequence[Body]) -> list[bytes]:
        self.given += wanted
        await self.go.wait()
        if self.fails:
            self.fails -= 1
            raise UnreachableError("gone")
        return [b"%d/%d" % body for body in wanted]


def window(first: int) -> list[Body]:
    return [(1, place) for place in range(first, first + 16)]


def together(server: Server, fetching: Fetching, windows: Sequence[int]) -> list[list[bytes] | UnreachableError]:
    """What each of those who ask at once gets."""
    found: list[list[bytes] | UnreachableError] = [[] for _ in windows]

    async def one(index: int) -> None:
        try:
            found[index] = await fetching.bodies(window(windows[index]))
        except UnreachableError as error:
            found[index] = error

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for index in range(len(windows)):
                nursery.start_soon(one, index)
            await trio.testing.wait_all_tasks_blocked()
            server.go.set()

    trio.run(main)
    return found


def test_what_somebody_else_has_asked_for_is_waited_for() -> None:
    server = Server()
    found = together(server, Fetching(server.fetch), [0, 1, 2, 8])
    assert found == [[b"1/%d" % place for place in range(first, first + 16)] for first in (0, 1, 2, 8)]
    assert sorted(server.given) == window(0) + window(16)[:8]


def test_a_request_that_failed_has_failed_for_all_who_waited_for_it() -> None:
    server = Server(fails=1)
    found = together(server, Fetching(server.fetch), [0, 0, 0])
    assert [type(one) for one in found] == [UnreachableError] * 3
    assert len(server.given) == 16


def test_whoever_waited_for_a_request_that_was_given_up_asks_for_it() -> None:
    server = Server()
    fetching = Fetching(server.fetch)
    found: list[bytes] = []

    async def second() -> None:
        found.extend(await fetching.bodies(window(0)))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as first:
                nursery.start_soon(_cancelled_after, first, nursery, second, server)
                await fetching.bodies(window(0))

    trio.run(main)
    assert len(found) == 16
    assert len(server.given) == 32


async def _cancelled_after(
    scope: trio.CancelScope, nursery: trio.Nursery, then: Callable[[], Awaitable[None]], server: Server
) -> None:
    """Begin another task, and give up the scope's once both wait; then let the server answer."""
    nursery.start_soon(then)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    server.go.set()


def test_what_came_is_not_kept() -> None:
    server = Server()
    fetching = Fetching(server.fetch)
    together(server, fetching, [0])
    together(server, fetching, [0])
    assert len(server.given) == 32


@pytest.mark.parametrize("apart", [True, False])
def test_asked_for_one_after_the_other_nothing_is_left_behind(apart: bool) -> None:
    server = Server()
    fetching = Fetching(server.fetch)
    for first in (0, 16 if apart else 8):
        together(server, fetching, [first])
    assert len(server.given) == 32
    assert not fetching._coming
