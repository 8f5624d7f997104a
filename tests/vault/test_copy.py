"""Copies between files share what they can: cheap, independent of each other, and gone when the last one is."""

from __future__ import annotations

import os

import pytest

from atedb.chain.event import Lane
from atedb.errors import NoSpaceError
from atefs.errors import FileTooBigError, InvalidError, IsDirectoryError, QuotaError
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK, FILE_MAX, PAGE, REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench, tally

REGION = BLOCK * REGION_BLOCKS
ALL = 2**40


def copy_all(vault: Vault, source: int, target: int, *, source_offset: int = 0, target_offset: int = 0) -> int:
    """As cp does it: until nothing is left; how many calls that took."""
    calls = 0
    while copied := vault.copy_range(source, source_offset, target, target_offset, ALL):
        source_offset, target_offset, calls = source_offset + copied, target_offset + copied, calls + 1
    return calls


def clone(bench: Bench, source: int, name: bytes = b"g") -> int:
    """A new file that is a copy of another, in one call."""
    target = bench.file(name)
    size = bench.vault.getattr(source).size
    assert bench.vault.copy_range(source, 0, target, 0, ALL) == size
    return target


def big_file(bench: Bench, regions: int) -> int:
    """A file of whole regions of which every block is there, committed."""
    file = bench.file()
    data = bytes(BLOCK)
    for offset in range(0, regions * REGION, BLOCK):
        bench.vault.write(file, offset, data)
        if not offset % REGION:
            bench.committed()
    bench.committed()
    return file


def test_a_clone_of_a_gibibyte_is_three_small_objects_and_loads_nothing(quick: Bench) -> None:
    file = big_file(quick, 128)
    target = quick.file(b"g")
    quick.committed()
    before = quick.chain.loads  # type: ignore[union-attr]
    assert quick.vault.copy_range(file, 0, target, 0, ALL) == 2**30
    assert quick.chain.loads == before  # type: ignore[union-attr]
    changes = quick.committed()
    # The inodes of both files and of what they share.
    assert tally(changes) == {"meta": 3}
    assert sum(len(change.body) for change in changes) < 1000
    assert quick.vault.getattr(target).blocks == quick.vault.getattr(file).blocks == 2**30 // 512
    quick.vault.copy_range(file, 0, quick.file(b"h"), 0, ALL)
    # The new file, its name, the directory, and what is shared: nothing about the source has changed.
    assert tally(quick.committed()) == {"meta": 4}


def test_a_gibibyte_copied_into_the_middle_of_a_file_reads_maps_and_no_block(quick: Bench) -> None:
    file = big_file(quick, 128)
    target = quick.file(b"g", b"x" * BLOCK)
    quick.committed()
    vault = quick.reopen()
    vault.getattr(file), vault.getattr(target)
    before = quick.chain.loads  # type: ignore[union-attr]
    assert vault.copy_range(file, 0, target, 5 * REGION, ALL) == 2**30
    assert quick.chain.loads - before == 127  # type: ignore[union-attr]
    assert tally(quick.committed()) == {"meta": 4}  # and the numbers that are reserved after an opening
    assert vault.getattr(target).blocks == (2**30 + BLOCK) // 512


def test_blocks_that_lie_otherwise_in_their_regions_cost_a_map_for_each_region(quick: Bench) -> None:
    file = big_file(quick, 5)
    target = quick.file(b"g")
    quick.committed()
    assert copy_all(quick.vault, file, target, target_offset=3 * BLOCK) == 1
    assert tally(quick.committed()) == {"meta": 3 + 5}
    assert copy_all(quick.vault, file, target, target_offset=200 * REGION + BLOCK) == 1


@pytest.mark.parametrize("committed", [False, True])
def test_a_copy_and_its_source_go_their_own_ways(bench: Bench, committed: bool) -> None:
    data = os.urandom(3 * BLOCK + 5000)
    file = bench.file(data=data)
    if committed:
        bench.committed()
    target = clone(bench, file)
    bench.vault.write(file, BLOCK + 5, b"source")
    bench.vault.write(target, 2 * BLOCK, b"target" * BLOCK)
    bench.vault.setattr(file, Attributes(size=2 * BLOCK + 7))
    source, other = bytearray(data[: 2 * BLOCK + 7]), bytearray(data)
    source[BLOCK + 5 : BLOCK + 11] = b"source"
    other[2 * BLOCK :] = b"target" * BLOCK
    for _ in range(3):
        assert bench.vault.read(file, 0, ALL) == source
        assert bench.vault.read(target, 0, ALL) == other
        bench.committed()
        bench.reopen(rebuild=True)
    bench.vault.unlink(1, b"f")
    bench.settle_down()
    assert bench.vault.read(target, 0, ALL) == other
    bench.vault.unlink(1, b"g")
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 3)


