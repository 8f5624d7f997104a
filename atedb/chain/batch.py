"""Making a batch: changes become sealed events, hashed, claimed and signed, in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import zstandard

from atedb.chain.event import Buffer, Change
from atedb.chain.format import (
    CLAIM_NUMBER,
    COMPRESSED,
    FRAME_HEADER_SIZE,
    MAX_BODY,
    MAX_EVENTS,
    TOMBSTONE,
    BatchHead,
    FrameHeader,
    KeySlot,
    batch_hash,
    encode_core,
    event_hash,
    event_root,
    padded,
)
from atedb.crypto.aead import TAG_SIZE, random_bytes
from atedb.crypto.keys import SALT_SIZE, KeyRing
from atedb.crypto.sethash import ELEMENT_SIZE, SetHash
from atedb.crypto.signing import SigningKey
from atedb.errors import LimitError

NO_ELEMENT = bytes(ELEMENT_SIZE)
_JOIN_BELOW = 1 << 20


class BatchPlace(NamedTuple):
    """Where a batch stands in its chain. time: ns since the epoch; statements: (kind, bytes) that travel unsealed."""

    sequence: int
    durable: int
    time: int
    previous: bytes
    statements: tuple[tuple[int, bytes], ...]


class SealedEvent(NamedTuple):
    """What the view must know of an event: its body begins `offset` bytes into the frame."""

    offset: int
    length: int
    flags: int
    element: bytes


class SealedBatch(NamedTuple):
    """A frame ready to be written. live: the hash of the live set after it."""

    frame: list[Buffer]
    length: int
    hash: bytes
    salt: bytes
    slots: tuple[KeySlot, ...]
    events: list[SealedEvent]
    live: SetHash


class Sealer:
    """Seals batches for one device. Used by one thread at a time."""

    def __init__(self, keys: KeyRing, device: SigningKey) -> None:
        self._keys = keys
        self._device = device
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=False)

    def seal(self, place: BatchPlace, changes: Sequence[Change], versions: Sequence[int], live: SetHash) -> SealedBatch:
        """One batch.

        versions: of each change, in order. live: the set hash without the events that this batch replaces; it is
        completed here. Raises LimitError.
        """
        if len(changes) > MAX_EVENTS:
            raise LimitError(f"a batch of {len(changes)} events is larger than the format allows ({MAX_EVENTS})")
        keys = self._keys
        salt = random_bytes(SALT_SIZE)
        cipher, commitment = keys.batch_cipher(keys.tenant, keys.epoch, salt)
        slot = KeySlot(keys.tenant, keys.epoch, commitment)
        bound = bound_prefix(keys.chain_id, slot)
        events: list[SealedEvent] = []
        bodies: list[Buffer] = []
        hashes: list[bytes] = []
        table: list[bytes] = []
        offset = 0
        for index, (change, version) in enumerate(zip(changes, versions, strict=True)):
            body, flags = self._packed(change)
            length = len(body) + TAG_SIZE
            core = encode_core(change.key, version, index, length, 0, change.lane, flags)
            sealed = cipher.seal(index, body, bound + core)
            mark = event_hash(core, sealed)
            element = NO_ELEMENT
            if not flags & TOMBSTONE:
                element = live.element(core, mark)
                live.add(element)
            events.append(SealedEvent(offset, length, flags, element))
            bodies.append(sealed)
            hashes.append(mark)
            table.append(core + mark)
            offset += length
        claim = cipher.seal(CLAIM_NUMBER, live.claim(), bound + place.sequence.to_bytes(8, "little"))
        head = BatchHead(
            place.sequence, place.durable, place.time, place.previous, self._device.public, salt,
            event_root(hashes), len(events), (slot,), place.statements, claim,
        ).encode()  # fmt: skip
        mark = batch_hash(head)
        signature = self._device.sign(mark)
        front = b"".join((head, signature, *table))
        length = padded(FRAME_HEADER_SIZE + len(front) + offset)
        header = FrameHeader(length, len(head), len(events), 0, len(signature), 0).encode()
        start = FRAME_HEADER_SIZE + len(front)
        frame = [header, front, *bodies, bytes(length - start - offset)]
        if length < _JOIN_BELOW:
            frame = [b"".join(frame)]
        placed = [SealedEvent(start + e.offset, e.length, e.flags, e.element) for e in events]
        return SealedBatch(frame, length, mark, salt, (slot,), placed, live)

    def _packed(self, change: Change) -> tuple[Buffer, int]:
        """The plaintext to seal, compressed where that saves at least a sixteenth, and the event's flags."""
        given = change.body
        body = given if isinstance(given, bytes | bytearray | memoryview) else b"".join(given)
        if len(body) > MAX_BODY - TAG_SIZE:
            raise LimitError(f"an object of {len(body)} bytes is larger than the format allows ({MAX_BODY})")
        flags = TOMBSTONE if change.tombstone else 0
        if change.compress:
            packed = self._zstd.compress(body)
            if len(packed) + (len(body) >> 4) <= len(body):
                return packed, flags | COMPRESSED
        return body, flags


def bound_prefix(chain_id: bytes, slot: KeySlot) -> bytes:
    """What every seal of a batch is bound to, before the event's own core."""
    return chain_id + slot.tenant + slot.epoch.to_bytes(4, "little")


class Batch:
    """A commit on its way: what `Chain.prepare` found, and what `Chain.write` made of it."""

    __slots__ = ("changes", "place", "replaced", "sealed", "segment", "start", "versions")

    def __init__(
        self, changes: Sequence[Change], versions: list[int], replaced: list[bytes | None], place: BatchPlace
    ) -> None:
        self.changes = changes
        self.versions = versions
        self.replaced = replaced
        self.place = place
        self.sealed: SealedBatch | None = None
        self.segment = 0
        self.start = 0

    @property
    def sequence(self) -> int:
        """The batch's place in the chain."""
        return self.place.sequence
