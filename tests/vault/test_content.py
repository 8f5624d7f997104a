"""Content: inline, in blocks, in patches, sparse; and what st_blocks says of it."""

from __future__ import annotations

import os

import pytest

from atedb.chain.event import Lane
from atedb.errors import DamagedError
from atefs.vault.codec import block_key
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, INLINE_MAX, PATCHES_MAX, REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.conftest import Bench, size_of, tally

REGION = BLOCK * REGION_BLOCKS


def patches(bench: Bench, ino: int) -> list[tuple[int, int, int]]:
    """(offset, length, slot) of the patches of the file's first block."""
    parts = bench.vault._reader.block_map(bench.vault.getattr(ino), 0)
    return [tuple(patch) for patch in parts.overlays()] if parts else []  # type: ignore[misc]


SIZES = [1, 4096, INLINE_MAX, INLINE_MAX + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 1_500_000]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_read_before_during_and_after_a_commit(bench: Bench, size: int) -> None:
    data = os.urandom(size)
    file = bench.file(data=data)
    assert bench.vault.read(file, 0, size + 10) == data
    frozen = bench.vault.freeze()
    assert frozen is not None
    assert bench.vault.read(file, 0, size + 10) == data
    bench.chain.commit(frozen.changes)
    bench.vault.settled(frozen)
    assert bench.vault.read(file, 0, size + 10) == data
    vault = bench.reopen(rebuild=True)
    assert vault.read(file, 0, size + 10) == data
    assert vault.read(file, size - 1, 10) == data[-1:]
    assert vault.read(file, size, 10) == b""
    assert vault.getattr(file).blocks == -(-size // 4096) * 8


def test_an_aligned_clean_block_is_returned_as_it_was_loaded(quick: Bench) -> None:
    file = quick.file(data=os.urandom(2 * BLOCK))
    quick.committed()
    body = quick.chain.load(block_key(quick.chain, file, 1, 0))
    assert quick.vault.read(file, BLOCK, BLOCK) is body


def test_written_buffers_are_kept_by_reference(quick: Bench) -> None:
    data = os.urandom(8 * BLOCK)
    quick.file(data=data)
    frozen = quick.vault.freeze()
    assert frozen is not None
    bodies = [change.body for change in frozen.changes if isinstance(change.body, list)]
    assert len(bodies) == 8
    assert all(view.obj is data for body in bodies for view in body)


def test_a_sparse_file_of_an_exabyte_costs_one_event(bench: Bench) -> None:
    file = bench.file()
    bench.committed()
    bench.vault.setattr(file, Attributes(size=2**60))
    assert tally(bench.committed()) == {"meta": 1}
    assert bench.vault.getattr(file).blocks == 0
    assert bench.vault.read(file, 2**59, 10) == bytes(10)
    bench.vault.write(file, 2**59, b"here")
    assert tally(bench.committed()) == {"meta": 2, "blob": 1}
    assert bench.vault.read(file, 2**59 - 2, 8) == b"\0\0here\0\0"
    assert bench.vault.getattr(file).blocks == 8
    bench.vault.setattr(file, Attributes(size=100))
    assert tally(bench.committed()) == {"meta": 1}
    bench.settle_down()
    assert bench.vault.getattr(file).blocks == 0
    bench.vault.setattr(file, Attributes(size=2**60))
    assert bench.vault.read(file, 2**59, 10) == bytes(10)
    bench.vault.unlink(1, b"f")
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 0


def test_truncation_inside_a_block_hides_its_tail_for_good(bench: Bench) -> None:
    file = bench.file(data=b"x" * (2 * BLOCK))
    bench.committed()
    bench.vault.setattr(file, Attributes(size=BLOCK + 100))
    assert tally(bench.committed()) == {"meta": 1}
    bench.vault.setattr(file, Attributes(size=3 * BLOCK))
    assert bench.vault.read(file, BLOCK, BLOCK) == b"x" * 100 + bytes(BLOCK - 100)
    bench.vault.write(file, BLOCK + 200, b"y")
    bench.committed()
    vault = bench.reopen()
    assert vault.read(file, BLOCK, 300) == b"x" * 100 + bytes(100) + b"y" + bytes(99)
    assert vault.getattr(file).blocks == (BLOCK + 4096) // 512


def test_a_small_overwrite_appends_about_its_own_size(bench: Bench) -> None:
    file = bench.file(data=os.urandom(4 * BLOCK))
    bench.committed()
    bench.vault.write(file, BLOCK + 4096, b"p" * 4096)
    changes = bench.committed()
    assert tally(changes) == {"meta": 1, "blob": 1}
    assert sum(map(size_of, changes)) < 4096 + 200
    assert bench.vault.read(file, BLOCK + 4095, 4098)[1:-1] == b"p" * 4096


def test_writing_pages_again_and_again_never_rewrites_the_block(bench: Bench) -> None:
    file = bench.file(data=os.urandom(BLOCK))
    bench.committed()
    wanted = bytearray(bench.vault.read(file, 0, BLOCK))
    for turn in range(3):
        for page in range(32):
            data = bytes([turn * 32 + page]) * 4096
            bench.vault.write(file, page * 4096, data)
            wanted[page * 4096 : page * 4096 + 4096] = data
            changes = bench.committed()
            assert tally(changes) == {"meta": 1, "blob": 1}
            assert sum(map(size_of, changes)) < 4096 + 200
    assert patches(bench, file) == [(page * 4096, 4096, page + 1) for page in range(32)]
    assert bench.reopen().read(file, 0, BLOCK) == wanted


def test_pages_beside_and_under_other_patches_keep_their_order(bench: Bench) -> None:
    file = bench.file(data=b"." * BLOCK)
    bench.committed()
    wanted = bytearray(b"." * BLOCK)

    def write(offset: int, data: bytes) -> None:
        bench.vault.write(file, offset, data)
        wanted[offset : offset + len(data)] = data
        bench.committed()

    write(4096, b"a" * 8192)
    assert patches(bench, file) == [(4096, 4096, 2), (8192, 4096, 3)]
    write(5000, b"b" * 100)
    assert patches(bench, file) == [(8192, 4096, 3), (4096, 4096, 2), (5000, 100, 33)]
    write(7000, b"c" * 2000)
    assert patches(bench, file) == [(4096, 4096, 2), (5000, 100, 33), (8192, 4096, 3), (7000, 2000, 34)]
    write(8192, b"d" * 4096)
    assert patches(bench, file) == [(4096, 4096, 2), (5000, 100, 33), (7000, 2000, 34), (8192, 4096, 35)]
    write(4096, b"e" * 8192)
    assert patches(bench, file) == [(4096, 4096, 2), (8192, 4096, 3)]
    assert bench.reopen(rebuild=True).read(file, 0, BLOCK) == wanted
    bench.vault.setattr(file, Attributes(size=9000))
    bench.committed()
    assert patches(bench, file) == [(4096, 4096, 2), (8192, 808, 3)]
    assert bench.reopen().read(file, 0, BLOCK) == wanted[:9000]


def test_a_patch_that_covers_older_ones_takes_a_slot_and_ends_the_others(bench: Bench) -> None:
    file = bench.file(data=os.urandom(BLOCK))
    bench.committed()
    for offset in (1000, 2000, 3000):
        bench.vault.write(file, offset, b"small")
        bench.committed()
    assert patches(bench, file) == [(1000, 5, 33), (2000, 5, 34), (3000, 5, 35)]
    bench.vault.write(file, 900, b"L" * 1500)
    assert tally(bench.committed()) == {"meta": 1, "blob": 1, "-blob": 1}
    assert patches(bench, file) == [(3000, 5, 35), (900, 1500, 33)]
    assert bench.reopen().read(file, 900, 1500) == b"L" * 1500


def test_one_patch_too_many_makes_the_block_whole_again(bench: Bench) -> None:
    file = bench.file(data=b"." * BLOCK)
    bench.committed()
    wanted = bytearray(b"." * BLOCK)
    for index in range(PATCHES_MAX):
        bench.vault.write(file, index * 1000, b"%03d" % index)
        wanted[index * 1000 : index * 1000 + 3] = b"%03d" % index
        assert tally(bench.committed())["blob"] == 1
    assert len(patches(bench, file)) == PATCHES_MAX
    bench.vault.write(file, 100_000, b"more")
    wanted[100_000:100_004] = b"more"
    assert tally(bench.committed()) == {"meta": 1, "blob": 1, "-blob": PATCHES_MAX}
    assert patches(bench, file) == []
    assert bench.reopen().read(file, 0, BLOCK) == wanted


def test_many_dirty_bytes_make_the_block_whole(bench: Bench) -> None:
    file = bench.file(data=os.urandom(BLOCK))
    bench.committed()
    old = bench.vault.read(file, 0, BLOCK)
    for page in range(9):
        bench.vault.write(file, page * 8192, b"w" * 4096)
    changes = bench.committed()
    assert [size_of(change) for change in changes if change.lane == 1] == [BLOCK]
    seen = bench.reopen().read(file, 0, BLOCK)
    assert seen == b"".join(b"w" * 4096 if page % 2 == 0 and page < 18 else old[page * 4096 : page * 4096 + 4096]
                            for page in range(32))  # fmt: skip


def test_many_tiny_writes_stay_few_buffers(quick: Bench) -> None:
    file = quick.file()
    for index in range(20_000):
        quick.vault.write(file, index, b"x")
    layout = quick.vault.getattr(file).layout
    assert layout is not None
    assert len(layout.dirty[0].extents) <= PATCHES_MAX
    assert quick.vault.dirty_bytes < 40_000
    assert quick.vault.read(file, 0, 30_000) == b"x" * 20_000


def test_overwriting_whole_blocks_loads_nothing(quick: Bench) -> None:
    file = quick.file(data=os.urandom(4 * BLOCK))
    quick.committed()
    vault = quick.reopen()
    vault.getattr(file)
    assert isinstance(quick.chain.loads, int)  # type: ignore[union-attr]
    before = quick.chain.loads  # type: ignore[union-attr]
    vault.write(file, 0, os.urandom(4 * BLOCK))
    vault.write(file, 5, b"x" * BLOCK)
    assert quick.chain.loads == before  # type: ignore[union-attr]


def test_growing_out_of_the_inode_keeps_the_beginning(bench: Bench) -> None:
    file = bench.file(data=b"begin")
    bench.committed()
    bench.vault.write(file, BLOCK + 7, b"end")
    assert bench.vault.read(file, 0, BLOCK + 10) == b"begin" + bytes(BLOCK + 2) + b"end"
    assert tally(bench.committed()) == {"meta": 1, "blob": 2}
    assert bench.reopen().read(file, 0, BLOCK + 10) == b"begin" + bytes(BLOCK + 2) + b"end"


def test_emptying_a_file_brings_it_back_into_the_inode(bench: Bench) -> None:
    file = bench.file(data=os.urandom(3 * BLOCK))
    bench.committed()
    bench.vault.setattr(file, Attributes(size=0))
    bench.vault.write(file, 0, b"small again")
    assert tally(bench.committed()) == {"meta": 1, "-blob": 3}
    inode = bench.reopen().getattr(file)
    assert (inode.inline, inode.blocks, bench.vault.read(file, 0, 99)) == (True, 8, b"small again")


def test_new_content_in_a_region_that_waits_to_be_deleted_is_not_deleted(bench: Bench) -> None:
    file = bench.file()
    for region in range(1, 4):
        bench.vault.write(file, region * REGION, b"old" * 1000)
        bench.vault.write(file, region * REGION + BLOCK, b"old" * 1000)
    bench.committed()
    bench.vault.setattr(file, Attributes(size=0))
    bench.vault.write(file, 2 * REGION + 5, b"new")
    bench.committed()
    vault = bench.reopen()
    bench.settle_down()
    assert vault.read(file, 2 * REGION, 10) == bytes(5) + b"new"
    assert vault.getattr(file).blocks == 8
    vault.setattr(file, Attributes(size=4 * REGION))
    assert vault.read(file, 2 * REGION + BLOCK, 10) == bytes(10)
    assert vault.read(file, REGION, 10) == bytes(10)
    assert bench.chain.object_count(Lane.BLOB) == 1


def test_a_block_that_is_gone_is_reported_and_not_read_as_zeros(quick: Bench) -> None:
    file = quick.file(data=os.urandom(2 * BLOCK))
    quick.committed()
    del quick.chain.objects[block_key(quick.chain, file, 1, 0)]  # type: ignore[union-attr]
    vault = quick.reopen()
    assert len(vault.read(file, 0, BLOCK)) == BLOCK
    with pytest.raises(DamagedError, match="Block 1 of content"):
        vault.read(file, BLOCK, 1)


def test_a_kernel_that_keeps_the_times_of_files_sets_them_itself(quick: Bench) -> None:
    file = quick.file(data=b"x" * BLOCK)
    quick.vault.commit()
    vault = Vault(quick.chain, quick.clock, kernel_times=True)
    before = vault.getattr(file).mtime, vault.getattr(file).ctime
    vault.write(file, 5, b"y")
    vault.setattr(file, Attributes(size=7))
    assert (vault.getattr(file).mtime, vault.getattr(file).ctime) == before
    vault.setattr(file, Attributes(mtime=3, ctime=4))
    assert (vault.getattr(file).mtime, vault.getattr(file).ctime) == (3, 4)
