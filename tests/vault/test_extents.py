"""Dirty extents and range sets against the obvious way to do it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from atefs.vault.extents import DirtyBlock
from atefs.vault.layout import FULL, BlockMap, Patch, RegionMap, sectors
from atefs.vault.limits import BLOCK, PAGE, PATCHES_MAX
from atefs.vault.patches import FREE_SLOTS, plan_patches
from atefs.vault.ranges import Ranges, add, contains, cut

Step = tuple[bool, tuple[int, int]]

spans = st.tuples(st.integers(0, 300), st.integers(1, 60))


@given(base=st.none() | st.binary(max_size=200), steps=st.lists(st.tuples(st.booleans(), spans), max_size=120))
def test_a_dirty_block_is_its_base_under_its_writes(base: bytes | None, steps: list[Step]) -> None:
    block = DirtyBlock(base)
    wanted = bytearray(base or b"")
    dirty: set[int] = set()
    for number, (write, (start, length)) in enumerate(steps):
        if write:
            data = bytes([number + 1]) * length
            wanted.extend(bytes(max(0, start + length - len(wanted))))
            wanted[start : start + length] = data
            dirty.update(range(start, start + length))
            block.write(start, memoryview(data))
        elif start:
            block.cut(start)
            del wanted[start:]
            dirty = {at for at in dirty if at < start}
        seen = bytearray(b"?" * 400)
        under = bytearray(block.base or b"")
        seen[: len(under)] = under
        block.overlay(seen, 0)
        assert all(seen[at] == wanted[at] for at in dirty)
        assert block.bytes == sum(end - low for low, end, _ in block.extents)
        assert [low for low, _, _ in block.extents] == sorted(low for low, _, _ in block.extents)
        assert all(block.covers(at, at + 1) for at in dirty)
        assert block.covers(0, 400) is False
    end = block.end
    whole = b"".join(block.whole())
    assert len(whole) == end
    if base is not None:
        assert whole == bytes(wanted[:end])
    merged = [(low, high) for low, high, _ in block.runs()]
    assert all(before[1] < after[0] for before, after in pairwise(merged))


def test_scattered_writes_over_a_base_are_joined_when_they_become_many() -> None:
    block = DirtyBlock(b"." * BLOCK)
    for index in range(1000):
        block.write(index * 100, memoryview(b"x"))
        assert len(block.extents) <= PATCHES_MAX + 1
    assert block.weight <= BLOCK + 1000
    assert b"".join(block.whole())[:201] == b"x" + b"." * 99 + b"x" + b"." * 99 + b"x"


@given(st.lists(st.tuples(st.booleans(), st.tuples(st.integers(0, 40), st.integers(1, 8))), max_size=60))
def test_ranges_are_the_sets_they_stand_for(steps: list[Step]) -> None:
    ranges: Ranges = []
    wanted: set[int] = set()
    for adding, (start, length) in steps:
        span = set(range(start, start + length))
        if adding:
            add(ranges, start, start + length)
            wanted |= span
        else:
            taken = cut(ranges, start, start + length)
            assert {number for low, high in taken for number in range(low, high)} == wanted & span
            wanted -= span
        assert {number for low, high in ranges for number in range(low, high)} == wanted
        assert all(before[1] < after[0] for before, after in pairwise(ranges))
        assert all(contains(ranges, number) == (number in wanted) for number in range(50))


def test_a_region_map_tells_complete_blocks_from_others() -> None:
    region = RegionMap()
    patched = BlockMap(BLOCK, 0, (Patch(5, 10, 33),))
    region.put(3, FULL)
    region.put(5, BlockMap(100))
    region.put(3, patched)
    region.put(63, FULL)
    assert region.blocks() == [(3, patched), (5, BlockMap(100)), (63, FULL)]
    assert region.sectors() == 2 * sectors(BLOCK) + sectors(100)
    region.put(3, FULL)
    assert (region.get(3), region.end(5), region.end(6), region.get(6)) == (FULL, 100, 0, None)
    for index in (3, 5, 63):
        region.drop(index)
    assert region.empty()


def test_a_shortened_block_keeps_what_lies_before_the_edge() -> None:
    block = BlockMap(1000, 0b1100, (Patch(0, 10, 33), Patch(900, 200, 34), Patch(2000, 5, 35)))
    assert (block.end, list(block.slots())) == (4 * 4096, [0, 3, 4, 33, 34, 35])
    assert block.shortened(3 * 4096 + 7) == block._replace(pages=0b100, patches=(*block.patches, Patch(12288, 7, 4)))
    shortest = block.shortened(950)
    assert shortest == BlockMap(950, 0, (Patch(0, 10, 33), Patch(900, 50, 34)))
    assert shortest.without(33).without(0) == BlockMap(0, 0, (Patch(900, 50, 34),))
    assert block.without(3).pages == 0b1000
    assert [sectors(size) for size in (0, 1, 4096, 4097, BLOCK)] == [0, 8, 8, 16, 256]


patch_lists = st.lists(st.tuples(st.integers(0, BLOCK - 1), st.sampled_from([1, 100, 4096, 8192])), max_size=40)


page_lists = st.lists(st.integers(0, 31), max_size=20)
cut_lists = st.lists(st.integers(1, BLOCK - 1), max_size=3)


@given(patch_lists, page_lists, cut_lists, st.randoms())
def test_patches_read_as_they_were_written(
    odd: list[tuple[int, int]], pages: list[int], cuts: list[int], random: Random
) -> None:
    steps = [(offset, min(length, BLOCK - offset)) for offset, length in odd] + [(page * 4096, 4096) for page in pages]
    random.shuffle(steps)
    cut_at = {random.randrange(len(steps) + 1): limit for limit in cuts}
    parts, wanted = BlockMap(BLOCK), [0] * BLOCK
    objects = {0: [0] * BLOCK}
    for number, (start, length) in enumerate(steps, 1):
        plan = plan_patches(parts, [(start, start + length)])
        if not plan.fits():
            break
        slots = [slot for slot in FREE_SLOTS if slot not in {patch.slot for patch in plan.kept}]
        free = [Patch(low, high - low, slot) for (low, high), slot in zip(plan.free, slots, strict=False)]
        whole = [Patch(low, high - low, low // PAGE + 1) for low, high in plan.page_spans]
        assert not {patch.slot for patch in whole} & {patch.slot for patch in plan.kept}
        bits = plan.pages
        for patch in whole:
            bits |= 1 << patch.slot - 1
        parts = BlockMap(parts.base, bits, plan.kept + tuple(free))
        objects.update({patch.slot: [number] * patch.length for patch in whole + free})
        wanted[start : start + length] = [number] * length
        if number in cut_at:
            parts = parts.shortened(cut_at[number])
            wanted[cut_at[number] :] = [0] * (BLOCK - cut_at[number])
        assert len(set(parts.slots())) == len(list(parts.slots()))
        seen = objects[0][: parts.base] + [0] * (BLOCK - parts.base)
        for offset, size, slot in parts.overlays():
            seen[offset : offset + size] = objects[slot][:size]
        assert seen == wanted
