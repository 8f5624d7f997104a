"""The storm's own bookkeeping: what is lost is found out, and what may be gone is not called lost."""

from __future__ import annotations

import pytest

from tests.system.storm_journal import Journal


def journal(*lives: tuple[int, int, int]) -> Journal:
    """Lives as (number, tokens, how many of them were synced); tokens are "life.place"."""
    made = Journal("it")
    for life, count, synced in lives:
        for place in range(count):
            made.done(made.begin(f"{life}.{place}", life))
            if place + 1 == synced:
                made.synced(life)
    return made


@pytest.mark.parametrize(
    ("found", "killed", "lost"),
    [
        ({"1.0", "1.1", "1.2", "2.0"}, set(), 0),
        ({"1.0", "1.1", "2.0"}, set(), 1),  # the life ended in order
        ({"1.0", "1.1", "2.0"}, {1}, 0),  # the end of a life that was ended by force
        ({"1.0", "2.0"}, {1}, 1),  # it was synced
        ({"1.1", "1.2", "2.0"}, {1}, 1),  # a hole
        ({"1.0", "1.1"}, {2}, 1),
        (set(), {1, 2}, 2),
    ],
)
def test_what_must_be_there_is_missed(found: set[str], killed: set[int], lost: int) -> None:
    assert len(journal((1, 3, 2), (2, 1, 0)).lost(found, set(), killed)) == lost


def test_what_was_deleted_or_not_written_is_not_missed() -> None:
    made = journal((1, 2, 2))
    made.begin("never", 1)
    assert made.lost({"1.0"}, {"1.1"}, set()) == []
