"""What programs of a mount have locked, and of whom it is not known yet to the server. No call waits for anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

import trio

from atedb.errors import AteError
from atedb.net.client import GivenLease
from atedb.net.errors import HeldError
from atedb.net.locks import Lock, Locks
from atefs.mount.standing import Holder, Standing

log = logging.getLogger(__name__)


class Holdings:
    """table: what programs of this mount have. lost: how many locks the server gave to others, because it did not hear
    of this mount.

    standings: of those who have locks, or had some of which the server is to be told. uneven: those of them of whom the
    server does not know what is true. work: set when the server is to be told something. changed: set, and replaced,
    when any of this has changed.
    """

    def __init__(self) -> None:
        self.table = Locks()
        self.lost = 0
        self.standings: dict[Holder, Standing] = {}
        self.uneven: set[Holder] = set()
        self.work = trio.Event()
        self.changed = trio.Event()
        self._turns: WeakValueDictionary[tuple[int, bool], trio.Lock] = WeakValueDictionary()

    def held(self, holder: Holder) -> list[Lock]:
        """What somebody has."""
        return self.table.held_by(holder.ino, holder.owner, flock=holder.flock)

    def held_of(self, holder: Holder, span: Lock) -> list[Lock]:
        """What somebody has of the bytes of `span`, and no others."""
        start, end = span.start, span.end
        return [one.within(start, end) for one in self.held(holder) if one.start <= end and one.end >= start]

    def token(self, ino: int) -> int:
        """The newest fencing token of a flock of a file; 0 if there is none."""
        of_file = (one.token for holder, one in self.standings.items() if holder.ino == ino and holder.flock)
        return max(of_file, default=0)

    def turn(self, holder: Holder) -> trio.Lock:
        """For those who change what one holder or another has of a file."""
        key = (holder.ino, holder.flock)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = trio.Lock()
        return turn

    # -- what is had, and what is not any more

    def have(self, holder: Holder, lock: Lock, lease: GivenLease) -> Callable[[], None]:
        """It was given. What is returned has all as it was before, if it cannot be used.

        Raises HeldError if somebody here has it all the same, since they were without the server.
        """
        standing = self.standing(holder)
        before = self.held_of(holder, lock)
        unsure = standing.unsure.within(lock)
        try:
            conflict = self.table.try_lock(holder.ino, holder.owner, lock)
            if conflict is not None:
                raise HeldError(conflict.start, conflict.end, conflict.exclusive)
        except AteError:
            self.doubt(holder, lock)
            raise
        standing.given(lock, lease.token)
        self.look(holder)
        if standing.doubtful:
            self.work.set()

        def undo() -> None:
            self.table.unlock(holder.ino, holder.owner, lock.start, lock.end, flock=holder.flock)
            for one in before:
                self.table.try_lock(holder.ino, holder.owner, one)
            for one in unsure:
                self.standing(holder).unsure.put(one)
            self.doubt(holder, lock)

        return undo

    def have_here(self, holder: Holder, lock: Lock, before: Iterable[Lock]) -> None:
        """It is in the table, in the place of what was held before; the server has not heard of it."""
        self.standing(holder).locked_here(lock, before)
        self.look(holder)
        self.work.set()

    def weaken(self, holder: Holder, start: int, end: int, instead: Lock | None) -> bool:
        """It gives back what it has, or has it shared from now on. Whether it had anything there."""
        gone = self.held_of(holder, Lock(start, end))
        if not gone:
            return False
        if instead is None:
            self.table.unlock(holder.ino, holder.owner, start, end, flock=holder.flock)
        else:
            self.table.try_lock(holder.ino, holder.owner, instead)
        self.standing(holder).gave_back(start, end, gone, instead)
        self.look(holder)
        return True

    def doubt(self, holder: Holder, lock: Lock) -> None:
        """The server may have given it, and nobody here has it."""
        self.standing(holder).doubt(lock)
        self.look(holder)
        self.work.set()

    def heard(self, holder: Holder, lock: Lock, lease: GivenLease) -> None:
        """The server has it; if it is still held, both are even."""
        standing = self.standing(holder)
        if [one[:3] for one in self.held_of(holder, lock)] == [lock[:3]]:
            standing.given(lock, lease.token)
        else:
            standing.doubt(lock)
        self.look(holder)
        if standing.doubtful:
            self.work.set()

    def lose(self, holder: Holder) -> None:
        """The server has given what it had to others, or a part of it."""
        if self.held(holder):
            self.lost += 1
            log.warning(
                "a lock of inode %d is lost: this machine was apart from the server, and another one has got it",
                holder.ino,
            )
        self.table.unlock(holder.ino, holder.owner, flock=holder.flock)
        self.standing(holder).lose()
        self.look(holder)
        self.work.set()

    # -- who stands how

    def standing(self, holder: Holder) -> Standing:
        """How it stands; a new one for who had nothing."""
        standing = self.standings.get(holder)
        if standing is None:
            standing = self.standings[holder] = Standing()
        return standing

    def look(self, holder: Holder) -> None:
        """Something may have become even, or uneven: wake those who wait for it."""
        standing = self.standing(holder)
        if not standing.even:
            self.uneven.add(holder)
        else:
            self.uneven.discard(holder)
            if not standing.asking and not self.held(holder):
                del self.standings[holder]
        self.wake()

    def wake(self) -> None:
        """Have whoever waits for a change look again."""
        self.changed.set()
        self.changed = trio.Event()
