"""Copying between files (man 2 copy_file_range): whole blocks become shared content, the rest goes through memory."""

from __future__ import annotations

from typing import NamedTuple

from atefs.errors import FileTooBigError, InvalidError
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import Layout, RegionMap, sectors
from atefs.vault.limits import BLOCK, FILE_MAX, OBJECT_COST, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.reader import Reader
from atefs.vault.shared import Shared, lenders, lent
from atefs.vault.shares import between, put
from atefs.vault.space import Space
from atefs.vault.truncation import Truncation
from atefs.vault.writer import Writer

BYTES_MAX = 1 << 20
"""Bytes that one call copies through memory."""
MAPS_MAX = 64
"""Maps of the target that one call writes, for blocks that do not lie in its regions as in the source's."""
REGIONS_MAX = 256
"""Regions that one call shares where their maps have to be read, to count what is in them."""


class _Range(NamedTuple):
    """Blocks of the source from `start` on become those of the target from `first` up to `end`."""

    start: int
    first: int
    end: int
    ends_both: bool
    """Neither file has anything after it."""

    @property
    def shift(self) -> int:
        return self.start - self.first

    def whole(self) -> tuple[int, int]:
        """The target's regions that are taken over as they are: the first one, and where they end."""
        if self.shift % REGION_BLOCKS:
            return 0, 0
        first = -(-self.first // REGION_BLOCKS)
        last = -(-self.end // REGION_BLOCKS) if self.ends_both else self.end // REGION_BLOCKS
        return (first, last) if first < last else (0, 0)


class _Plan(NamedTuple):
    """Everything loaded. seen: maps of the source, maps: those of the target that get single blocks, by region.

    sectors: what the regions that are taken over whole count. parts: the source has own content in the range.
    """

    seen: dict[int, RegionMap | None]
    maps: dict[int, RegionMap | None]
    old: bytes
    sectors: int
    parts: bool


class Copying:
    """What is shared costs a few objects, whatever its length; its blocks are not loaded."""

    def __init__(
        self, inodes: Inodes, maps: Maps, shared: Shared, reader: Reader,
        *, writer: Writer, truncation: Truncation, space: Space,
    ) -> None:  # fmt: skip
        self._inodes = inodes
        self._maps = maps
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._truncation = truncation
        self._space = space

    def copy(
        self, source: Inode, source_offset: int, target: Inode, target_offset: int, *, length: int, now: int | None
    ) -> int:  # fmt: skip
        """Copy up to `length` bytes, less at the source's end and where the next call can do better; returns how many.

        mtime and ctime of the target become `now`, if given. Raises InvalidError, FileTooBigError, and NoSpaceError or
        QuotaError when it could not be committed.
        """
        if min(source_offset, target_offset, length) < 0:
            raise InvalidError("Offsets and lengths begin at 0.")
        length = min(length, source.size - source_offset)
        if length <= 0:
            return 0
        if target_offset >= FILE_MAX:
            raise FileTooBigError(f"A file ends at {FILE_MAX} bytes at the latest.")
        length = min(length, FILE_MAX - target_offset)
        if source.ino == target.ino and abs(source_offset - target_offset) < length:
            raise InvalidError("What is copied within one file cannot overlap.")
        blocks = self._range(source, source_offset, target, target_offset, length)
        if blocks is None:
            return self._copy_bytes(source, source_offset, target, target_offset, length=length, now=now)
        self._share(source, target, blocks)
        length = min(length, (blocks.end - blocks.first) * BLOCK)
        target.size = max(target.size, target_offset + length)
        if now is not None:
            target.mtime = target.ctime = now
        self._inodes.touch(target)
        return length

    def _copy_bytes(
        self, source: Inode, source_offset: int, target: Inode, target_offset: int, *, length: int, now: int | None
    ) -> int:  # fmt: skip
        size = min(length, BYTES_MAX)
        inner = source_offset % BLOCK
        if inner and inner == target_offset % BLOCK:
            size = min(size, BLOCK - inner)
        self._writer.write(target, target_offset, self._reader.read(source, source_offset, size), now)
        return size

    def _range(
        self, source: Inode, source_offset: int, target: Inode, target_offset: int, length: int
    ) -> _Range | None:  # fmt: skip
        """What of it is whole blocks and can be shared in one call."""
        if source.inline or source.layout is None or source_offset % BLOCK or target_offset % BLOCK:
            return None
        start, first = source_offset // BLOCK, target_offset // BLOCK
        ends_both = source_offset + length == source.size and target_offset + length >= target.size
        end = first + (-(-length // BLOCK) if ends_both else length // BLOCK)
        found = _Range(start, first, end, ends_both)
        low, high = found.whole()
        if low < high:
            if not _is_clone(source, target, found):
                high = min(high, low + REGIONS_MAX)
            end = min(end, high * REGION_BLOCKS)
        else:
            end = min(end, (first // REGION_BLOCKS + MAPS_MAX) * REGION_BLOCKS)
        # Regions of the source that wait to be deleted could not stay with it if it got other names for its content.
        if end == first or (source.layout.doomed and _owns(source.layout, start, start + end - first)):
            return None
        return _Range(start, first, end, ends_both and end == found.end)

    # Loading

    def _plan(self, source: Inode, target: Inode, blocks: _Range) -> _Plan:
        layout = source.layout
        assert layout is not None
        low, high = blocks.whole()
        shift = blocks.shift // REGION_BLOCKS
        seen: dict[int, RegionMap | None] = {}
        maps: dict[int, RegionMap | None] = {}
        for first, end in _single(blocks):
            for region in range(first // REGION_BLOCKS, -(-end // REGION_BLOCKS)):
                maps[region] = self._maps.prepare(target, region)
            for region in range((first + blocks.shift) // REGION_BLOCKS, -(-(end + blocks.shift) // REGION_BLOCKS)):
                seen[region] = self._look(source, region)
        if low == 0 < high:
            maps[0] = self._maps.prepare(target, 0)
        self._shared.hold_bases(between(layout.bases, low + shift, high + shift))
        if target.layout is not None:
            self._truncation.hold(target.layout)
        count = source.blocks
        if not _is_clone(source, target, blocks):
            count = sum(self._sectors(source, region) for region in layout.regions(low + shift, high + shift))
        old = self._inodes.content(target) if target.inline else b""
        parts = _owns(layout, blocks.start, blocks.start + blocks.end - blocks.first)
        return _Plan(seen, maps, old, count, parts)

    def _look(self, source: Inode, region: int) -> RegionMap | None:
        found = self._maps.get(source, region)
        if found is not None and found.foreign:
            self._maps.hold(found)
        return found

    def _sectors(self, source: Inode, region: int) -> int:
        return lent(source, region, self._maps.get(source, region)).sectors()

    # Doing it

    def _share(self, source: Inode, target: Inode, blocks: _Range) -> None:
        plan = self._plan(source, target, blocks)
        self._space.check_room(OBJECT_COST * (8 + 3 * len(plan.maps)))
        if plan.parts:
            self._part_with(source, target, plan)
        if target.inline:
            self._writer.move_out(target, plan.old)
        layout = target.layout
        assert layout is not None
        self._truncation.drop_dirty(target, layout, blocks.first, blocks.end)
        self._take_regions(source, target, layout, blocks, plan)
        for first, end in _single(blocks):
            for region in range(first // REGION_BLOCKS, -(-end // REGION_BLOCKS)):
                low, high = max(first, region * REGION_BLOCKS), min(end, (region + 1) * REGION_BLOCKS)
                self._take_blocks(target, layout, range(low, high), blocks.shift, plan)

    def _part_with(self, source: Inode, target: Inode, plan: _Plan) -> None:
        """The source's own content becomes shared content, and the plan sees it as that."""
        before = source.layout
        assert before is not None
        content = self._shared.part_with(source)
        for maps in (plan.seen, plan.maps) if source.ino == target.ino else (plan.seen,):
            for region, found in maps.items():
                if _owns(before, region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS):
                    maps[region] = lent(content, region, found)

    def _take_regions(self, source: Inode, target: Inode, layout: Layout, blocks: _Range, plan: _Plan) -> None:
        """The regions that are taken over as they are."""
        low, high = blocks.whole()
        if low == high:
            return
        assert source.layout is not None
        shift = blocks.shift // REGION_BLOCKS
        bases = between(source.layout.bases, low + shift, high + shift)
        if low == 0:
            owned = self._maps.own(target, layout, 0, plan.maps[0])
            for index, parts in owned.blocks():
                self._maps.discard(target, owned, index, parts)
                target.blocks -= sectors(parts.end)
        self._truncation.doom(target, layout, low, high)
        self._shared.count_bases(bases, 1)
        for base in bases:
            put(layout.bases, base._replace(first=base.first - shift))
        target.blocks += plan.sectors

    def _take_blocks(self, target: Inode, layout: Layout, blocks: range, shift: int, plan: _Plan) -> None:
        """Single blocks of one region of the target."""
        region = blocks.start // REGION_BLOCKS
        coming: list[tuple[int, tuple[int, int], int]] = []
        for block in blocks:
            at, index = divmod(block + shift, REGION_BLOCKS)
            found = plan.seen[at]
            if found is not None and index in found.foreign:
                coming.append((block % REGION_BLOCKS, found.foreign[index], found.end(index)))
        if not coming and plan.maps[region] is None:
            return
        owned = self._maps.own(target, layout, region, plan.maps[region])
        for block in blocks:
            parts = owned.get(block % REGION_BLOCKS)
            if parts is not None:
                self._maps.discard(target, owned, block, parts)
                target.blocks -= sectors(parts.end)
        self._shared.count({(number, block // REGION_BLOCKS) for _, (number, block), _ in coming} - lenders(owned), 1)
        for index, origin, end in coming:
            owned.lend(index, origin, end)
            target.blocks += sectors(end)


def _is_clone(source: Inode, target: Inode, blocks: _Range) -> bool:
    """Is it all of a file into an empty one? The source's count of sectors is the target's then."""
    layout = source.layout
    empty = target.inline or target.blocks == 0
    return blocks.start == blocks.first == 0 and blocks.ends_both and empty and layout is not None and not layout.waits


def _owns(layout: Layout, start: int, end: int) -> bool:
    """Is any of the regions of these blocks the file's own?"""
    return any(low * REGION_BLOCKS < end and start < high * REGION_BLOCKS for low, high in layout.own())


def _single(blocks: _Range) -> list[tuple[int, int]]:
    """The target's blocks that do not come as whole regions: first and end of each run."""
    low, high = blocks.whole()
    if low == high:
        return [(blocks.first, blocks.end)]
    runs = [(blocks.first, low * REGION_BLOCKS), (high * REGION_BLOCKS, blocks.end)]
    return [(first, end) for first, end in runs if first < end]
