"""The bytes of a segment: its header, and the frames of batches in it. Format version 1.

Integers are little-endian. `docs/formats.md` specifies every field; this module is its only implementation.
Decoding is bounded: every length is checked against the limits below before anything is read or allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, cast

from atedb.crypto.hashing import HASH_SIZE, digest, digest_pair
from atedb.crypto.signing import SIGNATURE_SIZE
from atedb.errors import DamagedError, LimitError, UnsupportedError

FORMAT_VERSION = 1

MAX_FRAME = 256 << 20
MAX_BODY = 16 << 20
MAX_EVENTS = 1 << 20
MAX_HEAD = 1 << 20
ALIGNMENT = 8

SEGMENT_MAGIC = b"ATESEGM\n"
FRAME_MAGIC = b"ATEb"

TOMBSTONE = 1
"""Event flag: the object ends here; the body is its epitaph."""
COMPRESSED = 2
"""Event flag: the plaintext is one zstd frame."""
KNOWN_FLAGS = TOMBSTONE | COMPRESSED

SLIM = 1
"""Frame flag: the bodies of live blobs are absent; all else is there, and the batch's hash is the same."""

CERTIFICATE = 1
"""Statement kind: a device certificate."""

CLAIM_NUMBER = 0xFFFFFFFF
"""The nonce counter of a batch's claim; events count from 0."""

_SEGMENT = struct.Struct("<8sH2xI32sQ32s")
SEGMENT_HEADER_SIZE = 128
_FRAME = struct.Struct("<4sIIIIHH")
FRAME_HEADER_SIZE = 32
_CHECKSUM_SIZE = FRAME_HEADER_SIZE - _FRAME.size
_HEAD = struct.Struct("<QQq32s32s32s32sIHHI")
_KEY_SLOT = struct.Struct("<16sI32s")
_STATEMENT = struct.Struct("<HH")
_CORE = struct.Struct("<16sQIIHBB")
_ROW = struct.Struct("<16sQIIHBB32x")
CORE_SIZE = _CORE.size
EVENT_SIZE = CORE_SIZE + HASH_SIZE


class SegmentHeader(NamedTuple):
    """The first 128 bytes of a segment. previous: the hash of the batch before `first`, zeros for the first."""

    number: int
    chain_id: bytes
    first: int
    previous: bytes

    def encode(self) -> bytes:
        """128 bytes, ending in their own hash."""
        head = _SEGMENT.pack(SEGMENT_MAGIC, FORMAT_VERSION, self.number, self.chain_id, self.first, self.previous)
        head = head.ljust(SEGMENT_HEADER_SIZE - HASH_SIZE, b"\0")
        return head + digest(head)

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader:
        """Raises DamagedError, or UnsupportedError for a newer format."""
        if len(data) < SEGMENT_HEADER_SIZE:
            raise DamagedError("the segment is shorter than its header")
        end = SEGMENT_HEADER_SIZE - HASH_SIZE
        head, mark = data[:end], data[end:SEGMENT_HEADER_SIZE]
        magic, version, number, chain_id, first, previous = _SEGMENT.unpack_from(head)
        if magic != SEGMENT_MAGIC or digest(head) != mark:
            raise DamagedError("the segment's header is not what was written")
        require_format(version)
        return cls(number, chain_id, first, previous)


def require_format(version: int) -> None:
    """Raises UnsupportedError unless this program reads format `version`."""
    if version != FORMAT_VERSION:
        raise UnsupportedError(
            f"the store has format {version}, this program reads format {FORMAT_VERSION}; "
            "nothing was changed; use a newer version of atefs"
        )


class FrameHeader(NamedTuple):
    """Where the parts of a frame are. length: of the whole frame with padding; proof: bytes of Merkle proof."""

    length: int
    head: int
    present: int
    proof: int
    signature: int
    flags: int

    def encode(self) -> bytes:
        """32 bytes, ending in a checksum of their own, so that a reader can find frames after damage."""
        fixed = _FRAME.pack(FRAME_MAGIC, self.length, self.head, self.present, self.proof, self.signature, self.flags)
        return fixed + digest(fixed)[:_CHECKSUM_SIZE]

    @classmethod
    def decode(cls, data: bytes) -> FrameHeader:
        """Raises DamagedError unless `data` starts with a plausible frame header."""
        if len(data) < FRAME_HEADER_SIZE:
            raise DamagedError("a frame header is cut short")
        fixed = data[: _FRAME.size]
        if fixed[:4] != FRAME_MAGIC or digest(fixed)[:_CHECKSUM_SIZE] != data[_FRAME.size : FRAME_HEADER_SIZE]:
            raise DamagedError("there is no frame header here")
        header = cls(*_FRAME.unpack(fixed)[1:])
        if header.length > MAX_FRAME or header.length % ALIGNMENT or header.bodies_offset > header.length:
            raise DamagedError("a frame header gives impossible lengths")
        if header.head > MAX_HEAD or header.present > MAX_EVENTS or header.signature != SIGNATURE_SIZE:
            raise DamagedError("a frame header exceeds the format's limits")
        return header

    @property
    def table_offset(self) -> int:
        """Where the event table begins, from the frame's start."""
        return FRAME_HEADER_SIZE + self.head + self.signature

    @property
    def bodies_offset(self) -> int:
        """Where the sealed bodies begin, from the frame's start."""
        return self.table_offset + self.present * EVENT_SIZE + self.proof


