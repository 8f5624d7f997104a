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
from atefs.vault.ranges import contains, cut
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
    """All that a write needs, loaded. maps: of the regions touched; revived: former maps of regions now doomed."""

    steps: list[_Step]
    maps: dict[int, RegionMap | None]
    revived: dict[int, RegionMap]


class Writer:
    """Content of regular files. Everything is loaded before anything changes."""

    def __init__(self, inodes: Inodes, maps: Maps, reader: Reader, space: Space) -> None:
        self._inodes = inodes
        self._maps = maps
        self._reader = reader
        self._space = space

    def write(self, inode: Inode, offset: int, data: bytes, now: int) -> None:
        """Put `data` at `offset`; mtime and ctime become `now`.

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
        inode.mtime = inode.ctime = now
        self._inodes.touch(inode)

    def _write_inline(self, inode: Inode, offset: int, data: bytes) -> None:
        old = self._inodes.content(inode)
        if offset or len(data) < len(old):
            new = b"".join((old[:offset], bytes(max(0, offset - len(old))), data, old[offset + len(data) :]))
        else:
            new = data
        inode.data = old
        inode.blocks += sectors(len(new)) - sectors(len(old))
        self._inodes.put_content(inode, new)

    def _write_blocks(self, inode: Inode, offset: int, data: bytes) -> None:
        old = self._inodes.content(inode) if inode.inline else b""
        plan = self._prepare(inode, offset, offset + len(data))
        if inode.inline:
            self._move_out(inode, old, plan)
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
        for region, former in plan.revived.items():
            self._revive(inode, layout, region, former)
        for region, found in plan.maps.items():
            self._maps.own(inode, layout, region, found)
        for step in plan.steps:
            start = step.block * BLOCK + step.low - offset
            self._apply(inode, layout, step, view[start : start + step.high - step.low])

    # What it takes

    def _prepare(self, inode: Inode, offset: int, end: int) -> _Plan:
        plan = _Plan([], {}, {})
        while offset < end:
            block, low = divmod(offset, BLOCK)
            high = min(BLOCK, low + end - offset)
            region, index = divmod(block, REGION_BLOCKS)
            if region not in plan.maps:
                self._prepare_region(inode, region, plan)
            found = plan.maps[region]
            plan.steps.append(self._step(inode, block, low, high, found.get(index) if found is not None else None))
            offset += high - low
        return plan

    def _prepare_region(self, inode: Inode, region: int, plan: _Plan) -> None:
        found = self._maps.get(inode, region)
        plan.maps[region] = found
        doomed = inode.layout.doomed if inode.layout is not None else None
        if found is None and doomed and contains(doomed, region):
            plan.revived[region] = self._maps.load(inode.ino, region)

    def _step(self, inode: Inode, block: int, low: int, high: int, parts: BlockMap | None) -> _Step:
        dirty = inode.layout.dirty.get(block) if inode.layout is not None else None
        end = top = parts.end if parts is not None else 0
        if dirty is not None:
            top = max(end, dirty.end)
        if parts is None or (low == 0 and high >= end):
            return _Step(block, low, high, b"", top)
        if dirty is not None and dirty.base is not None:
            return _Step(block, low, high, dirty.base, top)
        if _patches_pay(parts, dirty, low, high):
            return _Step(block, low, high, None, top)
        return _Step(block, low, high, self._reader.clean(inode, block), top)

    # Doing it

    def _move_out(self, inode: Inode, old: bytes, plan: _Plan) -> None:
        """The content no longer fits the inode: it becomes block 0."""
        layout = inode.layout if inode.layout is not None else Layout()
        inode.blocks -= sectors(len(old))
        self._inodes.take_content(inode)
        inode.layout = layout
        if old:
            self._apply(inode, layout, _Step(0, 0, len(old), b"", 0), memoryview(old))
            if plan.steps[0].block == 0:
                plan.steps[0] = plan.steps[0]._replace(end=len(old))

    def _revive(self, inode: Inode, layout: Layout, region: int, former: RegionMap) -> None:
        """A region that waits to be deleted gets new content: what is left of the former is deleted with it."""
        assert layout.doomed is not None
        self._maps.bury_region(inode.ino, region, former)
        cut(layout.doomed, region, region + 1)
        inode.blocks -= former.sectors()

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
