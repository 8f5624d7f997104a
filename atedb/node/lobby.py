"""Connections that have not said yet who they are: few at a time, and the one that has been here longest goes first.

So that whoever opens connections and says nothing, or says it slowly, takes no place from a client that proves its key
as quickly as clients do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import trio

STRANGERS_MAX = 256


class Visit:
    """One raw connection."""

    def __init__(self, lobby: Lobby, scope: trio.CancelScope) -> None:
        self._lobby = lobby
        self._scope = scope

    def introduce(self) -> None:
        """The client has proven a key that is let in: it stays."""
        self._lobby.strangers.pop(self, None)

    def end(self) -> None:
        """Close the connection, whatever it is doing."""
        self._scope.cancel()


_visit: ContextVar[Visit] = ContextVar("visit")


class Lobby:
    """All raw connections of a node. most: so many at one time, of which STRANGERS_MAX are strangers, and half at most.

    strangers: the oldest first. count: connections. turned_away: how many had to go for want of room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_strangers = max(1, min(STRANGERS_MAX, most // 2))
        self.strangers: dict[Visit, None] = {}
        self.count = 0
        self.turned_away = 0

    @contextmanager
    def gate(self, scope: trio.CancelScope) -> Iterator[None]:
        """Around the whole life of a raw connection. scope: ends it when it is cancelled."""
        visit = Visit(self, scope)
        self.strangers[visit] = None
        self.count += 1
        if len(self.strangers) > self._most_strangers or self.count > self._most:
            self._turn_away()
        token = _visit.set(visit)
        try:
            yield
        finally:
            _visit.reset(token)
            self.strangers.pop(visit, None)
            self.count -= 1

    def close(self) -> None:
        """End all strangers."""
        while self.strangers:
            self.strangers.popitem()[0].end()

    def _turn_away(self) -> None:
        """End the oldest stranger: with room taken by those who are known, that is the newcomer itself."""
        oldest = next(iter(self.strangers))
        del self.strangers[oldest]
        oldest.end()
        self.turned_away += 1


def current() -> Visit:
    """The connection that this task serves."""
    return _visit.get()
