"""One side of a rebase: a state of the chain to read, and the stretch of log that leads to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from atedb.chain.absent import AbsentBodies
from atedb.chain.ciphers import BatchCiphers, open_body
from atedb.chain.event import Lane
from atedb.chain.format import TOMBSTONE
from atedb.chain.frame import Frame, read_frame
from atedb.chain.layer import Layer, Mark
from atedb.chain.log import Log
from atedb.chain.record import ABSENT, unpack_record
from atedb.chain.view import View
from atedb.chain.walk import BatchOpener
from atedb.crypto.aead import SealBrokenError
from atedb.crypto.keys import KeyRing
from atedb.errors import DamagedError


class Changed(NamedTuple):
    """One event of a side. plaintext: the body, or for a tombstone the epitaph; None for events of the blob lane."""

    key: bytes
    lane: int
    tombstone: bool
    plaintext: bytes | None


class Reader:
    """One state of the chain, to read only: `view`, the records of which point into `log`."""

    def __init__(self, view: View | Layer, log: Log, keys: KeyRing, absent: AbsentBodies) -> None:
        self.view = view
        self._log = log
        self._absent = absent
        self._ciphers = BatchCiphers(keys, view.batch)

    def load(self, key: bytes) -> bytes | None:
        """The body of an object in this state; None when there is none, or it has ended.

        An absent blob is fetched, which may block. Raises DamagedError, UnreachableError.
        """
        row = self.view.get(key)
        if row is None or (record := unpack_record(row)).flags & TOMBSTONE:
            return None
        opener = self._ciphers[record.sequence, record.slot]
        if record.flags & ABSENT:
            return self._absent.load(key, record, opener, nowait=False)
        sealed = self._log.read(record.segment, record.offset, record.length)
        try:
            return open_body(key, record, opener, sealed)
        except SealBrokenError:
            raise DamagedError(f"object {key.hex()} in segment {record.segment} is not what was written") from None

    def exists(self, key: bytes) -> bool:
        """Whether the object is there and has not ended."""
        row = self.view.get(key)
        return row is not None and not unpack_record(row).flags & TOMBSTONE

    def members(self, group: bytes) -> dict[bytes, bytes]:
        """A sealed set in this state: member -> value."""
        return self.view.members(group)


def frames_after(log: Log, mark: Mark, last: int) -> Iterator[tuple[int, Frame]]:
    """The frames after `mark` up to sequence `last`, each with its segment; no bodies are read. Raises DamagedError."""
    segment, offset = mark.segment, mark.offset
    for sequence in range(mark.sequence + 1, last + 1):
        segment, offset = log.following(segment, offset)
        frame = read_frame(partial(log.read, segment), offset, bodies=False)
        if frame.head.sequence != sequence:
            raise DamagedError(f"segment {segment} has batch {frame.head.sequence} at offset {offset}, not {sequence}")
        yield segment, frame
        offset = frame.end


class Stretch:
    """The batches of `log` after `start` up to `last`."""

    def __init__(self, log: Log, keys: KeyRing, start: Mark, last: int) -> None:
        self._log = log
        self._keys = keys
        self._start = start
        self._last = last

    def keys(self) -> frozenset[bytes]:
        """Of the objects that they change."""
        return frozenset(event.key for _, frame in self._frames() for event in frame.events)

    def changes(self) -> Iterator[Changed]:
        """Their events, in order. Raises DamagedError."""
        for segment, frame in self._frames():
            opener = BatchOpener(self._keys, frame.head)
            for event, at in frame.bodies():
                body = None
                if event.lane == Lane.META and at is not None:
                    body = opener.open(event, bytes(self._log.read(segment, at, event.length)))
                yield Changed(event.key, event.lane, bool(event.flags & TOMBSTONE), body)

    def _frames(self) -> Iterator[tuple[int, Frame]]:
        return frames_after(self._log, self._start, self._last)
