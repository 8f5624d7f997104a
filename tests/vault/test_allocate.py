"""fallocate: whether there is room, the new size, and ranges that become zeros (man 2 fallocate)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from atedb.chain.event import Lane
from atedb.errors import AteError, NoSpaceError, ReadOnlyError
from atefs.errors import FileTooBigError, InvalidError, IsDirectoryError, NotRegularError, QuotaError
from atefs.vault.limits import BLOCK, FILE_MAX, INLINE_MAX, OBJECT_COST, REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.checks import counted_blocks, patiently
from tests.vault.conftest import ME, Bench, times
from tests.vault.memory_chain import MemoryChain

REGION = BLOCK * REGION_BLOCKS
Call = Callable[..., None]


def calls(vault: Vault) -> list[Call]:
    return [vault.allocate, vault.zero_range]


@pytest.mark.parametrize("length", [5, INLINE_MAX, BLOCK + 5, 2 * REGION])
def test_the_file_grows_and_keeps_what_it_has(bench: Bench, length: int) -> None:
    data = os.urandom(length)
    file = bench.file(data=data)
    bench.committed()
    bench.vault.allocate(file, length - 2, 3 * BLOCK)
    bench.committed()
    vault = bench.reopen(rebuild=True)
    assert vault.getattr(file).size == length - 2 + 3 * BLOCK
    assert vault.read(file, 0, length + 4 * BLOCK) == data + bytes(3 * BLOCK - 2)
    vault.allocate(file, 0, 1)
    assert vault.getattr(file).size == length - 2 + 3 * BLOCK, "it must not become shorter"


def test_with_keep_size_neither_size_nor_content_change(bench: Bench) -> None:
    file = bench.file(data=b"data")
    bench.vault.allocate(file, 2, BLOCK, keep_size=True)
    bench.vault.allocate(file, 5 * BLOCK, BLOCK, keep_size=True)
    assert (bench.vault.getattr(file).size, bench.vault.read(file, 0, 9)) == (4, b"data")


@pytest.mark.parametrize("length", [100, INLINE_MAX, BLOCK, 3 * BLOCK + 70, 2 * REGION + 100])
@pytest.mark.parametrize("committed", [True, False])
def test_a_zeroed_range_reads_as_zeros_after_a_crash_too(bench: Bench, length: int, committed: bool) -> None:
    data = os.urandom(length)
    file = bench.file(data=data)
    if committed:
        bench.committed()
    bench.vault.zero_range(file, 10, length - 30)
    bench.committed()
    vault = bench.reopen(rebuild=True)
    assert vault.read(file, 0, length + 1) == data[:10] + bytes(length - 30) + data[-20:]
    bench.settle_down()
    assert vault.getattr(file).blocks == counted_blocks(vault, vault.getattr(file))


@pytest.mark.parametrize("keep_size", [True, False])
@pytest.mark.parametrize("length", [100, 2 * BLOCK])
def test_a_range_that_is_zeroed_beyond_the_end_makes_the_file_longer_unless_told_not_to(
    bench: Bench, length: int, keep_size: bool
) -> None:
    data = os.urandom(length)
    file = bench.file(data=data)
    bench.committed()
    bench.vault.zero_range(file, length - 10, 3 * BLOCK, keep_size=keep_size)
    grown = 0 if keep_size else 3 * BLOCK - 10
    for _ in range(2):
        assert bench.vault.getattr(file).size == length + grown
        assert bench.vault.read(file, 0, 9 * BLOCK) == data[:-10] + bytes(10 + grown)
        bench.committed()
        bench.reopen()


def test_zeroing_frees_the_blocks_that_lie_inside(bench: Bench) -> None:
    file = bench.file(data=os.urandom(5 * BLOCK))
    bench.committed()
    bench.vault.zero_range(file, BLOCK, 3 * BLOCK)
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 2
    assert bench.vault.seek_hole(file, 0) == BLOCK


def test_what_is_zeroed_over_many_regions_is_left_to_the_reaper(bench: Bench) -> None:
    file = bench.file()
    for region in range(6):
        bench.vault.write(file, region * REGION, b"x" * 100)
    bench.committed()
    bench.vault.zero_range(file, REGION, 4 * REGION)
    assert len(bench.committed()) <= 5
    assert [bench.vault.read(file, region * REGION, 1) for region in range(6)] == [b"x", *[b"\0"] * 4, b"x"]
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 2


def test_each_refusal_is_that_of_the_manual_and_changes_nothing(bench: Bench) -> None:
    vault = bench.vault
    file, folder = bench.file(data=b"data"), bench.folder()
    fifo = vault.mknod(1, b"fifo", stat.S_IFIFO | 0o600, 0, ME).ino
    link = vault.symlink(1, b"link", b"f", ME).ino
    stamp = vault.getattr(file).stamp
    cases: list[tuple[type[AteError], int, int, int]] = [
        (InvalidError, file, -1, 5),
        (InvalidError, file, 0, 0),
        (InvalidError, file, 0, -5),
        (FileTooBigError, file, FILE_MAX, 1),
        (FileTooBigError, file, 0, FILE_MAX + 1),
        (NoSpaceError, file, 0, FILE_MAX),
        (IsDirectoryError, folder, 0, 5),
        (NotRegularError, fifo, 0, 5),
        (NotRegularError, link, 0, 5),
    ]
    for kind, ino, offset, length in cases:
        for call in calls(vault):
            with pytest.raises(kind):
                call(ino, offset, length)
    assert (vault.getattr(file).stamp, vault.read(file, 0, 9)) == (stamp, b"data")


def test_a_hole_is_made_in_regular_files_only(bench: Bench) -> None:
    fifo = bench.vault.mknod(1, b"fifo", stat.S_IFIFO | 0o600, 0, ME).ino
    for kind, ino in ((IsDirectoryError, 1), (NotRegularError, fifo)):
        with pytest.raises(kind):
            bench.vault.punch_hole(ino, 0, 5)


def test_a_range_that_there_is_no_room_for_is_refused(quick: Bench) -> None:
    assert isinstance(quick.chain, MemoryChain)
    file = quick.file()
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + 4 * BLOCK
    for call in calls(quick.vault):
        with pytest.raises(NoSpaceError):
            call(file, 0, 4 * BLOCK)
        with pytest.raises(NoSpaceError):
            call(file, 0, 4 * BLOCK, keep_size=True)
        call(file, 0, 4 * BLOCK - 4 * OBJECT_COST)
    assert quick.vault.getattr(file).size == 4 * BLOCK - 4 * OBJECT_COST


def test_a_range_that_the_quota_does_not_allow_is_refused(bench: Bench) -> None:
    file = bench.file()
    bench.vault.set_quota(1_000_000)
    bench.committed()
    bench.vault.allocate(file, 0, 900_000)
    with pytest.raises(QuotaError):
        bench.vault.allocate(file, 0, 1_000_001)


def test_what_the_file_has_already_needs_no_more_room(quick: Bench) -> None:
    assert isinstance(quick.chain, MemoryChain)
    file = quick.file(data=os.urandom(4 * BLOCK))
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + 2 * BLOCK
    quick.vault.write(file, 4 * BLOCK, os.urandom(BLOCK))
    quick.vault.allocate(file, 10, 4 * BLOCK + 100)
    quick.vault.zero_range(file, 10, 100)
    with pytest.raises(NoSpaceError):
        quick.vault.allocate(file, 0, 6 * BLOCK)


def test_nothing_is_allocated_in_a_read_only_vault(quick: Bench) -> None:
    file = quick.file(data=b"data")
    quick.committed()
    for call in calls(Vault(quick.chain, read_only=True)):
        with pytest.raises(ReadOnlyError):
            call(file, 0, 5)


def test_times_change_unless_the_kernel_sees_to_them(quick: Bench) -> None:
    file = quick.file(data=b"data")
    quick.committed()
    for mine, vault in ((True, quick.vault), (False, Vault(quick.chain, quick.clock, kernel_times=True))):
        for call in (*calls(vault), vault.punch_hole):
            before, now = times(vault.getattr(file)), quick.now
            call(file, 0, 2)
            assert times(vault.getattr(file)) == ((now + 1, now + 1) if mine else before)
        quick.vault.commit()


def test_what_is_not_in_memory_is_loaded_before_anything_changes(quick: Bench) -> None:
    assert isinstance(quick.chain, MemoryChain)
    for length in (100, 3 * BLOCK):
        data = os.urandom(length)
        file = quick.file(b"%d" % length, data)
        quick.committed()
        vault = quick.reopen()
        quick.chain.evict()
        with quick.chain.nothing_resident():
            patiently(lambda: vault.zero_range(file, 10, length))  # noqa: B023
        assert vault.read(file, 0, length + 20) == data[:10] + bytes(length)
