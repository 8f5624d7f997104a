"""Batches that may have to be taken back: a layer of rows in memory over a view.

A replica's view is that of the newest batch that the server has; what is pending lies over it. So a rebase forgets the
layer and the view is what it was, and checkpoints fold nothing that a rebase would have to undo.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from atedb.chain.apply import install
from atedb.chain.event import Term
from atedb.chain.format import TOMBSTONE
from atedb.chain.record import pack_record, unpack_record
from atedb.chain.view import Checkpoint, Overlay, SegmentUse, View, ViewState
from atedb.crypto.sethash import SetHash

MAX_ROWS = 200_000
"""Beyond this many rows, pending batches are folded into the view too; a rebase then has to make the view anew."""


class Mark(NamedTuple):
    """The end of a batch: its sequence and hash, and where in the log the next frame is."""

    sequence: int
    head: bytes
    segment: int
    offset: int


class _Batch(NamedTuple):
    """What one batch changed. devices: all that are certified after it."""

    mark: Mark
    rows: Overlay
    devices: dict[bytes, bytes]


class Layer:
    """Rows over `below`, batch by batch. `state` is that of the newest batch; `below` does not change.

    acked: the newest batch that will not be taken back.
    """

    def __init__(self, below: View | Layer) -> None:
        self.below = below
        self.state: ViewState = below.state.copy()
        self.acked: int = self.state.sequence
        self._rows = Overlay()
        self._batches: deque[_Batch] = deque()
        self._now = Overlay()

    @property
    def reads(self) -> int:
        """Rows asked of LMDB."""
        return self.below.reads

    # -- as a view

    def get(self, key: bytes) -> bytes | None:
        """The record of an object, tombstones included."""
        row = self._rows.records.get(key)
        return self.below.get(key) if row is None else row

    def batch(self, sequence: int) -> bytes | None:
        """The keys of a batch."""
        row = self._rows.batches.get(sequence)
        return self.below.batch(sequence) if row is None else row

    def members(self, group: bytes) -> dict[bytes, bytes]:
        """A sealed set. Raises SealBrokenError."""
        members = self.below.members(group)
        for member, value in (self._rows.sets.get(group) or {}).items():
            if value is None:
                members.pop(member, None)
            else:
                members[member] = value
        return members

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Every object's key and newest record. Nothing may change meanwhile."""
        newer = self._rows.records
        yield from ((key, row) for key, row in self.below.records() if key not in newer)
        yield from newer.items()

    def put(self, key: bytes, record: bytes) -> None:
        """Set an object's record."""
        self._rows.records[key] = self._now.records[key] = record

    def put_batch(self, sequence: int, row: bytes) -> None:
        """Set a batch's keys."""
        self._rows.batches[sequence] = self._now.batches[sequence] = row

    def apply(self, terms: Iterable[Term]) -> None:
        """Change sealed sets."""
        for group, member, value in terms:
            self._rows.sets.setdefault(group, {})[member] = value
            self._now.sets.setdefault(group, {})[member] = value

    def advance(self, sequence: int, head: bytes, segment: int, offset: int, live: SetHash) -> None:
        """End a batch: the rows put since the last one are its."""
        self.state.advance(sequence, head, segment, offset, live)
        self._batches.append(_Batch(Mark(sequence, head, segment, offset), self._now, self.state.devices.copy()))
        self._now = Overlay()

    # -- its batches

    @property
    def rows(self) -> int:
        """How many objects its batches have changed."""
        return len(self._rows.records)

    def mark(self, sequence: int) -> Mark | None:
        """The end of one of its batches, or of the one that it begins after."""
        below = self.below.state
        if sequence == below.sequence:
            return Mark(sequence, below.head, below.segment, below.offset)
        if self._batches and self._batches[0].mark.sequence <= sequence <= self._batches[-1].mark.sequence:
            return self._batches[sequence - self._batches[0].mark.sequence].mark
        return None

    def hand_down(self, last: int) -> None:
        """Give the batches up to `last` to the view below, which must be no layer."""
        below = self.below
        if not isinstance(below, View) or not self._batches or self._batches[0].mark.sequence > last:
            return
        if self._batches[-1].mark.sequence <= last:
            below.absorb(self._rows, self.state.copy())
            self._rows = Overlay()
            self._batches.clear()
            return
        while self._batches[0].mark.sequence <= last:
            _give(self._batches.popleft(), below)

    def rest_on(self, below: View) -> None:
        """Lie over another view, which shows the state that the one below shows."""
        self.below = below

    def move(self, segment: int, to: int, by: int) -> None:
        """What its batches have in `segment` lies in the segment `to` now, `by` bytes further on."""
        for rows in (self._rows, *(batch.rows for batch in self._batches)):
            for key, row in rows.records.items():
                record = unpack_record(row)
                if record.segment == segment:
                    rows.records[key] = pack_record(*record._replace(segment=to, offset=record.offset + by))
        self._batches = deque(
            batch._replace(mark=batch.mark._replace(segment=to, offset=batch.mark.offset + by))
            if batch.mark.segment == segment
            else batch
            for batch in self._batches
        )
        state = self.state
        if state.segment == segment:
            state.segment, state.offset = to, state.offset + by
        moved = state.segments.pop(segment, None)
        if moved is not None:
            use = state.segments.setdefault(to, SegmentUse(0, 0))
            use.live, use.total = use.live + moved.live, use.total + moved.total

    # -- checkpoints

    @property
    def due(self) -> bool:
        """Whether a checkpoint would find anything to fold."""
        return self.acked > self.below.state.sequence or self.rows > MAX_ROWS

    def begin_checkpoint(self) -> Checkpoint:
        """Set aside what will not be taken back; all, when there is too much else."""
        self.hand_down(self.acked)
        if self.rows > MAX_ROWS and self._batches:
            self.hand_down(self.state.sequence)
        return self.below.begin_checkpoint()

    def end_checkpoint(self, *, written: bool) -> None:
        """See `View`."""
        self.below.end_checkpoint(written=written)

    @property
    def read_only(self) -> bool:
        """See `View`."""
        return self.below.read_only

    def relieve(self) -> None:
        """Let go of memory while a long log is replayed. See `View`."""
        if self.due and not self.read_only:
            self.begin_checkpoint().write()
            self.end_checkpoint(written=True)
        self.remap()

    def remap(self) -> None:
        """See `View`."""
        self.below.remap()


def _give(batch: _Batch, below: View) -> None:
    state = below.state
    live = SetHash(b"", int.from_bytes(state.set_total, "little"), state.set_count)
    rows = [(key, unpack_record(row), below.get(key)) for key, row in batch.rows.records.items()]
    for _, record, old_row in rows:
        if old_row is not None and not (old := unpack_record(old_row)).flags & TOMBSTONE:
            live.remove(old.element)
        if not record.flags & TOMBSTONE:
            live.add(record.element)
    install(below, rows)
    rest = Overlay()
    rest.batches, rest.sets = batch.rows.batches, batch.rows.sets
    below.absorb(rest, state)
    state.devices = batch.devices
    mark = batch.mark
    below.advance(mark.sequence, mark.head, mark.segment, mark.offset, live)