def test_what_is_written_to_a_shared_block_in_pieces_lies_over_it(bench: Bench) -> None:
    data = bytearray(os.urandom(2 * BLOCK))
    file = bench.file(data=bytes(data))
    target = clone(bench, file)
    for offset in (BLOCK + 5, BLOCK + 7, BLOCK + 90_000, BLOCK + 6):
        data[offset : offset + 10] = b"%10d" % offset
        bench.vault.write(target, offset, b"%10d" % offset)
    for _ in range(2):
        assert bench.vault.read(target, 0, ALL) == data
        bench.committed()


def test_a_copy_that_is_cut_in_a_shared_block_and_made_longer_ends_in_zeros(bench: Bench) -> None:
    data = os.urandom(2 * BLOCK)
    target = clone(bench, bench.file(data=data))
    bench.vault.setattr(target, Attributes(size=BLOCK + 10))
    bench.vault.setattr(target, Attributes(size=2 * BLOCK))
    for _ in range(2):
        assert bench.vault.read(target, 0, ALL) == data[: BLOCK + 10] + bytes(BLOCK - 10)
        assert tally(bench.committed()).get("blob", 0) <= 2
    bench.vault.write(target, BLOCK + 20, b"x")
    assert bench.vault.read(target, BLOCK, 30) == data[BLOCK : BLOCK + 10] + bytes(10) + b"x" + bytes(9)


def test_what_was_just_written_is_copied_over(bench: Bench) -> None:
    data = os.urandom(3 * BLOCK)
    file, target = bench.file(data=data), bench.file(b"g", os.urandom(3 * BLOCK))
    assert bench.vault.copy_range(file, 0, target, 0, ALL) == 3 * BLOCK
    assert bench.vault.read(target, 0, ALL) == data
    bench.committed()
    assert (bench.vault.read(target, 0, ALL), bench.chain.object_count(Lane.BLOB)) == (data, 3)
    assert bench.vault.getattr(target).blocks == 3 * BLOCK // 512


def test_a_copy_that_was_emptied_is_given_back_after_a_crash(bench: Bench) -> None:
    file = bench.file(data=os.urandom(3 * BLOCK))
    target = clone(bench, file)
    bench.vault.setattr(target, Attributes(size=0))
    bench.vault.unlink(1, b"f")
    bench.committed()
    bench.reopen(rebuild=True)
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.vault.getattr(target).blocks) == (0, 0)


def test_a_region_that_was_copied_over_is_written_before_the_former_one_is_deleted(bench: Bench) -> None:
    file, target = bench.file(), bench.file(b"g")
    for region in range(3):
        bench.vault.write(file, region * REGION, b"new" * 10_000)
        bench.vault.write(target, region * REGION, b"old" * 20_000)
        bench.vault.write(target, region * REGION + 3 * BLOCK, b"old" * 20_000)
    bench.vault.setattr(file, Attributes(size=3 * REGION))
    bench.committed()
    assert bench.vault.copy_range(file, 0, target, 0, ALL) == 3 * REGION
    bench.vault.write(target, REGION + 5 * BLOCK, b"newer" * 2_000)
    bench.committed()
    bench.reopen()
    bench.settle_down()
    for region in range(3):
        assert bench.vault.read(target, region * REGION, 40_000) == b"new" * 10_000 + bytes(10_000)
        assert bench.vault.read(target, region * REGION + 3 * BLOCK, BLOCK) == bytes(BLOCK)
    assert bench.vault.read(target, REGION + 5 * BLOCK, 10_000) == b"newer" * 2_000
    assert bench.chain.object_count(Lane.BLOB) == 4


def test_a_page_written_to_a_shared_block_makes_that_block_own_and_no_other(bench: Bench) -> None:
    file = bench.file(data=os.urandom(9 * BLOCK))
    target = clone(bench, file)
    bench.committed()
    bench.vault.write(target, 4 * BLOCK, b"x" * PAGE)
    assert tally(bench.committed()) == {"meta": 2, "blob": 1}
    bench.vault.write(target, 4 * BLOCK + PAGE, b"y" * PAGE)
    changes = bench.committed()
    assert tally(changes) == {"meta": 1, "blob": 1}
    assert [len(change.body) for change in changes if change.lane is Lane.BLOB] == [PAGE]


