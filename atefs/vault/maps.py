"""The maps of files: which are in memory, loading the others, and the objects that no map lists any more."""

from __future__ import annotations

from collections import OrderedDict

from atedb.chain.event import Change, Lane
from atedb.errors import DamagedError
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import block_key, decode_map, map_change, map_key
from atefs.vault.inode import Inode
from atefs.vault.layout import BlockMap, Layout, RegionMap
from atefs.vault.limits import REGION_BLOCKS
from atefs.vault.objects import Objects
from atefs.vault.ranges import add, contains, cut


class Maps:
    """Maps by inode and region. Region 0's is part of the inode, dirty ones of its layout, others are cached here.

    graves: (inode, block, slot) of content objects, and map_graves (inode, region) of maps, to be deleted by the next
    commit, unless it writes them anew.
    """

    def __init__(self, objects: Objects, cache: BlockCache, limit: int) -> None:
        self.graves: set[tuple[int, int, int]] = set()
        self.map_graves: set[tuple[int, int]] = set()
        self._objects = objects
        self._cache = cache
        self._limit = limit
        self._clean: OrderedDict[tuple[int, int], RegionMap] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clean)

    def get(self, inode: Inode, region: int) -> RegionMap | None:
        """The map of a region; None: nothing exists there. At most one load."""
        layout = inode.layout
        if layout is None:
            return None
        if region == 0:
            return layout.first
        found = layout.dirty_maps.get(region)
        if found is not None:
            return found
        if not contains(layout.ranges, region):
            return None
        found = self._clean.get((inode.ino, region))
        if found is None:
            found = self.load(inode.ino, region)
            self._keep(inode.ino, region, found)
        return found

    def load(self, ino: int, region: int) -> RegionMap:
        """A map as the chain has it. Raises DamagedError when it should be there and is not."""
        body = self._objects.load(map_key(self._objects.log, ino, region))
        if body is None:
            raise DamagedError(f"Inode {ino} has lost the map of its region {region}. Run: atefs fsck")
        return decode_map(body)

    def own(self, inode: Inode, layout: Layout, region: int, found: RegionMap | None) -> RegionMap:
        """The map for changing it: what `get` found, or a new one. The inode must be dirty or about to be."""
        if region == 0:
            return layout.first
        held = layout.dirty_maps.get(region)
        if held is not None:
            return held
        if found is None:
            found = RegionMap()
            add(layout.ranges, region, region + 1)
        self._clean.pop((inode.ino, region), None)
        layout.dirty_maps[region] = found
        return found

    def bury(self, ino: int, block: int, dead: BlockMap) -> None:
        """The block's objects are to be deleted."""
        self.graves.update((ino, block, slot) for slot in dead.slots())
        self._cache.drop((ino, block))

    def forget_content(self, ino: int, block: int) -> None:
        """What is cached of the block is out of date."""
        self._cache.drop((ino, block))

    def bury_region(self, ino: int, region: int, dead: RegionMap) -> int:
        """All objects of a region are to be deleted, its map as well; returns how many."""
        before = len(self.graves)
        for index, block in dead.blocks():
            self.bury(ino, region * REGION_BLOCKS + index, block)
        if region:
            self.map_graves.add((ino, region))
        return len(self.graves) - before + 1

    def release(self, inode: Inode, layout: Layout) -> list[Change]:
        """The dirty maps of an inode as changes; they are clean afterwards, and empty ones gone."""
        changes = []
        for region, region_map in layout.dirty_maps.items():
            if not region_map.empty():
                region_map.stored = True
                changes.append(map_change(self._objects.log, inode.ino, region, region_map))
                self._keep(inode.ino, region, region_map)
                continue
            cut(layout.ranges, region, region + 1)
            if region_map.stored:
                changes.append(Change(map_key(self._objects.log, inode.ino, region), Lane.META, b"", True))
        layout.dirty_maps.clear()
        return changes

    def tombstones(self) -> list[Change]:
        """Of everything buried; it is forgotten here."""
        keys = self._objects.log
        changes = [Change(block_key(keys, *grave), Lane.BLOB, b"", True) for grave in self.graves]
        changes += [Change(map_key(keys, *grave), Lane.META, b"", True) for grave in self.map_graves]
        self.graves, self.map_graves = set(), set()
        return changes

    def _keep(self, ino: int, region: int, region_map: RegionMap) -> None:
        self._clean[ino, region] = region_map
        if len(self._clean) > self._limit:
            self._clean.popitem(last=False)
