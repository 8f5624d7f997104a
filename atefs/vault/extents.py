"""The dirty bytes of one block: which they are, and the buffers that hold them, by reference."""

from __future__ import annotations

from collections.abc import Iterator

from atefs.vault.limits import BLOCK, PATCHES_MAX, PIECE_COST

Extent = tuple[int, int, memoryview]
"""Start and end within the block, and the bytes between."""
Run = tuple[int, int, list[memoryview]]
"""Adjacent extents: start, end, and their buffers in order."""

ZEROS = memoryview(bytes(BLOCK))


class DirtyBlock:
    """What has been written to one block since the last freeze.

    extents: sorted and disjoint. bytes: their sum. base: what lies under them, loaded when the block will have to
    go out as a whole (b"" when nothing does); None: the extents can go out as patches.
    """

    __slots__ = ("base", "bytes", "extents")

    def __init__(self, base: bytes | None = None) -> None:
        self.base = base
        self.bytes = 0
        self.extents: list[Extent] = []

    @property
    def end(self) -> int:
        """Where the dirty bytes, and the base if there is one, end."""
        top = self.extents[-1][1] if self.extents else 0
        return max(top, len(self.base)) if self.base else top

    @property
    def weight(self) -> int:
        """Bytes held in memory and to be written, at most."""
        if self.base is None:
            return self.bytes + PIECE_COST * len(self.extents)
        whole = self.bytes + len(self.base)
        return whole + PIECE_COST if whole else 0

    def write(self, start: int, view: memoryview) -> None:
        """Lay `view` over the block at `start`."""
        extents = self.extents
        end = start + len(view)
        if not extents or extents[-1][1] <= start:
            extents.append((start, end, view))
            self.bytes += len(view)
        else:
            self._splice(start, end, [(start, end, view)])
        if len(extents) > PATCHES_MAX:
            self._compact()

    def cut(self, limit: int) -> None:
        """Forget everything from `limit` on."""
        if self.base:
            self.base = self.base[:limit]
        if self.extents and self.extents[-1][1] > limit:
            self._splice(limit, self.extents[-1][1], [])

    def covers(self, start: int, end: int) -> bool:
        """Is every byte of [start, end) dirty?"""
        for low, high, _ in self.extents:
            if low > start:
                return False
            start = max(start, high)
            if start >= end:
                return True
        return start >= end

    def overlay(self, target: bytearray, start: int) -> None:
        """Copy what is dirty over `target`, which holds the block's bytes from `start` on."""
        stop = start + len(target)
        for low, high, view in self.extents:
            if high > start and low < stop:
                first, last = max(low, start), min(high, stop)
                target[first - start : last - start] = view[first - low : last - low]

    def views(self, start: int, end: int) -> list[memoryview]:
        """The buffers of [start, end), all of which is dirty."""
        return [
            view[max(start, low) - low : min(end, high) - low]
            for low, high, view in self.extents
            if low < end and start < high
        ]

    def runs(self) -> Iterator[Run]:
        """The extents, adjacent ones together."""
        at, end = 0, -1
        views: list[memoryview] = []
        for low, high, view in self.extents:
            if low != end:
                if views:
                    yield at, end, views
                at, views = low, []
            views.append(view)
            end = high
        if views:
            yield at, end, views

    def whole(self) -> list[memoryview]:
        """The block from its beginning to `end`: extents, base and zeros, as buffers to be joined."""
        base = memoryview(self.base or b"")
        parts: list[memoryview] = []
        at = 0
        for low, high, view in self.extents:
            _fill(parts, base, at, low)
            parts.append(view)
            at = high
        _fill(parts, base, at, self.end)
        return parts

    def _splice(self, start: int, end: int, new: list[Extent]) -> None:
        extents = self.extents
        first = 0
        while first < len(extents) and extents[first][1] <= start:
            first += 1
        last = first
        while last < len(extents) and extents[last][0] < end:
            last += 1
        pieces = new
        if first < last:
            low, _, view = extents[first]
            if low < start:
                pieces = [(low, start, view[: start - low]), *pieces]
            low, high, view = extents[last - 1]
            if high > end:
                pieces = [*pieces, (end, high, view[end - low :])]
        gone = sum(high - low for low, high, _ in extents[first:last])
        extents[first:last] = pieces
        self.bytes += sum(high - low for low, high, _ in pieces) - gone

    def _compact(self) -> None:
        """Join adjacent small buffers, so that neither time nor memory grows with the number of writes."""
        if self.base is not None:
            joined = memoryview(b"".join(self.whole()))
            self.base, self.bytes = b"", len(joined)
            self.extents[:] = [(0, len(joined), joined)]
            return
        self.extents[:] = [(low, high, _one(views)) for low, high, views in self.runs()]


def _one(views: list[memoryview]) -> memoryview:
    return views[0] if len(views) == 1 else memoryview(b"".join(views))


def _fill(parts: list[memoryview], base: memoryview, start: int, end: int) -> None:
    """Append what lies between two extents: base as far as it goes, zeros after that."""
    if start >= end:
        return
    under = base[start:end]
    if under:
        parts.append(under)
    missing = end - start - len(under)
    if missing:
        parts.append(ZEROS[:missing])
