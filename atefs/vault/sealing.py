"""Turning dirty content into changes. Everything needed is in memory: nothing here loads, and nothing here fails."""

from __future__ import annotations

from atedb.chain.event import Change, Lane
from atefs.vault.codec import block_key
from atefs.vault.extents import DirtyBlock, Run
from atefs.vault.inode import Inode
from atefs.vault.layout import BlockMap, Layout, Patch
from atefs.vault.limits import COMPRESS_MIN, PATCHES_MAX, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.objects import Objects


class Sealing:
    """One commit's blocks, patches and maps."""

    def __init__(self, objects: Objects, maps: Maps) -> None:
        self._objects = objects
        self._maps = maps

    def changes(self, inode: Inode) -> list[Change]:
        """All dirty content of one inode; it is clean afterwards, and its layout says where everything lies.

        The slots of patches that were replaced are buried in `Maps`, whose tombstones must be taken after this.
        """
        layout = inode.layout
        if layout is None or not (layout.dirty or layout.dirty_maps):
            return []
        changes: list[Change] = []
        for block, dirty in layout.dirty.items():
            self._seal(changes, inode.ino, layout, block, dirty)
        layout.dirty.clear()
        changes += self._maps.release(inode, layout)
        return changes

    def _seal(self, changes: list[Change], ino: int, layout: Layout, block: int, dirty: DirtyBlock) -> None:
        region, index = divmod(block, REGION_BLOCKS)
        region_map = layout.first if region == 0 else layout.dirty_maps[region]
        parts = region_map.get(index)
        self._maps.forget_content(ino, block)
        if dirty.base is None and parts is not None:
            region_map.put(index, self._patched(changes, ino, block, parts, list(dirty.runs())))
            return
        if parts is not None:
            self._maps.graves.update((ino, block, patch.slot) for patch in parts.patches)
        region_map.put(index, BlockMap(dirty.end))
        changes.append(Change(block_key(self._objects.log, ino, block, 0), Lane.BLOB, dirty.whole(), False, True))

    def _patched(self, changes: list[Change], ino: int, block: int, parts: BlockMap, runs: list[Run]) -> BlockMap:
        """Each run becomes a patch. One that exactly covers older patches takes over the slot of the first of them."""
        kept = list(parts.patches)
        slots: list[int] = []
        freed: set[int] = set()
        for start, end, _ in runs:
            covered = [patch for patch in kept if start <= patch.offset and patch.offset + patch.length <= end]
            if covered:
                kept = [patch for patch in kept if patch not in covered]
            slots.append(covered[0].slot if covered else 0)
            freed.update(patch.slot for patch in covered[1:])
        used = {patch.slot for patch in kept} | set(slots)
        free = iter([slot for slot in range(1, PATCHES_MAX + 1) if slot not in used])
        for (start, end, views), reused in zip(runs, slots, strict=True):
            slot = reused or next(free)
            freed.discard(slot)
            kept.append(Patch(start, end - start, slot))
            key = block_key(self._objects.log, ino, block, slot)
            changes.append(Change(key, Lane.BLOB, views, False, end - start > COMPRESS_MIN))
        self._maps.graves.update((ino, block, slot) for slot in freed)
        return BlockMap(parts.base, tuple(kept))
