"""Holes are found, made, and cost nothing."""

from __future__ import annotations

import os

import pytest

from atedb.chain.event import Lane
from atefs.errors import InvalidError, NoDataError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from tests.vault.conftest import Bench, tally

REGION = BLOCK * REGION_BLOCKS


def test_data_and_holes_alternate_in_a_sparse_file(bench: Bench) -> None:
    vault, file = bench.vault, bench.file()
    vault.setattr(file, Attributes(size=2**60))
    vault.write(file, 2 * BLOCK, b"x" * (BLOCK + 10))
    vault.write(file, 2**50, b"y" * 10)
    for _ in range(2):
        assert vault.seek_data(file, 0) == 2 * BLOCK
        assert vault.seek_hole(file, 0) == 0
        assert vault.seek_hole(file, 2 * BLOCK + 5) == 3 * BLOCK + 10
        assert vault.seek_data(file, 2 * BLOCK + 5) == 2 * BLOCK + 5
        assert vault.seek_data(file, 3 * BLOCK + 10) == 2**50
        with pytest.raises(NoDataError):
            vault.seek_data(file, 2**50 + 10)
        with pytest.raises(NoDataError):
            vault.seek_hole(file, 2**60)
        bench.committed()
        vault = bench.reopen()


def test_small_files_are_data_to_their_end(bench: Bench) -> None:
    file = bench.file(data=b"small")
    assert (bench.vault.seek_data(file, 2), bench.vault.seek_hole(file, 2)) == (2, 5)
    bench.vault.setattr(file, Attributes(size=100))
    assert bench.vault.seek_hole(file, 2) == 5


def test_a_punched_hole_reads_as_zeros_and_frees_its_blocks(bench: Bench) -> None:
    data = os.urandom(5 * BLOCK)
    file = bench.file(data=data)
    bench.committed()
    bench.vault.punch_hole(file, BLOCK - 10, 2 * BLOCK + 20)
    assert tally(bench.committed()) == {"meta": 1, "blob": 2, "-blob": 2}
    vault = bench.reopen(rebuild=True)
    wanted = data[: BLOCK - 10] + bytes(2 * BLOCK + 20) + data[3 * BLOCK + 10 :]
    assert vault.read(file, 0, 5 * BLOCK) == wanted
    assert (vault.getattr(file).size, vault.getattr(file).blocks) == (5 * BLOCK, 3 * BLOCK // 512)
    assert vault.seek_hole(file, 0) == BLOCK


def test_a_hole_over_many_regions_is_left_to_the_reaper(bench: Bench) -> None:
    file = bench.file()
    for region in range(6):
        bench.vault.write(file, region * REGION, b"x" * 100)
    bench.committed()
    bench.vault.punch_hole(file, REGION - 5, 4 * REGION)
    assert len(bench.committed()) <= 5
    assert [bench.vault.read(file, region * REGION, 1) for region in range(6)] == [b"x"] + [b"\0"] * 4 + [b"x"]
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 2
    assert bench.vault.getattr(file).blocks == 16


def test_a_hole_behind_the_end_of_a_small_file_leaves_its_content(bench: Bench) -> None:
    file = bench.file(data=b"small")
    bench.committed()
    bench.vault.punch_hole(file, 100, 100)
    bench.committed()
    assert bench.reopen().read(file, 0, 10) == b"small"


def test_a_hole_needs_a_beginning_and_a_length(bench: Bench) -> None:
    file = bench.file(data=b"data")
    for offset, size in ((-1, 5), (0, 0)):
        with pytest.raises(InvalidError):
            bench.vault.punch_hole(file, offset, size)
    bench.vault.punch_hole(file, 100, 5)
    bench.vault.punch_hole(file, 1, 2)
    assert bench.vault.read(file, 0, 9) == b"d\0\0a"
    bench.vault.punch_hole(file, 2, 50)
    assert bench.vault.read(file, 0, 9) == b"d\0\0\0"