def test_what_the_last_copy_overwrites_is_deleted(bench: Bench) -> None:
    file = bench.file(data=os.urandom(2 * BLOCK))
    bench.vault.write(file, REGION, os.urandom(3 * BLOCK))
    target = clone(bench, file)
    bench.committed()
    bench.vault.unlink(1, b"f")
    bench.settle_down()
    for block in range(3):
        bench.vault.write(target, REGION + block * BLOCK, bytes(BLOCK))
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 5
    bench.vault.punch_hole(target, 0, ALL)
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.vault.getattr(target).blocks) == (0, 0)
    assert bench.chain.object_count(Lane.META) == 5


def test_a_clone_of_a_clone_reads_as_directly_as_the_first(quick: Bench) -> None:
    file = quick.file(data=os.urandom(70 * BLOCK))
    for generation in range(20):
        quick.vault.write(file, 65 * BLOCK, b"%d" % generation)
        clone(quick, file, b"clone %d" % generation)
        quick.committed()
    vault = quick.reopen()
    last = vault.lookup(1, b"clone 19").ino
    before = quick.chain.loads  # type: ignore[union-attr]
    assert vault.read(last, 64 * BLOCK, 2) == vault.read(file, 64 * BLOCK, 2)
    # The map of the content that has the region, the content that has the block, and the block; then another inode.
    assert quick.chain.loads - before <= 7  # type: ignore[union-attr]
    assert vault.read(last, 65 * BLOCK, 2) == b"19"


def test_what_does_not_lie_alike_goes_through_memory_in_bounded_pieces(bench: Bench) -> None:
    data = os.urandom(3 * 2**20)
    file, target = bench.file(data=data), bench.file(b"g")
    assert bench.vault.copy_range(file, 1, target, 0, ALL) == 2**20
    assert copy_all(bench.vault, file, target, source_offset=1) == 3
    assert bench.vault.read(target, 0, ALL) == data[1:]


def test_an_unaligned_beginning_is_copied_so_that_the_rest_can_be_shared(quick: Bench) -> None:
    data = os.urandom(5 * BLOCK)
    file, target = quick.file(data=data), quick.file(b"g", b"kept" * 10)
    quick.committed()
    assert quick.vault.copy_range(file, 100, target, BLOCK + 100, ALL) == BLOCK - 100
    assert quick.vault.copy_range(file, BLOCK, target, 2 * BLOCK, ALL) == 4 * BLOCK
    assert tally(quick.committed()) == {"meta": 3, "blob": 2}
    assert quick.vault.read(target, 0, ALL) == b"kept" * 10 + bytes(BLOCK + 60) + data[100:]


def test_small_files_are_copied(bench: Bench) -> None:
    file, target = bench.file(data=b"small"), bench.file(b"g", b"longer content")
    assert bench.vault.copy_range(file, 1, target, 2, 3) == 3
    assert bench.vault.read(target, 0, 100) == b"lomalr content"
    assert bench.vault.copy_range(file, 5, target, 0, 3) == 0
    assert bench.vault.copy_range(file, 99, target, 0, 3) == 0


def test_a_range_is_copied_within_a_file(bench: Bench) -> None:
    data = os.urandom(6 * BLOCK)
    file = bench.file(data=data)
    assert bench.vault.copy_range(file, 0, file, 3 * BLOCK, 2 * BLOCK) == 2 * BLOCK
    assert bench.vault.read(file, 0, ALL) == data[: 3 * BLOCK] + data[: 2 * BLOCK] + data[5 * BLOCK :]
    for offset, length in ((0, 1), (5, 6), (BLOCK, 4 * BLOCK)):
        with pytest.raises(InvalidError):
            bench.vault.copy_range(file, 0, file, offset, length)
    assert bench.vault.copy_range(file, 5 * BLOCK, file, 6 * BLOCK, ALL) == BLOCK  # the end of the file comes first
    assert bench.vault.copy_range(file, 0, file, 0, 0) == 0


def test_a_copy_stamps_the_target_and_takes_its_set_id_bits(bench: Bench) -> None:
    for number, data in enumerate((b"small", os.urandom(2 * BLOCK))):
        file, target = bench.file(b"f%d" % number, data), bench.file(b"g%d" % number)
        bench.vault.setattr(target, Attributes(mode=0o6777))
        source = bench.vault.getattr(file).mtime
        bench.vault.copy_range(file, 0, target, 0, ALL)
        inode = bench.vault.getattr(target)
        assert (inode.mtime, inode.ctime, inode.mode & 0o7777) == (bench.now, bench.now, 0o6777)
        bench.vault.copy_range(file, 0, target, 0, ALL, caller=Caller(1000, 1000))
        assert (bench.vault.getattr(target).mode & 0o7777, bench.vault.getattr(file).mtime) == (0o777, source)


