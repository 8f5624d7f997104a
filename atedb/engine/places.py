"""Where each batch of a log lies: a file of equal records beside the segments, so that any batch is found in one read.

It is derived from the log and never synced: each record has a check of its own, whoever uses one compares it with the
frame that it leads to, and a record that is missing or wrong is made anew by walking the segment.

A record also says which batch was durable when it was written, and one without a place is put behind the newest batch
after each barrier. Such a word may be lost, but it cannot be wrong: where one survives that says that batch n was
durable, a bad batch n is damage and no torn tail.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atedb.chain.disk import Disk, File
from atedb.crypto.hashing import digest

NAME = "places"
_RECORD = struct.Struct("<IIQ8s")
_PIECE = 4096 * _RECORD.size


class Place(NamedTuple):
    """Where a frame begins. segment: 0 for none. durable: the newest sequence on stable storage at the time."""

    segment: int
    offset: int
    durable: int


class Places:
    """The records of one chain. One thread writes at a time, any may read."""

    def __init__(self, disk: Disk, store: Path, chain_id: bytes) -> None:
        self._chain_id = chain_id
        there = NAME in disk.names(store)
        self._file: File = disk.open(store / NAME, writable=True) if there else disk.create(store / NAME)

    def put(self, first: int, places: Sequence[Place]) -> None:
        """Set the places of the batches from sequence `first` on."""
        rows = [_RECORD.pack(*place, self._check(number, place)) for number, place in enumerate(places, first)]
        self._file.write([b"".join(rows)], (first - 1) * _RECORD.size)

    def vouch(self, sequence: int) -> None:
        """Note that the batch is on stable storage; it must be the newest."""
        self.put(sequence + 1, [Place(0, 0, sequence)])

    def get(self, sequence: int, *, nowait: bool) -> Place | None:
        """The place of a batch, if it is known. Raises NotResident if `nowait`."""
        read = self._file.read_resident if nowait else self._file.read
        place = self._decode(sequence, bytes(read(_RECORD.size, (sequence - 1) * _RECORD.size)))
        return place if place is not None and place.segment else None

    def durable_after(self, sequence: int) -> int:
        """The newest sequence that the records of batches after `sequence` say was durable; 0 when they say nothing."""
        found = 0
        at, end = sequence * _RECORD.size, self._file.size()
        while at < end:
            piece = bytes(self._file.read(min(_PIECE, end - at), at))
            for start in range(0, len(piece), _RECORD.size):
                place = self._decode((at + start) // _RECORD.size + 1, piece[start : start + _RECORD.size])
                found = max(found, place.durable if place is not None else 0)
            at += _PIECE
        return found

    def cut(self, sequence: int) -> None:
        """Forget the batches after `sequence`."""
        if self._file.size() > sequence * _RECORD.size:
            self._file.truncate(sequence * _RECORD.size)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _decode(self, sequence: int, row: bytes) -> Place | None:
        if len(row) != _RECORD.size:
            return None
        segment, offset, durable, check = _RECORD.unpack(row)
        place = Place(segment, offset, durable)
        return place if check == self._check(sequence, place) else None

    def _check(self, sequence: int, place: Place) -> bytes:
        return digest(b"atedb v1 place" + self._chain_id + struct.pack("<QIIQ", sequence, *place))[:8]
