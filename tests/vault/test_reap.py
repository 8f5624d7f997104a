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
