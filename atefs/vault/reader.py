"""Reading content: what is dirty over what is in flight over what is in the chain."""

from __future__ import annotations

from atedb.errors import DamagedError
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import block_key
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import BlockMap
from atefs.vault.limits import BLOCK, PAGE, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.objects import Objects
from atefs.vault.shared import Shared


class Reader:
    """Content of regular files, whatever state it is in."""

    def __init__(self, objects: Objects, inodes: Inodes, maps: Maps, shared: Shared, cache: BlockCache) -> None:
        self._objects = objects
        self._inodes = inodes
        self._maps = maps
        self._shared = shared
        self._cache = cache

    def read(self, inode: Inode, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, less at the end of the file; holes are zeros."""
        end = min(offset + size, inode.size)
        if offset >= end:
            return b""
        if inode.inline:
            piece = self._inodes.content(inode)[offset:end]
            missing = end - offset - len(piece)
            return piece + bytes(missing) if missing else piece
        block, low = divmod(offset, BLOCK)
        high = low + end - offset
        if high <= BLOCK:
            return self._part(inode, block, low, high)
        parts = []
        while offset < end:
            block, low = divmod(offset, BLOCK)
            high = min(BLOCK, low + end - offset)
            parts.append(self._part(inode, block, low, high))
            offset += high - low
        return b"".join(parts)

    def block_map(self, inode: Inode, block: int) -> BlockMap | None:
        """What the block consists of; None: it does not exist, or only in memory."""
        region, index = divmod(block, REGION_BLOCKS)
        found = self._maps.get(inode, region)
        return found.get(index) if found is not None else None

    def keys(self, inode: Inode, region: int) -> list[bytes]:
        """The objects that hold the content of one region, as the chain has it."""
        found = self._maps.get(inode, region)
        keys: list[bytes] = []
        for index, parts in found.blocks() if found is not None else ():
            content, block = inode.content, region * REGION_BLOCKS + index
            held: BlockMap | None = parts
            if found is not None and index in found.foreign:
                number, block = found.foreign[index]
                lender = self._shared.get(number)
                content, held = lender.content, self.block_map(lender, block)
            for slot in held.slots() if held is not None else ():
                keys.append(block_key(self._objects.log, content, block, slot))
        return keys

    def clean(self, inode: Inode, block: int, keep: bool = True) -> bytes:
        """A block without its dirty bytes, as far as its data go. keep: it is likely to be read again."""
        region, index = divmod(block, REGION_BLOCKS)
        found = self._maps.get(inode, region)
        parts = found.get(index) if found is not None else None
        if found is None or parts is None:
            return b""
        if found.foreign and index in found.foreign:
            return self._borrowed(found.foreign[index], parts.base, keep)
        body = self._cache.get((inode.content, block))
        if body is None:
            body = self._assemble(inode.content, block, parts)
            if keep or parts.pages or parts.patches:
                self._cache.put((inode.content, block), body)
        return body

    def _part(self, inode: Inode, block: int, low: int, high: int) -> bytes:
        layout = inode.layout
        dirty = layout.dirty.get(block) if layout is not None else None
        if dirty is None:
            page = self._patched_page(inode, block, low, high)
            if page is not None:
                return page
            body = self.clean(inode, block, keep=high - low < BLOCK)
            if low == 0 and high == len(body):
                return body
            piece = body[low:high]
            missing = high - low - len(piece)
            return piece + bytes(missing) if missing else piece
        for start, end, view in dirty.extents:
            if start <= low and high <= end:
                return bytes(view[low - start : high - start])
        target = bytearray(high - low)
        if not dirty.covers(low, high):
            base = dirty.base if dirty.base is not None else self.clean(inode, block)
            piece = base[low:high]
            target[: len(piece)] = piece
        dirty.overlay(target, low)
        return bytes(target)

    def _patched_page(self, inode: Inode, block: int, low: int, high: int) -> bytes | None:
        """The range, if one patched page holds all of it: the rest of the block need not be opened for that."""
        page, start = divmod(low, PAGE)
        if start + high - low > PAGE or self._cache.get((inode.content, block)) is not None:
            return None
        parts = self.block_map(inode, block)
        if parts is None or parts.patches or not parts.pages >> page & 1:
            return None
        piece = self._object(inode.content, block, page + 1)[start : start + high - low]
        return piece + bytes(high - low - len(piece))

    def _borrowed(self, origin: tuple[int, int], end: int, keep: bool) -> bytes:
        """The first `end` bytes of a block of shared content."""
        content, block = self._shared.get(origin[0]), origin[1]
        if content.layout is not None and block in content.layout.dirty:
            return self._part(content, block, 0, end)
        body = self.clean(content, block, keep)
        return body if len(body) <= end else body[:end]

    def _assemble(self, content: int, block: int, parts: BlockMap) -> bytes:
        base = self._object(content, block, 0)[: parts.base] if parts.base else b""
        overlays = parts.overlays()
        if not overlays:
            return base
        target = bytearray(parts.end)
        target[: len(base)] = base
        for offset, length, slot in overlays:
            target[offset : offset + length] = self._object(content, block, slot)[:length]
        return bytes(target)

    def _object(self, content: int, block: int, slot: int) -> bytes:
        body = self._objects.load(block_key(self._objects.log, content, block, slot))
        if body is None:
            raise DamagedError(f"Block {block} of content {content} has disappeared from the chain. Run: atefs fsck")
        return body
