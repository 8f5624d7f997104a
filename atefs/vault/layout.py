"""Which blocks of a file exist, and of which objects each consists.

A file's content is cut into blocks, 64 blocks make a region, and each region has a map. Only what exists is listed
anywhere: the cost of every operation follows what was written, never a file's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

import msgspec

from atefs.vault.extents import DirtyBlock
from atefs.vault.limits import BLOCK, PAGE, REGION_BLOCKS
from atefs.vault.ranges import Ranges
from atefs.vault.shares import Base, Users


class Patch(NamedTuple):
    """A small overwrite, an object of its own. Of that object's bytes the first `length` count.

    slot: from 33 on; or page + 1 for what is left of the patch of a page.
    """

    offset: int
    length: int
    slot: int


class BlockMap(NamedTuple):
    """One block: the first `base` bytes of its base object (slot 0; 0: there is none), under its patches.

    pages: bitmap of the pages that are patched whole, page p in slot p + 1. patches: all others, oldest first; none
    of them shares bytes with a page of the bitmap.
    """

    base: int
    pages: int = 0
    patches: tuple[Patch, ...] = ()

    @property
    def end(self) -> int:
        """Where the block's data end; from there on it reads as zeros."""
        end = max(self.base, self.pages.bit_length() * PAGE)
        for offset, length, _ in self.patches:
            end = max(end, offset + length)
        return end

    def slots(self) -> Iterator[int]:
        """The slots whose objects exist."""
        if self.base:
            yield 0
        for page in range(self.pages.bit_length()):
            if self.pages >> page & 1:
                yield page + 1
        for patch in self.patches:
            yield patch.slot

    def without(self, slot: int) -> BlockMap:
        """The same block when the object of that slot is lost."""
        pages = self.pages & ~(1 << slot - 1) if slot else self.pages
        return BlockMap(self.base if slot else 0, pages, tuple(patch for patch in self.patches if patch.slot != slot))

    def overlays(self) -> list[Patch]:
        """All patches, each after those it lies over."""
        pages = [page for page in range(self.pages.bit_length()) if self.pages >> page & 1]
        return [*(Patch(page * PAGE, PAGE, page + 1) for page in pages), *self.patches]

    def shortened(self, limit: int) -> BlockMap:
        """The same block without what lies at or beyond `limit`."""
        patches = tuple(
            Patch(offset, min(length, limit - offset), slot) for offset, length, slot in self.patches if offset < limit
        )
        page, inner = divmod(limit, PAGE)
        if inner and self.pages >> page & 1:
            patches = (*patches, Patch(page * PAGE, inner, page + 1))
        return BlockMap(min(self.base, limit), self.pages & ((1 << page) - 1), patches)


FULL = BlockMap(BLOCK)
_PATCHES = itemgetter(BlockMap._fields.index("patches"))
_LINE = 16
"""Bytes that a block or a patch takes in a map, at most."""


def sectors(end: int) -> int:
    """What a block whose data end at `end` counts in st_blocks (units of 512 bytes)."""
    return (end + PAGE - 1) // PAGE * (PAGE // 512)


class RegionMap(msgspec.Struct, eq=False, gc=False):
    """The blocks of one region, by their index in it.

    full: bit i set: block i is complete and unpatched. partial: all others that exist. stored: the chain has this
    map, or will once the commit in flight has settled (region 0's is in the inode). foreign: those of both that are
    blocks of shared content, each as (its inode number, block there); they count as if they were one object.
    """

    full: int = 0
    partial: dict[int, BlockMap] = {}
    stored: bool = False
    foreign: dict[int, tuple[int, int]] = {}

    def get(self, index: int) -> BlockMap | None:
        if self.full >> index & 1:
            return FULL
        return self.partial.get(index)

    def end(self, index: int) -> int:
        """Where the data of a block end; 0: there is no such block."""
        if self.full >> index & 1:
            return BLOCK
        block = self.partial.get(index)
        return block.end if block is not None else 0

    def put(self, index: int, block: BlockMap) -> None:
        if block == FULL:
            self.full |= 1 << index
            self.partial.pop(index, None)
        else:
            self.full &= ~(1 << index)
            self.partial[index] = block

    def lend(self, index: int, origin: tuple[int, int], end: int) -> None:
        """The block is one of shared content from now on, of which the first `end` bytes count."""
        self.put(index, BlockMap(end))
        self.foreign[index] = origin

    def drop(self, index: int) -> None:
        self.full &= ~(1 << index)
        self.partial.pop(index, None)
        self.foreign.pop(index, None)

    def empty(self) -> bool:
        return not self.full and not self.partial

    def blocks(self) -> list[tuple[int, BlockMap]]:
        """All that exist, in order."""
        found = [(index, FULL) for index in range(REGION_BLOCKS) if self.full >> index & 1]
        return sorted(found + list(self.partial.items()))

    @property
    def weight(self) -> int:
        """Bytes that it takes in the log, about, and not less."""
        patches = sum(map(len, map(_PATCHES, self.partial.values())))
        return _LINE * (len(self.partial) + patches + len(self.foreign))

    def sectors(self) -> int:
        return self.full.bit_count() * sectors(BLOCK) + sum(sectors(block.end) for block in self.partial.values())


class Layout(msgspec.Struct, eq=False, gc=False):
    """Where one file's content lives.

    first: the map of region 0. ranges: the other regions that have a map. doomed: regions whose objects are no
    longer content and wait to be deleted; None: there never were any. dirty_maps: maps (not region 0's) that differ
    from the chain. dirty: blocks written since the last freeze, by block number.

    bases: regions without a map that are those of shared content, in order; region 0 may be one. cut: former ones that
    are no longer content and wait to be given back. users: of shared content only: who uses its regions.
    """

    first: RegionMap = msgspec.field(default_factory=RegionMap)
    ranges: Ranges = []
    doomed: Ranges | None = None
    dirty_maps: dict[int, RegionMap] = {}
    dirty: dict[int, DirtyBlock] = {}
    bases: list[Base] = []
    cut: list[Base] = []
    users: Users | None = None

    def empty(self) -> bool:
        """Nothing in it and nothing left to delete."""
        own = not self.first.empty() or self.ranges or self.doomed is not None or self.dirty
        return not own and not self.bases and not self.cut and self.users is None

    @property
    def waits(self) -> bool:
        """Is anything left for the reaper that is no longer content?"""
        return bool(self.doomed or self.cut)

    @property
    def weight(self) -> int:
        """Bytes that it takes in an inode, about, and not less."""
        return self.first.weight + _LINE * (len(self.bases) + len(self.cut) + len(self.users or ()))

    def own(self) -> Ranges:
        """The regions that have a map or dirty blocks, region 0 among them."""
        first = not self.first.empty() or any(block < REGION_BLOCKS for block in self.dirty)
        return [(0, 1), *self.ranges] if first else list(self.ranges)

    def regions(self, first: int = 0, last: int = 2**64) -> Iterator[int]:
        """All from `first` up to `last` in which there may be content, in order; region 0 is one."""
        runs = [(0, 1), *self.ranges]
        if self.bases:
            runs = sorted([*runs, *((max(1, base.first), base.end) for base in self.bases)])
        for start, end in runs:
            yield from range(max(start, first), min(end, last))

    def borrows(self) -> bool:
        """Is any of it shared content, or waits to be given back to it?"""
        if self.bases or self.cut or self.first.foreign:
            return True
        return any(found.foreign for found in self.dirty_maps.values())
