"""Advisory locks do what man 2 fcntl and man 2 flock say, for those who have them and for those who wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atedb.errors import InvalidError
from atedb.net.errors import DeadlockError, NoLocksError
from atedb.net.locks import LAST, Lock, LockBounds, Locks

A, B, C, D = 0xA000, 0xB000, 0xC000, 0xD000
FILE, OTHER = 7, 8


def shared(start: int = 0, end: int = LAST, pid: int = 0) -> Lock:
    return Lock(start, end, False, pid)


def exclusive(start: int = 0, end: int = LAST, pid: int = 0) -> Lock:
    return Lock(start, end, True, pid)


def flocked(is_exclusive: bool) -> Lock:
    return Lock(exclusive=is_exclusive, flock=True)


class Told:
    """Who was given the lock, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> Callable[[], None]:
        return lambda: self.names.append(name)


@pytest.fixture
def locks() -> Locks:
    return Locks()


@pytest.fixture
def told() -> Told:
    return Told()


# Ranges


def test_shared_locks_go_together_and_exclusive_ones_do_not(locks: Locks) -> None:
    assert locks.try_lock(FILE, A, shared(0, 9)) is None
    assert locks.try_lock(FILE, B, shared(5, 15)) is None
    assert locks.try_lock(FILE, C, exclusive(12, 20)) == shared(5, 15)
    assert locks.try_lock(FILE, C, exclusive(16, 20)) is None
    assert locks.try_lock(FILE, A, shared(20, 20)) == exclusive(16, 20)
    assert locks.try_lock(OTHER, A, exclusive()) is None


def test_the_lowest_conflict_is_told_and_ones_own_locks_are_none(locks: Locks) -> None:
    locks.try_lock(FILE, A, exclusive(50, 59, pid=1))
    locks.try_lock(FILE, B, exclusive(10, 19, pid=2))
    assert locks.test(FILE, C, shared(0, 100)) == exclusive(10, 19, pid=2)
    assert locks.test(FILE, B, shared(0, 100)) == exclusive(50, 59, pid=1)
    assert locks.test(FILE, C, shared(20, 49)) is None
    assert locks.test(OTHER, C, exclusive()) is None


def held(locks: Locks) -> list[tuple[int, int, bool]]:
    """What one owner holds of the file, as others find it out."""
    found, at = [], 0
    while at <= LAST:
        lock = locks.test(FILE, D, Lock(at, LAST))
        if lock is None:
            break
        found.append((max(at, lock.start), lock.end, lock.exclusive))
        at = lock.end + 1
    return found


def test_a_lock_within_another_kind_splits_it_and_adjacent_ones_merge(locks: Locks) -> None:
    locks.try_lock(FILE, A, exclusive(0, 99))
    locks.try_lock(FILE, A, shared(40, 59))
    assert held(locks) == [(0, 39, True), (40, 59, False), (60, 99, True)]
    locks.try_lock(FILE, A, exclusive(30, 69))
    assert held(locks) == [(0, 99, True)]
    locks.try_lock(FILE, A, exclusive(100, 109))
    assert held(locks) == [(0, 109, True)]
    locks.unlock(FILE, A, 50, 54)
    assert held(locks) == [(0, 49, True), (55, 109, True)]
    assert locks.held == 2
    locks.unlock(FILE, A)
    assert (held(locks), locks.held) == ([], 0)


def test_an_upgrade_needs_the_others_to_be_gone_and_leaves_the_old_lock_if_not(locks: Locks) -> None:
    locks.try_lock(FILE, A, shared(0, 9))
    locks.try_lock(FILE, B, shared(5, 9))
    assert locks.try_lock(FILE, A, exclusive(0, 9)) == shared(5, 9)
    assert locks.test(FILE, C, exclusive(0, 0)) == shared(0, 9)
    locks.unlock(FILE, B)
    assert locks.try_lock(FILE, A, exclusive(0, 9)) is None
    assert locks.test(FILE, B, shared(0, 0)) == exclusive(0, 9)


def test_a_lock_reaches_to_the_last_byte_a_file_can_have(locks: Locks) -> None:
    locks.try_lock(FILE, A, exclusive(LAST, LAST))
    assert locks.test(FILE, B, shared()) == exclusive(LAST, LAST)
    locks.try_lock(FILE, A, exclusive(5))
    locks.unlock(FILE, A, 6, LAST)
    assert held(locks) == [(5, 5, True)]


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 4), (0, LAST + 1)])
def test_a_range_that_is_none_is_refused(locks: Locks, start: int, end: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: locks.try_lock(FILE, A, Lock(start, end)),
        lambda: locks.test(FILE, A, Lock(start, end)),
        lambda: locks.unlock(FILE, A, start, end),
    ]
    for call in calls:
        with pytest.raises(InvalidError):
            call()


