"""How it stands between the server and somebody who locks: what either does not know of the other.

Whoever locks and unlocks a range again and again while there is no server leaves one entry, and not one for each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from atedb.net.locks import LAST, Lock, Ranges


class Holder(NamedTuple):
    """A process or an open file (the kernel's number for it), and what it may have locked."""

    ino: int
    owner: int
    flock: bool


class Debt(NamedTuple):
    """Bytes of which the server is to hear what is true now. doubtful: nobody here has had what it may have given."""

    span: Lock
    doubtful: bool


class Standing:
    """Of one holder. No byte is both owed and doubtful.

    token: the newest that it was given, 0 if the server has nothing of it. owed: what it has given back, or has weaker
    now, as it was: what was done under it may not be on the server yet. doubtful: where the server may have given
    something unheard. unsure: what it has here, and not there. paying: what the server is being told.
    asking, releasing: how many requests are under way; releases: how many of the latter there have been.
    """

    __slots__ = ("asking", "doubtful", "owed", "paying", "releases", "releasing", "token", "unsure")

    def __init__(self) -> None:
        self.token = 0
        self.owed = Ranges()
        self.doubtful = Ranges()
        self.unsure = Ranges()
        self.paying: set[Debt] = set()
        self.asking = self.releases = self.releasing = 0

    @property
    def owing(self) -> bool:
        """Whether the server is to be told something."""
        return bool(self.owed or self.doubtful or self.paying)

    @property
    def even(self) -> bool:
        """Whether the server knows what is true, and all of it."""
        return not (self.owing or self.unsure)

    def known(self, held: Iterable[Lock]) -> list[Lock]:
        """What the server has heard of, of what is held."""
        return [piece for one in held for piece in self.unsure.missing(one)]

    def unheard(self, held: Iterable[Lock]) -> list[Lock]:
        """What it has not heard of."""
        return [one._replace(start=piece.start, end=piece.end) for one in held for piece in self.unsure.within(one)]

    def given(self, lock: Lock, token: int) -> None:
        """The server has given it, and it is held. Where it has given something since, that may be in its place."""
        for ranges in (self.unsure, self.owed, self.doubtful):
            ranges.cut(lock.start, lock.end)
        if token < self.token:
            self.doubt(lock)

    def locked_here(self, lock: Lock, held: Iterable[Lock]) -> None:
        """It is held instead of what was `held` before, and the server has not heard of it."""
        new = Ranges([lock])
        for one in self.known(held):
            for piece in new.within(one):
                if one.exclusive != lock.exclusive:
                    self.owed.add(one._replace(start=piece.start, end=piece.end))
        for one in self.known(held):
            if one.exclusive or not lock.exclusive:
                new.cut(one.start, one.end)
        for piece in new:
            self.unsure.put(piece)

    def gave_back(self, start: int, end: int, held: Iterable[Lock], instead: Lock | None) -> None:
        """What was `held` of bytes `start` to `end` is no longer, or is shared from now on."""
        for one in held:
            for piece in self.unsure.missing(one.within(start, end)):
                self.owed.add(piece)
                self.doubtful.cut(piece.start, piece.end)
        if instead is None:
            self.unsure.cut(start, end)

    def doubt(self, lock: Lock) -> None:
        """The server may have given it."""
        for piece in self.owed.missing(lock):
            self.doubtful.put(piece)

    def lose(self) -> None:
        """The server has given something of it to others. It may have the rest still."""
        self.token = 0
        self.owed, self.unsure = Ranges(), Ranges()
        self.doubt(Lock(0, LAST))

    def begin_to_pay(self, settled: Iterable[Lock], held: Iterable[Lock]) -> None:
        """The server is being told of all that is doubtful, and of what is owed of these bytes, and no stronger.

        But where it has something shared that is `held` exclusively meanwhile, it keeps it until it has heard of that.
        """
        stronger = Ranges(one for one in self.unheard(held) if one.exclusive)
        for span in settled:
            for piece in self.owed.within(span):
                if piece.exclusive <= span.exclusive:
                    pieces = [piece] if piece.exclusive else stronger.missing(piece)
                    self.paying.update(Debt(one, doubtful=False) for one in pieces)
        self.paying.update(Debt(span, doubtful=True) for span in self.doubtful)
        for debt in self.paying:
            (self.doubtful if debt.doubtful else self.owed).cut(debt.span.start, debt.span.end)

    def end_paying(self) -> None:
        """What it was not told, it is to be told later."""
        for debt in self.paying:
            if not debt.doubtful:
                self.owed.add(debt.span)
                self.doubtful.cut(debt.span.start, debt.span.end)
        for debt in self.paying:
            if debt.doubtful:
                self.doubt(debt.span)
        self.paying.clear()
