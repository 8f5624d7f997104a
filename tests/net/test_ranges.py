"""Ranges of one owner: whatever is set, added and cut, each byte is what a list of bytes says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atedb.net.locks import LAST, Lock, Ranges

BYTES = 12

changes = st.lists(
    st.tuples(st.sampled_from(["put", "add", "cut"]), st.integers(0, BYTES - 1), st.integers(1, BYTES), st.booleans()),
    max_size=12,
)


def lock(start: int, length: int, exclusive: bool = False) -> Lock:
    return Lock(start, min(start + length, BYTES) - 1, exclusive)


def plain(locks: list[Lock]) -> list[tuple[int, bool]]:
    """Each byte, and how it is locked."""
    return [(at, one.exclusive) for one in locks for at in range(one.start, one.end + 1)]


@given(changes, st.integers(0, BYTES - 1), st.integers(1, BYTES))
def test_each_byte_is_as_it_was_set_last_or_was_added_strongest(
    steps: list[tuple[str, int, int, bool]], start: int, length: int
) -> None:
    ranges, model = Ranges(), dict[int, bool]()
    for what, at, long, exclusive in steps:
        one = lock(at, long, exclusive)
        for byte in range(one.start, one.end + 1):
            if what == "cut":
                model.pop(byte, None)
            else:
                model[byte] = exclusive or (what == "add" and model.get(byte, False))
        if what == "cut":
            ranges.cut(one.start, one.end)
        else:
            (ranges.put if what == "put" else ranges.add)(one)
    assert plain(list(ranges)) == sorted(model.items())
    assert all(left.end + 1 < right.start or left.exclusive != right.exclusive for left, right in neighbours(ranges))
    span = lock(start, length, True)
    bytes_of = range(span.start, span.end + 1)
    assert plain(ranges.within(span)) == [(at, model[at]) for at in bytes_of if at in model]
    assert plain(ranges.missing(span)) == [(at, True) for at in bytes_of if at not in model]


def neighbours(ranges: Ranges) -> list[tuple[Lock, Lock]]:
    return list(zip(ranges.held, ranges.held[1:], strict=False))


def test_a_range_to_the_last_byte_that_can_be_named_can_be_cut_anywhere() -> None:
    ranges = Ranges([Lock(0, LAST)])
    ranges.cut(LAST, LAST)
    ranges.cut(5, 5)
    assert [one[:2] for one in ranges] == [(0, 4), (6, LAST - 1)]
    assert [one[:2] for one in ranges.missing(Lock(0, LAST))] == [(5, 5), (LAST, LAST)]