def test_closing_a_file_releases_what_its_owner_has_there_and_nothing_else(locks: Locks) -> None:
    locks.try_lock(FILE, A, exclusive(0, 9))
    locks.try_lock(FILE, A, flocked(True))
    locks.try_lock(FILE, B, exclusive(20, 29))
    locks.try_lock(OTHER, A, exclusive())
    locks.release_owner(FILE, A)
    locks.release_owner(FILE, C)
    assert locks.test(FILE, C, exclusive()) == exclusive(20, 29)
    assert locks.test(FILE, C, flocked(True)) is None
    assert locks.test(OTHER, C, exclusive()) == exclusive()


# flock


def test_flock_and_fcntl_do_not_see_each_other(locks: Locks) -> None:
    assert locks.try_lock(FILE, A, exclusive()) is None
    assert locks.try_lock(FILE, B, flocked(True)) is None
    assert locks.try_lock(FILE, C, exclusive()) == exclusive()
    assert locks.try_lock(FILE, C, flocked(False)) == flocked(True)
    locks.unlock(FILE, B)
    assert locks.test(FILE, C, flocked(False)) == flocked(True)
    locks.unlock(FILE, B, flock=True)
    assert locks.test(FILE, C, flocked(False)) is None


def test_flock_covers_the_file_whatever_range_comes_with_it(locks: Locks) -> None:
    locks.try_lock(FILE, A, Lock(5, 6, flock=True))
    assert locks.test(FILE, B, Lock(100, 100, flock=True)) == flocked(True)
    locks.unlock(FILE, A, 100, 100, flock=True)
    assert locks.held == 0


def test_a_conversion_that_fails_loses_the_lock_it_had(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, flocked(False))
    locks.try_lock(FILE, B, flocked(False))
    assert locks.try_lock(FILE, A, flocked(True)) == flocked(False)
    assert locks.try_lock(FILE, B, flocked(True)) is None
    locks.try_lock(FILE, B, flocked(False))
    assert locks.try_lock(FILE, A, flocked(False)) is None
    assert locks.wait(FILE, C, flocked(True), told("C")) is not None
    locks.unlock(FILE, B, flock=True)
    assert told.names == []
    locks.try_lock(FILE, D, flocked(False))
    assert locks.try_lock(FILE, A, flocked(True)) == flocked(False)
    locks.unlock(FILE, D, flock=True)
    assert told.names == ["C"]


def test_two_who_convert_at_once_both_get_the_lock_in_turn(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, flocked(False))
    locks.try_lock(FILE, B, flocked(False))
    assert locks.wait(FILE, A, flocked(True), told("A")) is not None
    assert locks.wait(FILE, B, flocked(True), told("B")) is None
    assert told.names == []
    locks.unlock(FILE, B, flock=True)
    assert told.names == ["A"]


# Waiting


def test_those_who_wait_are_served_in_their_order(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive())
    for name, owner, lock in (("B", B, exclusive(0, 9)), ("C", C, shared(0, 9)), ("D", D, shared(5, 9))):
        assert locks.wait(FILE, owner, lock, told(name)) is not None
    locks.unlock(FILE, A)
    assert (told.names, locks.waiters) == (["B"], 2)
    locks.unlock(FILE, B)
    assert (told.names, locks.waiters) == (["B", "C", "D"], 0)


def test_who_needs_other_bytes_does_not_wait_for_those_before(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive(0, 9))
    locks.try_lock(FILE, A, exclusive(20, 29))
    locks.wait(FILE, B, exclusive(0, 9), told("B"))
    locks.wait(FILE, C, exclusive(20, 29), told("C"))
    locks.unlock(FILE, A, 20, 29)
    assert told.names == ["C"]
    locks.unlock(FILE, A, 0, 4)
    assert told.names == ["C"]
    locks.unlock(FILE, A, 0, 9)
    assert told.names == ["C", "B"]


def test_a_downgrade_lets_readers_in(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive(0, 9))
    locks.wait(FILE, B, shared(3, 4), told("B"))
    locks.try_lock(FILE, A, shared(0, 4))
    assert told.names == ["B"]


def test_a_lock_that_was_waited_for_can_itself_be_a_downgrade_that_lets_others_in(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive(0, 9))
    locks.try_lock(FILE, B, exclusive(10, 19))
    locks.wait(FILE, C, shared(0, 0), told("C"))
    locks.wait(FILE, A, shared(0, 19), told("A"))
    locks.unlock(FILE, B)
    assert told.names == ["A", "C"]


def test_what_can_be_had_at_once_is_not_waited_for(locks: Locks, told: Told) -> None:
    assert locks.wait(FILE, A, exclusive(), told("A")) is None
    assert (told.names, locks.held, locks.waiters) == ([], 1, 0)


def test_who_gives_up_waiting_gets_nothing_and_keeps_nobody_waiting(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive())
    quitter = locks.wait(FILE, B, exclusive(), told("B"))
    locks.wait(FILE, C, exclusive(), told("C"))
    assert quitter is not None
    assert (locks.cancel(quitter), locks.cancel(quitter)) == (True, False)
    locks.unlock(FILE, A)
    assert told.names == ["C"]


