"""Whoever opens connections and says nothing takes no place from those who prove a key."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from atedb.node import lobby
from atedb.node.lobby import STRANGERS_MAX, Lobby


class Crowd:
    """Connections that wait inside a lobby. ended: which of them were ended, in order."""

    def __init__(self, most: int, nursery: trio.Nursery) -> None:
        self.lobby = Lobby(most)
        self.ended: list[int] = []
        self._nursery = nursery
        self._leave: dict[int, trio.Event] = {}

    async def come(self, number: int, *, known: bool = False) -> None:
        self._leave[number] = trio.Event()
        self._nursery.start_soon(self._stay, number, known)
        await trio.testing.wait_all_tasks_blocked()

    async def leave(self, number: int) -> None:
        self._leave[number].set()
        await trio.testing.wait_all_tasks_blocked()

    async def _stay(self, number: int, known: bool) -> None:
        with trio.CancelScope() as scope, self.lobby.gate(scope):
            if known:
                lobby.current().introduce()
            await self._leave[number].wait()
        if scope.cancelled_caught:
            self.ended.append(number)


def run(most: int, *steps: tuple[int, bool]) -> Crowd:
    """Connections that come one after the other: (number, whether it proves a key at once)."""
    crowds = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            crowd = Crowd(most, nursery)
            crowds.append(crowd)
            for number, known in steps:
                await crowd.come(number, known=known)
            ended = list(crowd.ended)
            assert crowd.lobby.count == len(steps) - len(ended)
            nursery.cancel_scope.cancel()
        crowd.ended = ended
        assert crowd.lobby.count == 0
        assert not crowd.lobby.strangers

    trio.run(main)
    return crowds[0]


def test_of_too_many_strangers_the_oldest_goes() -> None:
    assert run(8, *[(number, False) for number in range(6)]).ended == [0, 1]


def test_with_nobody_turned_away_the_crowd_has_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin."""
    monkeypatch.setattr(Lobby, "_turn_away", lambda _: None)
    assert run(8, *[(number, False) for number in range(20)]).ended == []


def test_who_proved_a_key_stays_whatever_crowd_comes() -> None:
    crowd = run(8, (0, True), (1, True), *[(number, False) for number in range(2, 40)], (40, True))
    assert crowd.ended == list(range(2, 37))
    assert crowd.lobby.turned_away == 35


def test_where_all_places_are_taken_by_known_clients_the_newcomer_goes() -> None:
    assert run(4, *[(number, True) for number in range(4)], (4, False)).ended == [4]


def test_a_large_server_has_few_strangers_too() -> None:
    assert len(run(10_000, *[(number, False) for number in range(STRANGERS_MAX + 3)]).ended) == 3


def test_a_place_that_was_left_is_free_again() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            crowd = Crowd(2, nursery)
            await crowd.come(0, known=True)
            await crowd.come(1, known=True)
            await crowd.leave(0)
            await crowd.come(2)
            assert crowd.ended == []
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_at_the_end_all_strangers_go() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            crowd = Crowd(8, nursery)
            await crowd.come(0)
            await crowd.come(1, known=True)
            await crowd.come(2)
            crowd.lobby.close()
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(crowd.ended) == [0, 2]
            nursery.cancel_scope.cancel()

    trio.run(main)
