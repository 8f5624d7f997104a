"""Rows of the view: where the newest event of an object lies, and under what keys a batch was sealed."""

from __future__ import annotations

import struct
from typing import NamedTuple

from atedb.chain.format import KeySlot

_RECORD = struct.Struct("<QQIIIIHBB16s")
_SALT = struct.Struct("<32s")
_SLOT = struct.Struct("<16sI32s")

ABSENT = 0x80
"""Flag of a record, beside those of its event: the body is not in the log, but on the server."""


class Record(NamedTuple):
    """The newest event of one object.

    segment, offset, length: its sealed body; where it is absent, segment and offset of the event's row in the event
    table, and the length that the body has. sequence, place, slot: its batch, its index there, its key slot.
    element: what it adds to the set hash of live objects (zeros for a tombstone).
    """

    version: int
    sequence: int
    segment: int
    offset: int
    length: int
    place: int
    slot: int
    lane: int
    flags: int
    element: bytes


RECORD_SIZE = _RECORD.size
pack_record = _RECORD.pack
"""The fields of a Record, in order -> its bytes."""


def unpack_record(row: bytes) -> Record:
    """The Record in a view's row."""
    return Record(*_RECORD.unpack(row))


class BatchKeys(NamedTuple):
    """What is needed to open the bodies of one batch without reading its head."""

    salt: bytes
    slots: tuple[KeySlot, ...]

    def encode(self) -> bytes:
        """The view's row."""
        return self.salt + b"".join(_SLOT.pack(*slot) for slot in self.slots)

    @classmethod
    def decode(cls, row: bytes) -> BatchKeys:
        """The row again."""
        slots = tuple(KeySlot(*fields) for fields in _SLOT.iter_unpack(row[_SALT.size :]))
        return cls(row[: _SALT.size], slots)
