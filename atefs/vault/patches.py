"""How dirty bytes of a block become patches beside those that it has."""

from __future__ import annotations

from typing import NamedTuple

from atefs.vault.layout import BlockMap, Patch
from atefs.vault.limits import BLOCK_PAGES, PAGE, PATCHES_MAX

Span = tuple[int, int]

FREE_SLOTS = range(BLOCK_PAGES + 1, BLOCK_PAGES + 2 + PATCHES_MAX)
"""Slots of patches that are not of whole pages. One more than a write may count on: a truncation can cut a page."""


class PatchPlan(NamedTuple):
    """What a block's patches come to. kept and pages: old ones that stay, as in `BlockMap`.

    page_spans: new patches of one page each, free: all other new ones, later than everything that is kept.
    """

    pages: int
    kept: tuple[Patch, ...]
    page_spans: list[Span]
    free: list[Span]

    def fits(self) -> bool:
        """Are there slots enough?"""
        return len(self.free) + sum(patch.slot > BLOCK_PAGES for patch in self.kept) <= PATCHES_MAX


def plan_patches(parts: BlockMap, spans: list[Span]) -> PatchPlan:
    """spans: dirty bytes, sorted, neither overlapping nor adjacent; old patches that one of them covers are dropped.

    Spans of whole pages are cut into pages, each of which has a slot of its own: so a database that writes pages never
    runs out of slots, and its map stays a bitmap. A page that shares bytes with a free patch has to become one too,
    since only free patches have an order.
    """
    kept = [patch for patch in parts.patches if not _covered(patch.offset, patch.offset + patch.length, spans)]
    pages = parts.pages
    free: list[Span] = []
    page_spans: list[Span] = []
    for start, end in spans:
        first, last = start // PAGE, -(-end // PAGE)
        inner = ((1 << end // PAGE) - 1) >> -(-start // PAGE) << -(-start // PAGE)
        pages &= ~inner
        if not start % PAGE and not end % PAGE:
            page_spans += [(page * PAGE, page * PAGE + PAGE) for page in range(first, last)]
            continue
        for page in {first, last - 1}:
            if pages >> page & 1:
                pages &= ~(1 << page)
                kept.append(Patch(page * PAGE, PAGE, page + 1))
        free.append((start, end))
    if kept and page_spans:
        shared = [span for span in page_spans if any(_overlap(patch, span) for patch in kept)]
        page_spans = [span for span in page_spans if span not in shared]
        free = sorted(free + shared)
    return PatchPlan(pages, tuple(kept), page_spans, free)


def _covered(start: int, end: int, spans: list[Span]) -> bool:
    return any(low <= start and end <= high for low, high in spans)


def _overlap(patch: Patch, span: Span) -> bool:
    return patch.offset < span[1] and span[0] < patch.offset + patch.length
