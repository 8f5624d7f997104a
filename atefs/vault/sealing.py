"""Turning dirty content into changes. Everything needed is in memory: nothing here loads, and nothing here fails."""

from __future__ import annotations

from atedb.chain.event import Change, Lane
from atefs.vault.codec import block_key
from atefs.vault.extents import DirtyBlock
from atefs.vault.inode import Inode
from atefs.vault.layout import BlockMap, Layout, Patch
from atefs.vault.limits import COMPRESS_MIN, PAGE, REGION_BLOCKS
from atefs.vault.maps import Maps
from atefs.vault.objects import Objects
from atefs.vault.patches import FREE_SLOTS, plan_patches


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
            self._seal(changes, inode.content, layout, block, dirty)
        layout.dirty.clear()
        changes += self._maps.release(inode, layout)
        return changes

    def _seal(self, changes: list[Change], content: int, layout: Layout, block: int, dirty: DirtyBlock) -> None:
        region, index = divmod(block, REGION_BLOCKS)
        region_map = layout.first if region == 0 else layout.dirty_maps[region]
        parts = region_map.get(index)
        self._maps.forget_content(content, block)
        if dirty.base is None and parts is not None:
            region_map.put(index, self._patched(changes, content, block, parts, dirty))
            return
        if parts is not None:
            self._maps.graves.update((content, block, slot) for slot in parts.slots() if slot)
        region_map.put(index, BlockMap(dirty.end))
        changes.append(Change(block_key(self._objects.log, content, block, 0), Lane.BLOB, dirty.whole(), False, True))

    def _patched(self, changes: list[Change], content: int, block: int, parts: BlockMap, dirty: DirtyBlock) -> BlockMap:
        """The dirty bytes as patches; slots that are not needed any more are buried."""
        if len(dirty.extents) == 1 and not parts.patches:
            start, end, view = dirty.extents[0]
            if end - start == PAGE and not start % PAGE:  # what databases do at every fsync: no plan is needed
                slot = start // PAGE + 1
                changes.append(Change(block_key(self._objects.log, content, block, slot), Lane.BLOB, view, False, True))
                return BlockMap(parts.base, parts.pages | 1 << slot - 1)
        plan = plan_patches(parts, [(start, end) for start, end, _ in dirty.runs()])
        new = [Patch(start, end - start, start // PAGE + 1) for start, end in plan.page_spans]
        pages = plan.pages | sum(1 << patch.slot - 1 for patch in new)
        taken = {patch.slot for patch in plan.kept}
        slots = [slot for slot in FREE_SLOTS if slot not in taken][: len(plan.free)]
        free = [Patch(start, end - start, slot) for (start, end), slot in zip(plan.free, slots, strict=True)]
        for offset, length, slot in new + free:
            key = block_key(self._objects.log, content, block, slot)
            body = dirty.views(offset, offset + length)
            changes.append(Change(key, Lane.BLOB, body, False, length > COMPRESS_MIN))
        after = BlockMap(parts.base, pages, plan.kept + tuple(free))
        if parts.pages & ~pages or len(plan.kept) < len(parts.patches):
            self._maps.graves.update((content, block, slot) for slot in set(parts.slots()).difference(after.slots()))
        return after
