"""Letting a client in that comes too late again and again.

Whoever is not the first has to take the other batches and put its own on top of them, which takes time; where another
client appends without a pause, it would be late for ever. So when a client is late for the second time in a row, the
others wait a moment: as long as it took to come back, twice over.
"""

from __future__ import annotations

import trio

LONGEST, SHORTEST = 5.0, 0.1
"""Seconds that others wait."""
_UNUSED = -8
_MOST_CLIENTS = 1000


class Patience:
    """Who goes first, and for how long."""

    def __init__(self) -> None:
        self._late: dict[object, tuple[int, float]] = {}
        self._first: object | None = None
        self._until = 0.0

    def late(self, client: object) -> None:
        """A client was too late."""
        now = trio.current_time()
        times, before = self._late.get(client, (0, now))
        if len(self._late) >= _MOST_CLIENTS:
            self._late.clear()
        self._late[client] = times + 1, now
        if times + 1 >= 2 and self.first is None:
            self._first, self._until = client, now + min(max(2 * (now - before), SHORTEST), LONGEST)

    def forget(self, client: object) -> None:
        """A client's batches were added, or it has left."""
        self._late.pop(client, None)
        if self._first is client:
            self._first = None

    def end(self) -> None:
        """Wait for nobody."""
        self._first = None

    @property
    def first(self) -> object | None:
        """The client whom the others wait for; None when they need not."""
        if self._first is not None and trio.current_time() >= self._until:
            # It has not come. It is not waited for again so soon, or it could slow the others down as it likes.
            self._late[self._first] = _UNUSED, trio.current_time()
            self._first = None
        return self._first

    @property
    def left(self) -> float:
        """Seconds that the others still wait."""
        return max(0.0, self._until - trio.current_time())
