"""The maps of files: which are in memory, loading the others, and the objects that no map lists any more."""

from __future__ import annotations

from collections import OrderedDict

from atedb.chain.event import Change, Lane
from atedb.errors import DamagedError
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import block_key, decode_map, map_change, map_key
from atefs.vault.inode import Inode
from atefs.vault.layout import BlockMap, Layout, RegionMap
from atefs.vault.limits import OBJECT_COST, REGION_BLOCKS
from atefs.vault.objects import Objects
from atefs.vault.ranges import add, contains, cut
from atefs.vault.shared import Shared, lenders, lent
from atefs.vault.shares import Base, between, find, take
from atefs.vault.space import Space


class Maps:
    """Maps by inode and region. Region 0's is part of the inode, dirty ones of its layout, others are cached here.

    graves: (content, block, slot) of content objects, and map_graves (content, region) of maps, to be deleted by the
    next commit, unless it writes them anew. `content` is `Inode.content` everywhere.
    """

    def __init__(self, objects: Objects, space: Space, cache: BlockCache, shared: Shared, limit: int) -> None:
        self.graves: set[tuple[int, int, int]] = set()
        self.map_graves: set[tuple[int, int]] = set()
        self._objects = objects
        self._space = space
        self._cache = cache
        self._shared = shared
        self._limit = limit
        self._clean: OrderedDict[tuple[int, int], RegionMap] = OrderedDict()
        self._former: dict[tuple[int, int], RegionMap] = {}

    def __len__(self) -> int:
        return len(self._clean)

    def get(self, inode: Inode, region: int) -> RegionMap | None:
        """The map of a region; None: nothing exists there. At most one load, or two for what is shared content."""
        layout = inode.layout
        if layout is None:
            return None
        if layout.bases:
            base = find(layout.bases, region)
            if base is not None:
                return self.borrowed(base.number, base.origin)
        if region == 0:
            return layout.first
        found = layout.dirty_maps.get(region)
        if found is not None:
            return found
        if not contains(layout.ranges, region):
            return None
        found = self._clean.get((inode.content, region))
        if found is None:
            found = self.load(inode.content, region)
            self._keep(inode.content, region, found)
        return found

    def borrowed(self, number: int, region: int) -> RegionMap:
        """A region of shared content as the files see it that have it. Not to be changed."""
        found = self._clean.get((~number, region))
        if found is None:
            content = self._shared.get(number)
            found = lent(content, region, self.get(content, region))
            self._keep(~number, region, found)
        return found

    def load(self, content: int, region: int) -> RegionMap:
        """A map as the chain has it. Raises DamagedError when it should be there and is not."""
        body = self._objects.load(map_key(self._objects.log, content, region))
        if body is None:
            raise DamagedError(f"Content {content} has lost the map of its region {region}. Run: atefs fsck")
        return decode_map(body)

    def prepare(self, inode: Inode, region: int) -> RegionMap | None:
        """As `get`, for a region that is about to be changed: all is loaded that `own` and `discard` need for it."""
        found = self.get(inode, region)
        layout = inode.layout
        if layout is None:
            return found
        if layout.doomed and contains(layout.doomed, region):
            former = self.load(inode.content, region)
            self.hold(former)
            self._former[inode.content, region] = former
        if layout.bases:
            self._shared.hold_bases(between(layout.bases, region, region + 1))
        if found is not None and found.foreign:
            self.hold(found)
        return found

    def hold(self, found: RegionMap) -> None:
        """Load the shared contents that a map has blocks of: what is needed to let go of them."""
        self._shared.hold({number for number, _ in found.foreign.values()})

    def own(self, inode: Inode, layout: Layout, region: int, found: RegionMap | None) -> RegionMap:
        """The map for changing it: what `prepare` found, or a new one. The inode must be dirty or about to be.

        A region that is one of shared content gets a map with the blocks of that. What is left of a former region
        that waits to be deleted is deleted at once.
        """
        if layout.bases:
            for base in take(layout.bases, region, region + 1):
                found = self._copied(base, found)
                if region == 0:
                    layout.first = found
                else:
                    add(layout.ranges, region, region + 1)
        if region == 0:
            return layout.first
        held = layout.dirty_maps.get(region)
        if held is not None:
            return held
        if layout.doomed and contains(layout.doomed, region):
            former = self._former.pop((inode.content, region))
            self.bury_region(inode.content, region, former)
            cut(layout.doomed, region, region + 1)
            inode.blocks -= former.sectors()
        if found is None:
            found = RegionMap()
            add(layout.ranges, region, region + 1)
        self._clean.pop((inode.content, region), None)
        layout.dirty_maps[region] = found
        weight = OBJECT_COST + found.weight
        inode.counted += weight
        self._space.dirty += weight
        return found

    def discard(self, inode: Inode, found: RegionMap, block: int, parts: BlockMap) -> None:
        """Take a block out of a map that is owned. Its objects are to be deleted; one of shared content is let go."""
        index = block % REGION_BLOCKS
        origin = found.foreign.get(index)
        found.drop(index)
        if origin is None:
            self._bury(inode.content, block, parts)
            return
        lender = origin[0], origin[1] // REGION_BLOCKS
        if lender not in lenders(found):
            self._shared.count([lender], -1)

    def forget_content(self, content: int, block: int) -> None:
        """What is cached of the block is out of date."""
        self._cache.drop((content, block))

    def forget(self, contents: set[int]) -> None:
        """Others have changed something in these contents: their maps are loaded again. None is dirty."""
        if contents:
            for key in [key for key in self._clean if (key[0] if key[0] >= 0 else ~key[0]) in contents]:
                del self._clean[key]

    def bury_region(self, content: int, region: int, dead: RegionMap) -> int:
        """All objects of a region are to be deleted, its map as well; returns how many."""
        before = len(self.graves)
        for index, block in dead.blocks():
            if index not in dead.foreign:
                self._bury(content, region * REGION_BLOCKS + index, block)
        self.let_go(dead)
        if region:
            self.map_graves.add((content, region))
        return len(self.graves) - before + 1

    def let_go(self, dead: RegionMap) -> None:
        """The map is no more: what it has of shared content has a user less. `hold` was called."""
        if dead.foreign:
            self._shared.count(lenders(dead), -1)

    def release(self, inode: Inode, layout: Layout) -> list[Change]:
        """The dirty maps of an inode as changes; they are clean afterwards, and empty ones gone."""
        changes = []
        for region, region_map in layout.dirty_maps.items():
            if not region_map.empty():
                region_map.stored = True
                changes.append(map_change(self._objects.log, inode.content, region, region_map))
                self._keep(inode.content, region, region_map)
                continue
            cut(layout.ranges, region, region + 1)
            if region_map.stored:
                changes.append(Change(map_key(self._objects.log, inode.content, region), Lane.META, b"", True))
        layout.dirty_maps.clear()
        return changes

    def tombstones(self) -> list[Change]:
        """Of everything buried; it is forgotten here."""
        keys = self._objects.log
        changes = [Change(block_key(keys, *grave), Lane.BLOB, b"", True) for grave in self.graves]
        changes += [Change(map_key(keys, *grave), Lane.META, b"", True) for grave in self.map_graves]
        self.graves, self.map_graves = set(), set()
        self._former.clear()
        self._shared.release()
        return changes

    def _copied(self, base: Base, seen: RegionMap | None) -> RegionMap:
        """A map of the file's own in the place of a region of shared content."""
        assert seen is not None
        self._shared.count(lenders(seen), 1)
        self._shared.count_bases([base], -1)
        return RegionMap(seen.full, dict(seen.partial), False, dict(seen.foreign))

    def _bury(self, content: int, block: int, dead: BlockMap) -> None:
        self.graves.update((content, block, slot) for slot in dead.slots())
        self._cache.drop((content, block))

    def _keep(self, content: int, region: int, region_map: RegionMap) -> None:
        self._clean[content, region] = region_map
        if len(self._clean) > self._limit:
            self._clean.popitem(last=False)
