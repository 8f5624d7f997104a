"""What clients read of a chain: runs of frames, slim ones without touching the blobs, and single bodies."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby

from atedb.chain.format import EVENT_SIZE, TOMBSTONE, FrameHeader, event_rows
from atedb.chain.slim import join_slim
from atedb.engine.interface import BatchLog
from atedb.errors import InvalidError

_GLANCE = 64 << 10
"""Bytes read of a frame before anything is known of it. Frames of up to this size are read whole, several at once."""
_GAP = 16 << 10
"""Blobs shorter than this between two bodies that are wanted are read over."""
_MAX_TABLE_ROWS = 1 << 18
_MAX_RECENT = 512 << 10


class Reader:
    """Reads one chain for all of its clients."""

    def __init__(self, log: BatchLog) -> None:
        self._log = log
        self._starts: OrderedDict[int, array[int]] = OrderedDict()
        self._rows = 0
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._recent_bytes = 0

    def keep(self, sequence: int, slim: bytes) -> None:
        """Keep the slim form of the newest batch for a while: everybody who follows the chain is about to ask."""
        self._recent[sequence] = slim
        self._recent_bytes += len(slim)
        while self._recent_bytes > _MAX_RECENT:
            self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def forget(self) -> None:
        """Keep nothing any longer."""
        self._recent.clear()
        self._recent_bytes = 0

    async def read(self, first: int, last: int, limit: int, *, slim: bool) -> list[bytes]:
        """Frames from `first` up to at most `last`: at least one, and then as many as fit into `limit` bytes."""
        frames: list[bytes] = []
        size = 0
        while first + len(frames) <= last and (not frames or size < limit):
            for frame in await self._some(first + len(frames), max(1, limit - size), slim=slim):
                if first + len(frames) > last or (frames and size + len(frame) > limit):
                    return frames
                frames.append(frame)
                size += len(frame)
        return frames

    async def _some(self, first: int, limit: int, *, slim: bool) -> list[bytes]:
        """One or more frames from `first` on, but slim ones perhaps beyond the limit."""
        if not slim:
            return await self._log.read(first, limit)
        if first in self._recent:
            return [self._recent[first]]
        glance = await self._log.read_range(first, 0, _GLANCE)
        header = FrameHeader.decode(glance)
        if header.length > len(glance):
            return [await self._slim_of_large(first, header, glance)]
        frames = await self._log.read(first, max(limit, _GLANCE))
        return [await self._slim_of(number, frame) for number, frame in enumerate(frames, first)]

    async def _slim_of(self, sequence: int, frame: bytes) -> bytes:
        header = FrameHeader.decode(frame)
        kept, heavy = _kept(header, frame)
        if not heavy:
            return frame
        return join_slim(header, frame, [frame[at : at + length] for at, length in kept])

    async def _slim_of_large(self, sequence: int, header: FrameHeader, glance: bytes) -> bytes:
        front = glance
        if header.bodies_offset > len(front):
            front = await self._log.read_range(sequence, 0, header.bodies_offset)
        kept, heavy = _kept(header, front)
        if not heavy:
            return await self._log.read_range(sequence, 0, header.length)
        bodies: list[bytes] = []
        for run in _runs(kept):
            start, end = run[0][0], run[-1][0] + run[-1][1]
            data = await self._log.read_range(sequence, start, end - start)
            bodies += [data[at - start : at - start + length] for at, length in run]
        return join_slim(header, front, bodies)

    async def bodies(self, wanted: Sequence[tuple[int, int]], limit: int) -> list[bytes]:
        """The first of the sealed bodies that are wanted, by (sequence, place): at least one, then as many as fit into
        `limit` bytes. Raises InvalidError."""
        found: list[bytes] = []
        size = 0
        for sequence, group in groupby(wanted, key=lambda pair: pair[0]):
            starts = await self._table(sequence)
            places: list[tuple[int, int]] = []
            for _, place in group:
                if not 0 <= place < len(starts) - 1:
                    raise InvalidError(f"batch {sequence} has no event {place}")
                size += starts[place + 1] - starts[place]
                if size > limit and (found or places):
                    break
                places.append((starts[place], starts[place + 1] - starts[place]))
            for run in _runs(places):
                start, end = run[0][0], run[-1][0] + run[-1][1]
                data = await self._log.read_range(sequence, start, end - start)
                found += [data[at - start : at - start + length] for at, length in run]
            if size > limit:
                break
        return found

    async def _table(self, sequence: int) -> array[int]:
        """Where each body of a batch begins in its frame, and where the last one ends."""
        starts = self._starts.get(sequence)
        if starts is not None:
            self._starts.move_to_end(sequence)
            return starts
        glance = await self._log.read_range(sequence, 0, 4096)
        header = FrameHeader.decode(glance)
        if header.bodies_offset > len(glance):
            glance = await self._log.read_range(sequence, 0, header.bodies_offset)
        at = header.bodies_offset
        starts = array("I", [at])
        for row in event_rows(_table_of(header, glance)):
            at += row[3]
            starts.append(at)
        self._starts[sequence] = starts
        self._rows += len(starts)
        while self._rows > _MAX_TABLE_ROWS and len(self._starts) > 1:
            self._rows -= len(self._starts.popitem(last=False)[1])
        return starts


def _table_of(header: FrameHeader, front: bytes) -> bytes:
    return front[header.table_offset : header.table_offset + header.present * EVENT_SIZE]


def _kept(header: FrameHeader, front: bytes) -> tuple[list[tuple[int, int]], bool]:
    """(offset, length) of the bodies that a slim frame keeps, in order; and whether there are others."""
    at = header.bodies_offset
    kept = []
    heavy = False
    for _, _, _, length, _, lane, flags in event_rows(_table_of(header, front)):
        if lane == 1 and not flags & TOMBSTONE:
            heavy = True
        else:
            kept.append((at, length))
        at += length
    return kept, heavy


def _runs(places: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Places that are read at once: ascending, with no more than small gaps between them."""
    runs: list[list[tuple[int, int]]] = []
    for place in places:
        if runs:
            end = runs[-1][-1][0] + runs[-1][-1][1]
            if end <= place[0] <= end + _GAP:
                runs[-1].append(place)
                continue
        runs.append([place])
    return runs