def test_who_gives_up_too_late_has_the_lock(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive())
    waiter = locks.wait(FILE, B, exclusive(), told("B"))
    locks.unlock(FILE, A)
    assert waiter is not None
    assert not locks.cancel(waiter)
    assert locks.test(FILE, A, shared()) == exclusive()


def test_the_death_of_who_holds_a_lock_wakes_who_waits(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive(3, 3))
    locks.wait(FILE, B, exclusive(), told("B"))
    locks.release_owner(FILE, A)
    assert told.names == ["B"]


def test_two_who_would_wait_for_each_other_are_told(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, exclusive(0, 0))
    locks.try_lock(OTHER, B, exclusive(0, 0))
    locks.wait(OTHER, A, exclusive(0, 0), told("A"))
    with pytest.raises(DeadlockError):
        locks.wait(FILE, B, exclusive(0, 0), told("B"))
    assert locks.waiters == 1
    locks.unlock(OTHER, B)
    assert told.names == ["A"]


def test_a_circle_of_three_is_found_through_any_of_several_holders(locks: Locks, told: Told) -> None:
    for at, owner in enumerate((A, B, C)):
        locks.try_lock(FILE, owner, exclusive(at, at))
    locks.try_lock(FILE, D, shared(3, 3))
    locks.try_lock(FILE, B, shared(3, 3))
    locks.wait(FILE, B, exclusive(2, 2), told("B"))
    locks.wait(FILE, C, shared(0, 0), told("C"))
    with pytest.raises(DeadlockError):
        locks.wait(FILE, A, exclusive(3, 3), told("A"))
    assert locks.wait(FILE, D, exclusive(0, 2), told("D")) is not None, "D holds nothing that the others wait for"


def test_two_readers_who_both_want_to_write_would_wait_for_each_other(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, shared())
    locks.try_lock(FILE, B, shared())
    locks.wait(FILE, A, exclusive(), told("A"))
    with pytest.raises(DeadlockError):
        locks.wait(FILE, B, exclusive(), told("B"))


def test_flock_finds_no_deadlocks(locks: Locks, told: Told) -> None:
    locks.try_lock(FILE, A, flocked(True))
    locks.try_lock(OTHER, B, flocked(True))
    locks.wait(OTHER, A, flocked(True), told("A"))
    assert locks.wait(FILE, B, flocked(True), told("B")) is not None


# Bounds


def test_locks_are_bounded_for_a_file_and_in_all(told: Told) -> None:
    locks = Locks(LockBounds(locks_per_name=2, locks=3))
    locks.try_lock(FILE, A, exclusive(0, 9))
    with pytest.raises(NoLocksError):
        locks.try_lock(FILE, A, shared(4, 5))
    locks.unlock(FILE, A, 4, 5)
    with pytest.raises(NoLocksError):
        locks.unlock(FILE, A, 1, 1)
    with pytest.raises(NoLocksError):
        locks.try_lock(FILE, B, exclusive(4, 5))
    locks.try_lock(FILE, A, exclusive(2, 5))
    locks.try_lock(FILE, B, exclusive(100, 109))
    locks.try_lock(OTHER, B, exclusive())
    with pytest.raises(NoLocksError):
        locks.wait(9, B, exclusive(), told("B"))
    locks.release_owner(FILE, A)
    assert locks.try_lock(9, B, exclusive()) is None


def test_a_promised_lock_is_given_even_where_the_bound_is_reached(told: Told) -> None:
    locks = Locks(LockBounds(locks_per_name=2))
    locks.try_lock(FILE, A, exclusive(0, 9))
    locks.try_lock(FILE, B, exclusive(20, 29))
    locks.wait(FILE, C, exclusive(5, 6), told("C"))
    locks.unlock(FILE, A, 5, 9)
    assert (told.names, locks.held) == (["C"], 3)


def test_those_who_wait_are_bounded_for_a_file_and_in_all(told: Told) -> None:
    locks = Locks(LockBounds(waiters_per_name=1, waiters=2))
    for ino in (1, 2, 3):
        locks.try_lock(ino, A, exclusive())
    first = locks.wait(1, B, exclusive(), told("B"))
    for ino, fits in ((1, False), (2, True), (3, False)):
        if fits:
            locks.wait(ino, C, exclusive(), told("C"))
        else:
            with pytest.raises(NoLocksError):
                locks.wait(ino, C, exclusive(), told("C"))
    assert first is not None
    locks.cancel(first)
    assert locks.wait(3, C, exclusive(), told("C")) is not None


def test_nothing_is_kept_of_files_that_nobody_locks(locks: Locks, told: Told) -> None:
    for ino in range(100):
        locks.try_lock(ino, A, exclusive())
        waiter = locks.wait(ino, B, exclusive(), told("B"))
        assert waiter is not None
        locks.cancel(waiter)
        locks.test(ino + 1000, A, exclusive())
        locks.release_owner(ino, A)
        locks.release_owner(ino + 1000, A)
    assert (locks._files, locks._waiting, locks.held, locks.waiters) == ({}, {}, 0, 0)