def test_what_cannot_be_copied_is_refused_and_changes_nothing(bench: Bench) -> None:
    file, folder = bench.file(data=os.urandom(2 * BLOCK)), bench.folder()
    link = bench.vault.symlink(1, b"l", b"to", ME).ino
    bench.committed()
    for source, target, refusal in (
        (folder, file, IsDirectoryError), (file, folder, IsDirectoryError), (link, file, InvalidError),
        (file, link, InvalidError),
    ):  # fmt: skip
        with pytest.raises(refusal):
            bench.vault.copy_range(source, 0, target, 0, 10)
    other = bench.file(b"g")
    bench.committed()
    for offsets in ((-1, 0, 1), (0, -1, 1), (0, 0, -1)):
        with pytest.raises(InvalidError):
            bench.vault.copy_range(file, offsets[0], other, *offsets[1:])
    with pytest.raises(FileTooBigError):
        bench.vault.copy_range(file, 0, other, FILE_MAX, 10)
    assert bench.committed() == []


def test_a_copy_needs_room_for_what_it_shares_only(quick: Bench) -> None:
    file = quick.file(data=os.urandom(40 * BLOCK))
    small = quick.file(b"s", os.urandom(BLOCK))
    target, other = quick.file(b"g"), quick.file(b"h")
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + BLOCK // 2  # type: ignore[union-attr]
    assert quick.vault.copy_range(file, 0, target, 0, ALL) == 40 * BLOCK
    quick.committed()
    with pytest.raises(NoSpaceError):
        quick.vault.copy_range(small, 1, other, 0, ALL)
    quick.chain.capacity = 1 << 40  # type: ignore[union-attr]
    quick.vault.set_quota(quick.chain.live_bytes + 1000)
    with pytest.raises(QuotaError):
        quick.vault.copy_range(file, 0, other, 0, ALL)
    assert tally(quick.committed()) == {"meta": 1}


def test_a_write_that_has_to_copy_a_shared_block_needs_room_for_it(quick: Bench) -> None:
    file = quick.file(data=os.urandom(3 * BLOCK))
    target = clone(quick, file)
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + BLOCK // 2  # type: ignore[union-attr]
    with pytest.raises(NoSpaceError):
        quick.vault.write(target, 5, b"few bytes")
    assert quick.committed() == []
    quick.vault.unlink(1, b"g")
    quick.settle_down()


def test_a_file_whose_old_content_waits_to_be_deleted_is_copied_nevertheless(bench: Bench) -> None:
    file = bench.file()
    for region in range(4):
        bench.vault.write(file, region * REGION, os.urandom(BLOCK))
    bench.committed()
    bench.vault.setattr(file, Attributes(size=REGION + BLOCK))
    target = bench.file(b"g")
    copy_all(bench.vault, file, target)
    bench.settle_down()
    assert bench.vault.read(target, 0, ALL) == bench.vault.read(file, 0, ALL)


def test_deleting_a_clone_of_a_big_file_is_one_step_until_it_is_the_last(bench: Bench) -> None:
    file = bench.file()
    for region in range(20):
        bench.vault.write(file, region * REGION, b"x" * 10_000)
    clone(bench, file)
    bench.committed()
    bench.vault.unlink(1, b"g")
    bench.committed()
    bench.vault.reap(10)
    assert tally(bench.committed()) == {"meta": 1, "-meta": 1}
    assert not bench.vault.reap(10)
    bench.vault.unlink(1, b"f")
    sizes, more = [len(bench.committed())], True
    while more:
        more = bench.vault.reap(10)
        sizes.append(len(bench.committed()))
    assert max(sizes) <= 10 + 5
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 3)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_crash_while_the_last_copy_is_deleted_is_finished_after_the_next_opening(bench: Bench, steps: int) -> None:
    file = bench.file()
    for region in range(6):
        bench.vault.write(file, region * REGION, b"x" * 10_000)
    clone(bench, file)
    bench.committed()
    for name in (b"f", b"g"):
        bench.vault.unlink(1, name)
        bench.committed()
    for _ in range(steps):
        bench.vault.reap(4)
        bench.committed()
    bench.vault.reap(4)  # and this step is lost
    bench.reopen(rebuild=True)
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 3)
