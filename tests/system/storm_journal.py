"""What the threads of a storm were told, and what of it has to be there afterwards.

A token is something that can be looked for when all is over: a piece of a file's content, a commit, a row, a tree. A
*life* of a machine is the time between two mounts. What was synced is there whatever happened. What was done in a life
that ended in order, or by the end of the storm, is there; of a life that ended by a kill, a beginning is.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple


class Entry(NamedTuple):
    """One token. sure: what wrote it had succeeded while the machine was up."""

    token: str
    life: int
    sure: bool


class Journal:
    """Of one thread, in the order in which it worked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[Entry] = []
        self._synced: dict[int, int] = {}

    def __str__(self) -> str:
        sure = sum(entry.sure for entry in self.entries)
        return f"{len(self.entries)} tokens, {sure} of them written, synced up to {self._synced}"

    def begin(self, token: str, life: int) -> int:
        """It is about to be written; where it stands."""
        self.entries.append(Entry(token, life, False))
        return len(self.entries) - 1

    def done(self, place: int) -> None:
        """It was written."""
        self.entries[place] = self.entries[place]._replace(sure=True)

    def synced(self, life: int) -> None:
        """All that was written up to now is on stable storage, where the recovery mode wants it."""
        self._synced[life] = len(self.entries)

    def lost(self, found: Container[str], destroyed: Container[str], killed: Container[int]) -> list[str]:
        """Tokens that are missing and must not be.

        destroyed: those that somebody has deleted on purpose. killed: lives that ended by a kill.
        """
        wrong: list[str] = []
        missing: dict[int, list[int]] = {}
        for place, entry in enumerate(self.entries):
            if not entry.sure or entry.token in destroyed:
                continue
            if entry.token not in found:
                missing.setdefault(entry.life, []).append(place)
            elif entry.life in missing and entry.life in killed:
                wrong += [f"{self.entries[gap].token}, though {entry.token} is there" for gap in missing[entry.life]]
                missing[entry.life] = []
        for life, places in missing.items():
            for place in places:
                if place < self._synced.get(life, 0):
                    wrong.append(f"{self.entries[place].token}, which was synced")
                elif life not in killed:
                    wrong.append(f"{self.entries[place].token}, of a life that was not ended by force")
        return wrong
