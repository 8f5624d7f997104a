"""Advisory locks: byte ranges (man 2 fcntl) and whole files (man 2 flock).

A plain table in memory, for one thread. A node has one for each chain, and each mount of a chain one of its own locks.
What is locked has a name, and who locks is an owner: a process for POSIX locks, an open file for open-file-description
locks and flock. Both are opaque. Two locks of one name conflict when their owners differ, their bytes meet and one of
them is exclusive; locks of fcntl and of flock never conflict, as on Linux.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from atedb.errors import InvalidError
from atedb.net.errors import DeadlockError, NoLocksError

LAST = (1 << 63) - 1
"""The last byte that a lock can name; a lock up to here holds wherever the file ends."""


class Lock(NamedTuple):
    """Bytes `start` to `end`, both included. pid: of the process that set it, for `Locks.test`.

    flock: set by flock; it then covers the file, whatever start and end say.
    """

    start: int = 0
    end: int = LAST
    exclusive: bool = True
    pid: int = 0
    flock: bool = False

    def within(self, start: int, end: int) -> Lock:
        """The part of it that lies in bytes `start` to `end`, both included, of which it has some."""
        return self._replace(start=max(self.start, start), end=min(self.end, end))


class LockBounds(NamedTuple):
    """How many locks (a split range counts twice) and how many waiters one name and one table may have."""

    locks_per_name: int = 4_096
    locks: int = 16_384
    waiters_per_name: int = 1_024
    waiters: int = 4_096


DEFAULT_BOUNDS = LockBounds()


class Waiter:
    """Somebody who waits for a lock. wake: called once, when the owner has it."""

    __slots__ = ("lock", "name", "owner", "wake")

    def __init__(self, name: Hashable, owner: Hashable, lock: Lock, wake: Callable[[], None]) -> None:
        self.name = name
        self.owner = owner
        self.lock = lock
        self.wake = wake


class Ranges:
    """Locks of one owner of one name: sorted, disjoint, and adjacent ones of one kind together."""

    __slots__ = ("held",)

    def __init__(self, locks: Iterable[Lock] = ()) -> None:
        self.held: list[Lock] = []
        for lock in locks:
            self.put(lock)

    def __iter__(self) -> Iterator[Lock]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def put(self, lock: Lock) -> None:
        """Set `lock` over whatever there is."""
        self.replace(lock.start, lock.end, lock)

    def add(self, lock: Lock) -> None:
        """Set `lock`, but where there is an exclusive one already, that stays."""
        stronger = [one for one in self.overlapping(lock) if one.exclusive]
        for one in (lock, *stronger):
            self.put(one)

    def cut(self, start: int, end: int) -> None:
        """There is nothing of bytes `start` to `end`, both included, any more."""
        self.replace(start, end, None)

    def within(self, span: Lock) -> list[Lock]:
        """What there is of the bytes of `span`, lowest first."""
        return [one.within(span.start, span.end) for one in self.overlapping(span)]

    def missing(self, lock: Lock) -> list[Lock]:
        """The pieces of `lock` of whose bytes there is nothing, lowest first."""
        pieces, at = [], lock.start
        for one in self.overlapping(lock):
            if one.start > at:
                pieces.append(lock._replace(start=at, end=one.start - 1))
            at = one.end + 1
        if at <= lock.end:
            pieces.append(lock._replace(start=at))
        return pieces

    def replace(self, start: int, end: int, new: Lock | None) -> int:
        """Have `new` take the place of [start, end], or nothing. How many more locks there are than before."""
        old, pieces = self.planned(start, end, new)
        more = len(pieces) - len(self.held[old])
        self.held[old] = pieces
        return more

    def overlapping(self, lock: Lock) -> Iterator[Lock]:
        """Those that share a byte with `lock`, lowest first."""
        held = self.held
        at = bisect_left(held, lock.start, key=lambda one: one.end)
        while at < len(held) and held[at].start <= lock.end:
            yield held[at]
            at += 1

    def planned(self, start: int, end: int, new: Lock | None) -> tuple[slice, list[Lock]]:
        """What becomes of [start, end] when `new` takes its place (None: nothing does): which locks, and by which."""
        held = self.held
        first = last = bisect_left(held, start - 1, key=lambda one: one.end)
        pieces: list[Lock] = []
        above: list[Lock] = []
        while last < len(held) and held[last].start <= end + 1:
            old = held[last]
            last += 1
            if new is not None and old.exclusive == new.exclusive:
                new = new._replace(start=min(new.start, old.start), end=max(new.end, old.end))
                continue
            if old.start < start:
                pieces.append(old._replace(end=min(old.end, start - 1)))
            if old.end > end:
                above.append(old._replace(start=max(old.start, end + 1)))
        if new is not None:
            pieces.append(new)
        return slice(first, last), pieces + above


class _File:
    """The locks of one kind of one name: those held, by owner, and who waits, in order of arrival."""

    __slots__ = ("count", "owners", "waiters")

    def __init__(self) -> None:
        self.count = 0
        self.owners: dict[Hashable, Ranges] = {}
        self.waiters: list[Waiter] = []

    def conflicts(self, owner: Hashable, lock: Lock) -> Iterator[tuple[Hashable, Lock]]:
        """Who holds what `owner` would need; of each owner the lowest."""
        for other, ranges in self.owners.items():
            if other != owner:
                for held in ranges.overlapping(lock):
                    if held.exclusive or lock.exclusive:
                        yield other, held
                        break

    def first_conflict(self, owner: Hashable, lock: Lock) -> Lock | None:
        return min((held for _, held in self.conflicts(owner, lock)), default=None)


class Locks:
    """All locks of a chain or of a mount. Locks that a call releases go to those who wait for them, first come first
    served, before it returns; their `wake` must not call back into the table.
    """

    def __init__(self, bounds: LockBounds = DEFAULT_BOUNDS) -> None:
        self._bounds = bounds
        self._files: dict[tuple[Hashable, bool], _File] = {}
        self._waiting: dict[Hashable, list[Waiter]] = {}
        """By owner, those that wait for a range: the edges of the graph that deadlocks are circles in."""
        self._held = 0
        self._waiters = 0

    @property
    def held(self) -> int:
        """How many locks there are."""
        return self._held

    @property
    def waiters(self) -> int:
        """How many wait."""
        return self._waiters

    def try_lock(self, name: Hashable, owner: Hashable, lock: Lock) -> Lock | None:
        """Set `lock` over whatever its owner has there (F_SETLK, LOCK_NB). None, or the conflict that prevents it.

        A conversion by flock gives up the old lock first, and has neither after a conflict (man 2 flock). Raises
        InvalidError for a range that is none, NoLocksError when there would be too many.
        """
        lock = _checked(lock)
        file = self._files.get((name, lock.flock)) or _File()
        gave_up = lock.flock and self._give_up_other_kind(file, owner, lock)
        conflict = file.first_conflict(owner, lock)
        if conflict is None:
            self._check_room(file, owner, lock.start, lock.end, lock)
            self._files[name, lock.flock] = file
            gave_up |= self._put(file, owner, lock)
        if gave_up:
            self._grant(file)
        return conflict

    def test(self, name: Hashable, owner: Hashable, lock: Lock) -> Lock | None:
        """The lock, lowest first, that would prevent `lock` (F_GETLK); None: it could be set."""
        lock = _checked(lock)
        file = self._files.get((name, lock.flock))
        return file.first_conflict(owner, lock) if file is not None else None

    def in_the_way(self, name: Hashable, owner: Hashable, lock: Lock) -> list[Hashable]:
        """Whose locks prevent `lock`."""
        file = self._files.get((name, lock.flock))
        return [other for other, _ in file.conflicts(owner, _checked(lock))] if file is not None else []

    def held_by(self, name: Hashable, owner: Hashable, *, flock: bool = False) -> list[Lock]:
        """What an owner has, in the order of the bytes."""
        file = self._files.get((name, flock))
        ranges = file.owners.get(owner) if file is not None else None
        return list(ranges.held) if ranges is not None else []

    def holders(self) -> list[tuple[Hashable, Hashable, bool]]:
        """All that have anything: name, owner, and whether by flock."""
        return [(name, owner, flock) for (name, flock), file in self._files.items() for owner in file.owners]

    def wait(self, name: Hashable, owner: Hashable, lock: Lock, wake: Callable[[], None]) -> Waiter | None:
        """Set `lock` now, and return None; or as soon as that is possible, and call `wake` then (F_SETLKW).

        Raises what `try_lock` raises, and for ranges DeadlockError when the owner would wait for itself through others
        that wait. That is looked for as the waiting begins.
        """
        conflict = self.try_lock(name, owner, lock)
        if conflict is None:
            return None
        lock = _checked(lock)
        file = self._files[name, lock.flock]
        if not lock.flock and self._closes_circle(file, owner, lock):
            raise DeadlockError("The lock is held by somebody who waits, directly or not, for the one that asks.")
        if len(file.waiters) >= self._bounds.waiters_per_name or self._waiters >= self._bounds.waiters:
            raise NoLocksError("Too many wait for locks.")
        waiter = Waiter(name, owner, lock, wake)
        file.waiters.append(waiter)
        self._waiters += 1
        if not lock.flock:
            self._waiting.setdefault(owner, []).append(waiter)
        return waiter

    def cancel(self, waiter: Waiter) -> bool:
        """It waits no longer. False: it has its lock already, and keeps it."""
        file = self._files.get((waiter.name, waiter.lock.flock))
        if file is None or waiter not in file.waiters:
            return False
        self._wait_no_longer(file, waiter)
        self._tidy(waiter.name, waiter.lock.flock)
        return True

    def unlock(self, name: Hashable, owner: Hashable, start: int = 0, end: int = LAST, *, flock: bool = False) -> None:
        """Release what the owner has of bytes `start` to `end`, both included; to have nothing there is no error.

        Raises InvalidError, and NoLocksError when a lock would fall in two and that is one too many.
        """
        span = _checked(Lock(start, end, flock=flock))
        file = self._files.get((name, flock))
        if file is None or owner not in file.owners:
            return
        self._check_room(file, owner, span.start, span.end, None)
        self._replace(file, owner, span.start, span.end, None)
        self._grant(file)
        self._tidy(name, flock)

    def release_owner(self, name: Hashable, owner: Hashable) -> None:
        """The owner has closed the file: all its locks on it are gone, of either kind. What it waits for it still does.

        For the close of a file by a process, and of the last descriptor of an open file.
        """
        for flock in (False, True):
            self.unlock(name, owner, flock=flock)

    # Holding

    def _tidy(self, name: Hashable, flock: bool) -> None:
        file = self._files[name, flock]
        if not file.owners and not file.waiters:
            del self._files[name, flock]

    def _check_room(self, file: _File, owner: Hashable, start: int, end: int, new: Lock | None) -> None:
        """Raises NoLocksError when there would be more locks than the bounds allow, and more than there are."""
        ranges = file.owners.get(owner)
        if ranges is None:
            more = 1
        else:
            old, pieces = ranges.planned(start, end, new)
            more = len(pieces) - (old.stop - old.start)
        if more > 0:
            bounds = self._bounds
            if self._held + more > bounds.locks or file.count + more > bounds.locks_per_name:
                raise NoLocksError("Too many locks are set.")

    def _replace(self, file: _File, owner: Hashable, start: int, end: int, new: Lock | None) -> None:
        ranges = file.owners.get(owner)
        if ranges is None:
            ranges = file.owners[owner] = Ranges()
        more = ranges.replace(start, end, new)
        file.count += more
        self._held += more
        if not ranges.held:
            del file.owners[owner]

    def _put(self, file: _File, owner: Hashable, lock: Lock) -> bool:
        """Set a lock that nothing prevents. True: bytes that were held exclusively are shared now."""
        ranges = file.owners.get(owner)
        weaker = not lock.exclusive and ranges is not None and any(one.exclusive for one in ranges.overlapping(lock))
        self._replace(file, owner, lock.start, lock.end, lock)
        return weaker

    def _give_up_other_kind(self, file: _File, owner: Hashable, lock: Lock) -> bool:
        ranges = file.owners.get(owner)
        if ranges is None or ranges.held[0].exclusive == lock.exclusive:
            return False
        self._replace(file, owner, 0, LAST, None)
        return True

    # Waiting

    def _grant(self, file: _File) -> None:
        """Give what can be given to those who wait, in their order; again, when that releases something.

        The bounds do not count here, since somebody who waits has been promised the lock: waiters have bounds.
        """
        granted: list[Waiter] = []
        again = True
        while again:
            again = False
            for waiter in list(file.waiters):
                if next(file.conflicts(waiter.owner, waiter.lock), None) is None:
                    again |= self._put(file, waiter.owner, waiter.lock)
                    self._wait_no_longer(file, waiter)
                    granted.append(waiter)
        for waiter in granted:
            waiter.wake()

    def _wait_no_longer(self, file: _File, waiter: Waiter) -> None:
        file.waiters.remove(waiter)
        self._waiters -= 1
        if not waiter.lock.flock:
            edges = self._waiting[waiter.owner]
            edges.remove(waiter)
            if not edges:
                del self._waiting[waiter.owner]

    def _closes_circle(self, file: _File, owner: Hashable, lock: Lock) -> bool:
        """Whether those who hold what is needed wait for `owner`, or for others who do."""
        seen: set[Hashable] = set()
        blockers = [other for other, _ in file.conflicts(owner, lock)]
        while blockers:
            other = blockers.pop()
            if other == owner:
                return True
            if other not in seen:
                seen.add(other)
                for waiter in self._waiting.get(other, ()):
                    held = self._files[waiter.name, False].conflicts(other, waiter.lock)
                    blockers += [further for further, _ in held]
        return False


def _checked(lock: Lock) -> Lock:
    if lock.flock:
        return lock._replace(start=0, end=LAST)
    if not 0 <= lock.start <= lock.end <= LAST:
        raise InvalidError("A lock has a first byte and a last one that is not before it.")
    return lock
