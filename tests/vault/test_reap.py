"""Large deletions go in bounded steps, and a crash between two of them does no harm."""

from __future__ import annotations

import pytest

from atedb.chain.event import Lane
from atefs.errors import StaleError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from tests.vault.conftest import Bench

REGION = BLOCK * REGION_BLOCKS
REGIONS = 20


@pytest.fixture
def big(bench: Bench) -> int:
    """A file with three small blocks in each of twenty regions, committed."""
    file = bench.file()
    for region in range(REGIONS):
        for block in range(3):
            bench.vault.write(file, region * REGION + block * BLOCK, b"x" * 10)
    bench.committed()
    return file


def test_a_big_file_is_deleted_in_bounded_steps(bench: Bench, big: int) -> None:
    bench.vault.unlink(1, b"f")
    sizes, more = [len(bench.committed())], True
    while more:
        more = bench.vault.reap(10)
        sizes.append(len(bench.committed()))
    assert max(sizes) <= 10 + 5
    assert sum(sizes) >= REGIONS * 4
    assert bench.chain.object_count(Lane.BLOB) == 0
    with pytest.raises(StaleError):
        bench.vault.getattr(big)


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_a_crash_between_steps_is_finished_after_the_next_opening(bench: Bench, big: int, steps: int) -> None:
    bench.vault.unlink(1, b"f")
    bench.committed()
    for _ in range(steps):
        bench.vault.reap(10)
        bench.committed()
    bench.vault.reap(10)  # and this step is lost
    bench.reopen(rebuild=True)
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 0
    with pytest.raises(StaleError):
        bench.vault.getattr(big)
    assert bench.reopen().reap() is False


def test_truncation_of_a_big_file_is_seen_at_once_and_paid_for_later(bench: Bench, big: int) -> None:
    bench.vault.setattr(big, Attributes(size=REGION + 5))
    assert len(bench.committed()) <= 5
    bench.vault.setattr(big, Attributes(size=REGIONS * REGION))
    for region in range(2, REGIONS):
        assert bench.vault.read(big, region * REGION, 10) == bytes(10)
    assert bench.vault.read(big, REGION, 10) == b"x" * 5 + bytes(5)
    bench.settle_down()
    assert bench.vault.getattr(big).blocks == 4 * 8
    assert bench.chain.object_count(Lane.BLOB) == 4
    assert bench.reopen().read(big, REGION, 10) == b"x" * 5 + bytes(5)


def test_an_emptied_big_file_can_be_small_again_while_it_is_reaped(bench: Bench, big: int) -> None:
    bench.vault.setattr(big, Attributes(size=0))
    bench.vault.write(big, 0, b"small")
    bench.committed()
    vault = bench.reopen()
    assert vault.reap(5)
    assert vault.read(big, 0, 10) == b"small"
    bench.settle_down()
    assert (vault.getattr(big).blocks, vault.getattr(big).inline, vault.read(big, 0, 10)) == (8, True, b"small")
    assert bench.chain.object_count(Lane.BLOB) == 0


def test_nothing_to_reap_asks_the_chain_once(bench: Bench) -> None:
    assert [bench.vault.reap() for _ in range(3)] == [False] * 3
    assert bench.committed() == []


@pytest.mark.parametrize("how", ["unlink", "truncate", "rename over", "forget", "punch"])
def test_whoever_reaps_is_told_when_something_is_left_to_be_deleted(bench: Bench, big: int, how: str) -> None:
    vault, told = bench.vault, list[str]()
    vault.when_left(lambda: told.append(how))
    bench.file(b"other")
    if how == "forget":
        vault.remember(big)
        vault.unlink(1, b"f")
    assert not told
    match how:
        case "unlink":
            vault.unlink(1, b"f")
        case "truncate":
            vault.setattr(big, Attributes(size=10))
        case "rename over":
            vault.rename(1, b"other", 1, b"f")
        case "forget":
            vault.forget(big)
        case "punch":
            vault.punch_hole(big, 0, REGIONS * REGION)
    assert told
    while vault.reap():
        pass


def test_a_file_that_takes_less_room_after_a_step_is_named(bench: Bench, big: int) -> None:
    bench.vault.setattr(big, Attributes(size=10))
    bench.committed()
    before, named = bench.vault.getattr(big).blocks, set[int]()
    while bench.vault.reap(10, named.add):
        pass
    assert named == {big}
    assert bench.vault.getattr(big).blocks < before


def test_one_without_a_name_is_not(bench: Bench, big: int) -> None:
    named = set[int]()
    bench.vault.unlink(1, b"f")
    while bench.vault.reap(10, named.add):
        pass
    assert not named


def test_that_a_deleted_file_was_let_go_of_is_told_also_when_nothing_is_left_to_reap(quick: Bench) -> None:
    """No request changes anything then, so that nobody else would see to its being committed."""
    file = quick.file(data=b"small")
    quick.vault.remember(file)
    quick.vault.unlink(1, b"f")
    quick.committed()
    told: list[int] = []
    quick.vault.when_left(lambda: told.append(1))
    quick.vault.forget(file)
    assert told
    assert quick.vault.dirty_objects
    assert not quick.vault.reap()
