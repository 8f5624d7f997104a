"""Writing content: bytes are kept by reference until a commit seals them."""

from __future__ import annotations

from typing import NamedTuple

from atefs.errors import FileTooBigError
from atefs.vault.extents import ZEROS, DirtyBlock
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import BlockMap, Layout, RegionMap, sectors
from atefs.vault.limits import BLOCK, FILE_MAX, INLINE_MAX, PAGE, PATCH_BYTES_MAX, PATCHES_MAX, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.patches import plan_patches
from atefs.vault.reader import Reader
from atefs.vault.space import Space


class _Step(NamedTuple):
    """One block's share of a write: where, what has to lie under it, and where its data ended before."""

    block: int
    low: int
    high: int
    base: bytes | None
    end: int


class _Plan(NamedTuple):
    """All that a write needs, loaded. maps: of the regions touched."""

    steps: list[_Step]
    maps: dict[int, RegionMap | None]


class Writer:
    """Content of regular files. Everything is loaded before anything changes."""

    def __init__(self, inodes: Inodes, maps: Maps, reader: Reader, space: Space) -> None:
        self._inodes = inodes
        self._maps = maps
        self._reader = reader
        self._space = space

    def write(self, inode: Inode, offset: int, data: bytes | memoryview, now: int | None) -> None:
        """Put `data` at `offset`; mtime and ctime become `now`, if given.

        Raises FileTooBigError, and NoSpaceError or QuotaError when it could not be committed.
        """
        end = offset + len(data)
        if end > FILE_MAX:
            raise FileTooBigError(f"A file ends at {FILE_MAX} bytes at the latest.")
        self._space.check_room(len(data))
        if inode.inline and end <= INLINE_MAX:
            self._write_inline(inode, offset, data)
        else:
            self._write_blocks(inode, offset, data)
        inode.size = max(inode.size, end)
        if now is not None:
            inode.mtime = inode.ctime = now
        self._inodes.touch(inode)

    def _write_inline(self, inode: Inode, offset: int, data: bytes | memoryview) -> None:
        old = self._inodes.content(inode)
        if offset or len(data) < len(old):
            new = b"".join((old[:offset], bytes(max(0, offset - len(old))), data, old[offset + len(data) :]))
        else:
            new = bytes(data)
        inode.data = old
        inode.blocks += sectors(len(new)) - sectors(len(old))
        self._inodes.put_content(inode, new)

    def _write_blocks(self, inode: Inode, offset: int, data: bytes | memoryview) -> None:
        old = self._inodes.content(inode) if inode.inline else b""
        plan = self._prepare(inode, offset, offset + len(data))
        for found in plan.maps.values():
            if found is not None and found.foreign:  # the first and the last block may have to be copied whole
                self._space.check_room(len(data) + 2 * BLOCK)
        if inode.inline:
            self.move_out(inode, old)
            if plan.steps[0].block == 0:
                plan.steps[0] = plan.steps[0]._replace(end=len(old))
        self._carry_out(inode, plan, offset, memoryview(data))

    def plan_zeros(self, inode: Inode, offset: int, end: int) -> _Plan:
        """What it takes to zero part of one block, as far as that has data. For `write_zeros`."""
        block = offset // BLOCK
        region, index = divmod(block, REGION_BLOCKS)
        found = self._maps.get(inode, region)
        dirty = inode.layout.dirty.get(block) if inode.layout is not None else None
        top = max(found.end(index) if found is not None else 0, dirty.end if dirty is not None else 0)
        return self._prepare(inode, offset, min(end, block * BLOCK + top))

    def write_zeros(self, inode: Inode, plan: _Plan) -> None:
        """Do what `plan_zeros` has prepared; loads nothing."""
        for step in plan.steps:
            self._carry_out(inode, plan, step.block * BLOCK + step.low, ZEROS[: step.high - step.low])

    def _carry_out(self, inode: Inode, plan: _Plan, offset: int, view: memoryview) -> None:
        layout = inode.layout
        assert layout is not None
        for region, found in plan.maps.items():
            owned = self._maps.own(inode, layout, region, found)
            if owned.foreign:
                self._let_go(inode, owned, region, plan.steps)
        for step in plan.steps:
            start = step.block * BLOCK + step.low - offset
            self._apply(inode, layout, step, view[start : start + step.high - step.low])

    # What it takes

    def _prepare(self, inode: Inode, offset: int, end: int) -> _Plan:
        plan = _Plan([], {})
        while offset < end:
            block, low = divmod(offset, BLOCK)
            high = min(BLOCK, low + end - offset)
            region, index = divmod(block, REGION_BLOCKS)
            if region not in plan.maps:
                plan.maps[region] = self._maps.prepare(inode, region)
            found = plan.maps[region]
            parts = found.get(index) if found is not None else None
            foreign = found is not None and index in found.foreign
            plan.steps.append(self._step(inode, block, low, high, parts, foreign=foreign))
            offset += high - low
        return plan

    def _step(
        self, inode: Inode, block: int, low: int, high: int, parts: BlockMap | None, *, foreign: bool
    ) -> _Step:  # fmt: skip
        dirty = inode.layout.dirty.get(block) if inode.layout is not None else None
        end = top = parts.end if parts is not None else 0
        if dirty is not None:
            top = max(end, dirty.end)
        if parts is None:
            # A block that was shared content and is being rewritten has a base although it is not in the map yet.
            return _Step(block, low, high, dirty.base or b"" if dirty is not None else b"", top)
        if low == 0 and high >= end:
            return _Step(block, low, high, b"", top)
        if dirty is not None and dirty.base is not None:
            return _Step(block, low, high, dirty.base, top)
        if not foreign and _patches_pay(parts, dirty, low, high):
            return _Step(block, low, high, None, top)
        return _Step(block, low, high, self._reader.clean(inode, block), top)

    # Doing it

    def move_out(self, inode: Inode, old: bytes) -> None:
        """The inline content, `old`, becomes block 0: the inode cannot hold it any more. Loads nothing."""
        layout = inode.layout if inode.layout is not None else Layout()
        inode.blocks -= sectors(len(old))
        self._inodes.take_content(inode)
        inode.layout = layout
        if old:
            self._apply(inode, layout, _Step(0, 0, len(old), b"", 0), memoryview(old))

    def _let_go(self, inode: Inode, owned: RegionMap, region: int, steps: list[_Step]) -> None:
        """The blocks that are about to be written are no longer shared content."""
        for step in steps:
            at, index = divmod(step.block, REGION_BLOCKS)
            parts = owned.get(index) if at == region and index in owned.foreign else None
            if parts is not None:
                self._maps.discard(inode, owned, step.block, parts)

    def _apply(self, inode: Inode, layout: Layout, step: _Step, view: memoryview) -> None:
        block, low, _, base, end = step
        dirty = layout.dirty.get(block)
        weight = 0
        if dirty is None or len(view) == BLOCK:
            if dirty is not None:
                weight = dirty.weight
            dirty = layout.dirty[block] = DirtyBlock()
        else:
            weight = dirty.weight
        dirty.base = base
        dirty.write(low, view)
        self._space.dirty += dirty.weight - weight
        top = low + len(view)
        if top > end:
            inode.blocks += sectors(top) - sectors(end)


def _patches_pay(parts: BlockMap, dirty: DirtyBlock | None, low: int, high: int) -> bool:
    """Can the block go out as patches once [low, high) is dirty too?"""
    size, count = high - low, len(parts.patches) + PATCH_BYTES_MAX // PAGE
    if dirty is not None:
        size += dirty.bytes
        count += len(dirty.extents) + 1
    if size > PATCH_BYTES_MAX:
        return False
    return count <= PATCHES_MAX or plan_patches(parts, _spans(dirty, low, high)).fits()


def _spans(dirty: DirtyBlock | None, low: int, high: int) -> list[tuple[int, int]]:
    """What is dirty, and [low, high) with it; adjacent ones together."""
    apart: list[tuple[int, int]] = []
    for start, end, _ in dirty.runs() if dirty is not None else ():
        if end < low or start > high:
            apart.append((start, end))
        else:
            low, high = min(low, start), max(high, end)
    return sorted([*apart, (low, high)])
