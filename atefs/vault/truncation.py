"""Taking content away: cutting a file short, and dropping all that a deleted file had."""

from __future__ import annotations

from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import BlockMap, Layout, RegionMap, sectors
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.ranges import Ranges, add, cut
from atefs.vault.shared import Shared
from atefs.vault.shares import take
from atefs.vault.space import Space

_REGION = BLOCK * REGION_BLOCKS
_TOP = 2**64


class Truncation:
    """Whole regions that are cut off (region 0 apart) become doomed: they are no longer content, and `Reaper` deletes
    them in bounded steps. Until then st_blocks still counts them, since they still take their room.
    """

    def __init__(self, inodes: Inodes, maps: Maps, shared: Shared, space: Space) -> None:
        self._inodes = inodes
        self._maps = maps
        self._shared = shared
        self._space = space

    def truncate(self, inode: Inode, size: int) -> None:
        """Give a regular file this size; what is added is a hole. Touching the inode is left to the caller."""
        if size >= inode.size:
            self._inodes.ready(inode)
        elif inode.inline:
            data = self._inodes.content(inode)
            inode.data = data
            if size < len(data):
                inode.blocks += sectors(size) - sectors(len(data))
                self._inodes.put_content(inode, data[:size])
        else:
            assert inode.layout is not None
            self._cut(inode, inode.layout, size)
        inode.size = size

    def dispose(self, inode: Inode, held: bool = False) -> bool:
        """Let go of all content of an inode that has no name and no user. True: regions are left for the reaper.

        Loads nothing. held: `hold` has loaded what shared content needs; otherwise that is left for the reaper.
        """
        layout = inode.layout
        borrows = layout is not None and not held and layout.borrows()
        if layout is not None:
            self.drop_dirty(inode, layout, 0)
            if not borrows:
                self._shared.give_back(layout)
                self._maps.bury_region(inode.content, 0, layout.first)
                layout.first = RegionMap()
                self.doom(inode, layout, 1)
        if layout is None or not (layout.doomed or borrows):
            return False
        self._inodes.put_content(inode, b"")
        return True

    def hold(self, layout: Layout) -> None:
        """Load what it takes to let go of shared content that maps in memory have."""
        if layout.first.foreign:
            self._maps.hold(layout.first)
        for found in layout.dirty_maps.values():
            if found.foreign:
                self._maps.hold(found)

    def edge_maps(self, inode: Inode, first: int, last: int) -> dict[int, RegionMap]:
        """The maps of regions that lose some of the blocks from `first` up to `last`, or that are region 0."""
        if inode.layout is not None:
            self.hold(inode.layout)
        edges = {0, first // REGION_BLOCKS, (last - 1) // REGION_BLOCKS}
        touched = [region for region in edges if _overlaps(region, first, last) and not _inside(region, first, last)]
        maps = {region: self._maps.prepare(inode, region) for region in touched}
        return {region: found for region, found in maps.items() if found is not None}

    def drop_blocks(self, inode: Inode, first: int, last: int, maps: dict[int, RegionMap]) -> None:
        """Free the blocks from number `first` up to `last`. maps: what `edge_maps` gave for them."""
        layout = inode.layout
        assert layout is not None
        self.drop_dirty(inode, layout, first, last)
        for region, found in maps.items():
            owned = self._maps.own(inode, layout, region, found)
            for index, parts in owned.blocks():
                block = region * REGION_BLOCKS + index
                if first <= block < last:
                    self._drop_block(inode, owned, block, parts)
        self.doom(inode, layout, max(1, -(-first // REGION_BLOCKS)), last // REGION_BLOCKS)

    def _cut(self, inode: Inode, layout: Layout, size: int) -> None:
        edge = size // _REGION
        found = self._maps.prepare(inode, edge) if size % _REGION else None
        self.hold(layout)
        keep = -(-size // BLOCK)
        self.drop_dirty(inode, layout, keep)
        if found is not None:
            found = self._maps.own(inode, layout, edge, found)
            self._cut_region(inode, layout, edge, found, size)
        elif edge == 0:
            self._cut_region(inode, layout, 0, layout.first, 0)
        self.doom(inode, layout, -(-size // _REGION))
        if size == 0:
            self._inodes.put_content(inode, b"")
            if layout.empty():
                inode.layout = None

    def drop_dirty(self, inode: Inode, layout: Layout, first: int, last: int = _TOP) -> None:
        """Forget the dirty bytes of all blocks from number `first` up to `last`."""
        for block in [block for block in layout.dirty if first <= block < last]:
            dirty = layout.dirty.pop(block)
            region, index = divmod(block, REGION_BLOCKS)
            end = (layout.first if region == 0 else layout.dirty_maps[region]).end(index)
            inode.blocks -= sectors(max(end, dirty.end)) - sectors(end)
            self._space.dirty -= dirty.weight

    def _cut_region(self, inode: Inode, layout: Layout, region: int, found: RegionMap, size: int) -> None:
        """Shorten one region's blocks, of which those beyond the edge have no dirty bytes any more."""
        edge, inner = divmod(size, BLOCK)
        keep = edge + (inner > 0)
        for index, parts in found.blocks():
            block = region * REGION_BLOCKS + index
            if block >= keep:
                self._drop_block(inode, found, block, parts)
        if inner and edge // REGION_BLOCKS == region:
            self._cut_block(inode, layout, edge, found, inner)

    def _drop_block(self, inode: Inode, found: RegionMap, block: int, parts: BlockMap) -> None:
        self._maps.discard(inode, found, block, parts)
        inode.blocks -= sectors(parts.end)

    def _cut_block(self, inode: Inode, layout: Layout, block: int, found: RegionMap, inner: int) -> None:
        index = block % REGION_BLOCKS
        parts, dirty = found.get(index), layout.dirty.get(block)
        before = max(parts.end if parts else 0, dirty.end if dirty else 0)
        end = 0
        if parts is not None:
            shorter = parts.shortened(inner)
            end = shorter.end
            kept = set(shorter.slots())
            self._maps.graves.update((inode.content, block, slot) for slot in parts.slots() if slot not in kept)
            self._maps.forget_content(inode.content, block)
            if end:
                found.put(index, shorter)
            else:
                found.drop(index)
        if dirty is not None:
            self._space.dirty -= dirty.weight
            dirty.cut(inner)
            self._space.dirty += dirty.weight
            end = max(end, dirty.end)
            if not dirty.extents and not dirty.base:
                del layout.dirty[block]
        inode.blocks += sectors(end) - sectors(before)

    def doom(self, inode: Inode, layout: Layout, first: int, last: int = _TOP) -> None:
        """The regions from `first` up to `last` are no longer content. Maps at hand are buried at once.

        Of region 0, that only counts which is shared content.
        """
        if layout.bases:
            layout.cut += take(layout.bases, first, last)
            if layout.cut and layout.doomed is None:
                layout.doomed = []
        first = max(1, first)
        if first >= last or not layout.ranges or layout.ranges[-1][1] <= first:
            return
        pieces: Ranges = cut(layout.ranges, first, last)
        for region in [region for region in layout.dirty_maps if first <= region < last]:
            region_map = layout.dirty_maps.pop(region)
            cut(pieces, region, region + 1)
            inode.blocks -= region_map.sectors()
            if region_map.stored:
                self._maps.bury_region(inode.content, region, region_map)
            else:
                self._maps.let_go(region_map)
        if pieces and layout.doomed is None:
            layout.doomed = []
        for start, end in pieces:
            assert layout.doomed is not None
            add(layout.doomed, start, end)


def _overlaps(region: int, first: int, last: int) -> bool:
    return region * REGION_BLOCKS < last and first < (region + 1) * REGION_BLOCKS


def _inside(region: int, first: int, last: int) -> bool:
    """Region 0 never is: its map is part of the inode and cannot be left to the reaper."""
    return region > 0 and first <= region * REGION_BLOCKS and (region + 1) * REGION_BLOCKS <= last
