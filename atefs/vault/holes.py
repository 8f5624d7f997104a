"""Holes: where a sparse file has content and where not, and making holes (man 2 lseek, fallocate)."""

from __future__ import annotations

from collections.abc import Iterator

from atefs.errors import NoDataError
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import sectors
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.truncation import Truncation
from atefs.vault.writer import Writer

Run = tuple[int, int]
"""Start and end of bytes that are allocated."""
_REGION = BLOCK * REGION_BLOCKS


class Holes:
    """Works on what exists, so that the length of a hole costs nothing. Bytes that are allocated may still be zeros."""

    def __init__(self, inodes: Inodes, maps: Maps, writer: Writer, truncation: Truncation) -> None:
        self._inodes = inodes
        self._maps = maps
        self._writer = writer
        self._truncation = truncation

    def runs(self, inode: Inode, offset: int) -> Iterator[Run]:
        """Allocated bytes from `offset` to the end of the file, adjacent ones together."""
        start = end = -1
        for low, high in self._pieces(inode, offset):
            if low == end:
                end = high
                continue
            if end > start:
                yield start, end
            start, end = low, high
        if end > start:
            yield start, end

    def seek_data(self, inode: Inode, offset: int) -> int:
        """The first allocated byte at or after `offset`. Raises NoDataError when there is none."""
        self._check_inside(inode, offset)
        for start, _ in self.runs(inode, offset):
            return start
        raise NoDataError("There are no data from here to the end of the file.")

    def seek_hole(self, inode: Inode, offset: int) -> int:
        """The first byte of a hole at or after `offset`; the end of the file counts as one."""
        self._check_inside(inode, offset)
        for start, end in self.runs(inode, offset):
            return end if start == offset else offset
        return offset

    def punch(self, inode: Inode, offset: int, length: int) -> None:
        """Make `length` bytes from `offset` read as zeros, and free the blocks that lie wholly inside.

        Touching the inode is left to the caller.
        """
        end = min(offset + length, inode.size)
        if offset < end:
            if inode.inline:
                self._punch_inline(inode, offset, end)
            else:
                self._punch_blocks(inode, offset, end)

    def _punch_inline(self, inode: Inode, offset: int, end: int) -> None:
        data = self._inodes.content(inode)
        inode.data = data
        if offset < len(data):
            rest = data[end:]
            kept = data[:offset] + bytes(end - offset) + rest if rest else data[:offset]
            inode.blocks += sectors(len(kept)) - sectors(len(data))
            self._inodes.put_content(inode, kept)

    def _punch_blocks(self, inode: Inode, offset: int, end: int) -> None:
        first, last = -(-offset // BLOCK), end // BLOCK
        if end == inode.size:
            last = -(-end // BLOCK)
        edges = [(offset, min(end, first * BLOCK))] if first * BLOCK > offset else []
        if last * BLOCK < end and last >= first:
            edges.append((last * BLOCK, end))
        plans = [self._writer.plan_zeros(inode, low, high) for low, high in edges]
        maps = self._truncation.edge_maps(inode, first, last) if first < last else {}
        for plan in plans:
            self._writer.write_zeros(inode, plan)
        if first < last:
            self._truncation.drop_blocks(inode, first, last, maps)

    def _check_inside(self, inode: Inode, offset: int) -> None:
        if not 0 <= offset < inode.size:
            raise NoDataError("The offset is beyond the end of the file.")

    def _pieces(self, inode: Inode, offset: int) -> Iterator[Run]:
        if inode.inline:
            size = len(self._inodes.content(inode))
            if offset < size:
                yield offset, size
            return
        layout = inode.layout
        assert layout is not None
        for region in layout.regions(offset // _REGION):
            yield from self._region_pieces(inode, region, offset)

    def _region_pieces(self, inode: Inode, region: int, offset: int) -> Iterator[Run]:
        found = self._maps.get(inode, region)
        layout = inode.layout
        assert found is not None
        assert layout is not None
        for index in range(REGION_BLOCKS):
            block = region * REGION_BLOCKS + index
            dirty = layout.dirty.get(block)
            top = max(found.end(index), dirty.end if dirty is not None else 0)
            low, high = max(offset, block * BLOCK), min(inode.size, block * BLOCK + top)
            if low < high:
                yield low, high