class KeySlot(NamedTuple):
    """Under which tenant's key, of which epoch, events of a batch are sealed; and the commitment to that key."""

    tenant: bytes
    epoch: int
    commitment: bytes


class BatchHead(NamedTuple):
    """What a batch's hash and signature cover. `root` is the Merkle root of the hashes of all its events.

    sequence: 1, 2, 3 …; durable: the newest sequence known to be on stable storage when this was written; time: ns
    since the epoch; claim: the sealed statement of the live set after this batch.
    """

    sequence: int
    durable: int
    time: int
    previous: bytes
    device: bytes
    salt: bytes
    root: bytes
    events: int
    keys: tuple[KeySlot, ...]
    statements: tuple[tuple[int, bytes], ...]
    claim: bytes

    def encode(self) -> bytes:
        """The bytes that are hashed and signed."""
        parts = [
            _HEAD.pack(
                self.sequence, self.durable, self.time, self.previous, self.device, self.salt, self.root,
                self.events, len(self.keys), len(self.statements), len(self.claim),
            )
        ]  # fmt: skip
        parts += [_KEY_SLOT.pack(*slot) for slot in self.keys]
        parts += [_STATEMENT.pack(kind, len(data)) + data for kind, data in self.statements]
        parts.append(self.claim)
        return b"".join(parts)

    @staticmethod
    def measure(data: bytes) -> int:
        """How many bytes the head at the start of `data` takes. Raises DamagedError."""
        try:
            *_, keys, statements, claim = _HEAD.unpack_from(data)
            offset = int(_HEAD.size + keys * _KEY_SLOT.size)
            for _ in range(statements):
                offset += _STATEMENT.size + _STATEMENT.unpack_from(data, offset)[1]
        except struct.error:
            raise DamagedError("a batch head is cut short") from None
        return offset + int(claim)

    @classmethod
    def decode(cls, data: bytes) -> BatchHead:
        """Raises DamagedError."""
        try:
            fixed = _HEAD.unpack_from(data)
            sequence, durable, time, previous, device, salt, root, events, keys, statements, claim = fixed
            offset = _HEAD.size
            slots = []
            for _ in range(keys):
                slots.append(KeySlot(*_KEY_SLOT.unpack_from(data, offset)))
                offset += _KEY_SLOT.size
            stated = []
            for _ in range(statements):
                kind, length = _STATEMENT.unpack_from(data, offset)
                offset += _STATEMENT.size + length
                stated.append((kind, data[offset - length : offset]))
        except struct.error:
            raise DamagedError("a batch head is cut short") from None
        if offset + claim != len(data) or events > MAX_EVENTS:
            raise DamagedError("a batch head gives impossible lengths")
        return cls(
            sequence, durable, time, previous, device, salt, root, events, tuple(slots), tuple(stated), data[offset:]
        )


def batch_hash(head: bytes) -> bytes:
    """The hash that the next batch names and the device signs."""
    return digest(b"atedb v1 batch" + head)


class Event(NamedTuple):
    """One row of a frame's event table. place: its index in the batch as written; length: of its sealed body."""

    key: bytes
    version: int
    place: int
    length: int
    slot: int
    lane: int
    flags: int
    hash: bytes

    @classmethod
    def decode(cls, row: bytes) -> Event:
        """Raises DamagedError."""
        key, version, place, length, slot, lane, flags = _CORE.unpack_from(row)
        event = cls(key, version, place, length, slot, lane, flags, row[CORE_SIZE:EVENT_SIZE])
        if event.length > MAX_BODY or event.lane > 1 or event.flags & ~KNOWN_FLAGS:
            raise DamagedError("an event exceeds the format's limits")
        return event

    @property
    def heavy(self) -> bool:
        """Whether a slim frame leaves the body out: a live blob. Epitaphs are proof that an object was ended."""
        return self.lane == 1 and not self.flags & TOMBSTONE

    @property
    def core(self) -> bytes:
        """The 36 bytes that the seal and the event's hash cover."""
        return encode_core(self.key, self.version, self.place, self.length, self.slot, self.lane, self.flags)


encode_core = _CORE.pack
"""(key, version, place, length, slot, lane, flags) -> the 36 bytes bound into seal and hash."""


def event_hash(core: bytes, body: bytes | bytearray | memoryview) -> bytes:
    """The leaf of one event: its core and sealed body, under the prefix 0x00."""
    return digest_pair(b"\x00" + core, body)


def padded(length: int) -> int:
    """`length` rounded up to the alignment of frames. Raises LimitError over the largest frame."""
    length = -(-length // ALIGNMENT) * ALIGNMENT
    if length > MAX_FRAME:
        raise LimitError(f"a batch of {length} bytes is larger than the format allows ({MAX_FRAME})")
    return length


def event_rows(table: bytes) -> Iterator[tuple[bytes, int, int, int, int, int, int]]:
    """(key, version, place, length, slot, lane, flags) of each row of an event table that is known to be good.

    For whoever has verified the table before, and only looks for where things are.
    """
    return cast("Iterator[tuple[bytes, int, int, int, int, int, int]]", _ROW.iter_unpack(table))
