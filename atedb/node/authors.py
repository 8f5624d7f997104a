"""Who has appended the newest batches: those who follow the chain have their own already, and are only told of them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from atedb.chain.position import Position

_MOST = 4096


class _Run(NamedTuple):
    """Batches of one append."""

    first: int
    last: Position
    client: object


class Authors:
    """A while of the newest appends, one directly after the other. What is forgotten counts as somebody else's."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque(maxlen=_MOST)

    def add(self, first: int, last: Position, client: object) -> None:
        """The newest batches, from sequence `first` to `last`, are this client's."""
        if self._runs and self._runs[-1].last.sequence != first - 1:
            self._runs.clear()
        if self._runs and self._runs[-1].client is client:
            first = self._runs.pop().first
        self._runs.append(_Run(first, last, client))

    def forget(self) -> None:
        """Know nothing any longer."""
        self._runs.clear()

    def own(self, client: object, first: int) -> Position | None:
        """Where the client's own batches end that begin at sequence `first`; None if that one is not the client's."""
        run = self._from(client, first)
        return run.last if run is not None and run.first <= first else None

    def before(self, client: object, first: int, last: int) -> int:
        """The last batch from `first` up to `last` before the first one of the client's own."""
        run = self._from(client, first)
        return last if run is None else min(last, run.first - 1)

    def _from(self, client: object, first: int) -> _Run | None:
        """The client's run that has the sequence `first`, or is the next one after it."""
        found = None
        for run in reversed(self._runs):  # whoever follows is seldom far behind
            if run.last.sequence < first:
                break
            if run.client is client:
                found = run
        return found
