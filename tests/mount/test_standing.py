"""What the server and somebody who locks do not know of each other: kept as bytes, each as strong as it was."""

from __future__ import annotations

from atedb.net.locks import LAST, Lock, Ranges
from atefs.mount.standing import Debt, Standing


def exclusive(start: int, end: int) -> Lock:
    return Lock(start, end, True)


def shared(start: int, end: int) -> Lock:
    return Lock(start, end, False)


def given(*held: Lock) -> Standing:
    """Of somebody who has these, as the server knows."""
    standing = Standing()
    for lock in held:
        standing.token += 1
        standing.given(lock, standing.token)
    return standing


def paid(standing: Standing, settled: list[Lock], held: list[Lock]) -> set[Debt]:
    standing.begin_to_pay(settled, held)
    return set(standing.paying)


def test_what_is_given_back_twice_is_owed_once_as_strong_as_it_was() -> None:
    standing = given(exclusive(0, 9))
    for _ in range(100):
        standing.gave_back(0, 4, [exclusive(0, 9)], None)
        standing.gave_back(3, 9, [shared(0, 9)], None)
    assert list(standing.owed) == [exclusive(0, 4), shared(5, 9)]


def test_what_the_server_has_not_heard_of_is_not_owed_when_it_is_given_back() -> None:
    standing = given(exclusive(0, 4))
    standing.locked_here(exclusive(0, 9), [exclusive(0, 4)])
    assert standing.known([exclusive(0, 9)]) == [exclusive(0, 4)]
    standing.gave_back(0, 9, [exclusive(0, 9)], None)
    assert list(standing.owed) == [exclusive(0, 4)]
    assert not standing.unsure


def test_what_is_had_stronger_without_the_server_is_owed_as_the_server_has_it_and_unsure() -> None:
    standing = given(shared(0, 9))
    standing.locked_here(exclusive(5, 14), [shared(0, 9)])
    held = [shared(0, 4), exclusive(5, 14)]
    assert standing.known(held) == [shared(0, 4)]
    assert standing.unheard(held) == [exclusive(5, 14)]
    assert list(standing.owed) == [shared(5, 9)]
    assert paid(standing, [shared(5, 9)], held) == set()  # the server keeps what it has until it hears of that
    standing.gave_back(5, 14, held, None)
    assert paid(standing, [shared(5, 9)], [shared(0, 4)]) == {Debt(shared(5, 9), doubtful=False)}


def test_what_was_not_settled_is_not_paid_and_what_could_not_be_paid_is_owed_again() -> None:
    standing = given(exclusive(0, 9), shared(10, 19))
    standing.gave_back(0, 19, [exclusive(0, 9), shared(10, 19)], None)
    standing.doubt(exclusive(15, 25))
    assert paid(standing, [shared(0, LAST)], []) == {
        Debt(shared(10, 19), doubtful=False),
        Debt(exclusive(20, 25), doubtful=True),
    }
    assert standing.owing
    standing.end_paying()
    assert list(standing.owed) == [exclusive(0, 9), shared(10, 19)]
    assert list(standing.doubtful) == [exclusive(20, 25)]


def test_what_was_given_before_something_else_may_have_been_replaced_by_that() -> None:
    standing = Standing()
    standing.token = 2
    standing.doubt(shared(0, 9))
    standing.given(exclusive(0, 9), 1)
    assert standing.owing
    standing.given(exclusive(0, 9), 2)
    assert standing.even


def test_of_what_is_lost_the_server_may_have_the_rest_and_nothing_is_to_be_had_again() -> None:
    standing = given(exclusive(0, 9))
    standing.gave_back(0, 4, [exclusive(0, 9)], None)
    standing.locked_here(exclusive(20, 29), [exclusive(5, 9)])
    standing.lose()
    assert (standing.token, len(standing.owed), len(standing.unsure)) == (0, 0, 0)
    assert Ranges(standing.doubtful).missing(Lock()) == []
