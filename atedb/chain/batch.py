"""Making a batch: changes become sealed events, hashed, claimed and signed, in one frame."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    padded,
)
from atedb.crypto.aead import TAG_SIZE, Cipher, random_bytes
from atedb.crypto.hashing import merkle_root
from atedb.crypto.keys import SALT_SIZE, KeyRing
from atedb.crypto.sethash import ELEMENT_SIZE, SetHash
from atedb.crypto.signing import SigningKey
from atedb.errors import LimitError

NO_ELEMENT = bytes(ELEMENT_SIZE)
_JOIN_BELOW = 1 << 20
_SHARE_FROM = 16


class BatchPlace(NamedTuple):
    """Where a batch stands in its chain. time: ns since the epoch; statements: (kind, bytes) that travel unsealed."""

    sequence: int
    durable: int
    time: int
    previous: bytes
    statements: tuple[tuple[int, bytes], ...]


class SealedEvent(NamedTuple):
    """One event of a sealed batch: its row in the event table, its sealed body, and what the view must know of it."""

    core: bytes
    hash: bytes
    body: bytes
    flags: int
    element: bytes


class SealedBatch(NamedTuple):
    """A frame ready to be written. bodies: where in it the first sealed body begins. live: the set hash after it."""

    frame: list[Buffer]
    length: int
    bodies: int
    hash: bytes
    salt: bytes
    slots: tuple[KeySlot, ...]
    events: list[SealedEvent]
    live: SetHash


class _Worker:
    """What one thread needs to seal events of one device: the compressor is not to be shared."""

    def __init__(self, live_key: SetHash) -> None:
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=False)
        self._element = live_key.element

    def seal(
        self, cipher: Cipher, bound: bytes, first: int, changes: Sequence[Change], versions: Sequence[int]
    ) -> list[SealedEvent]:
        """The events of `changes`, the first of which has the index `first` in its batch."""
        events = []
        for place, (change, version) in enumerate(zip(changes, versions, strict=True), first):
            body, flags = self._packed(change)
            core = encode_core(change.key, version, place, len(body) + TAG_SIZE, 0, change.lane, flags)
            sealed = cipher.seal(place, body, bound + core)
            mark = event_hash(core, sealed)
            element = NO_ELEMENT if flags & TOMBSTONE else self._element(core, mark)
            events.append(SealedEvent(core, mark, sealed, flags, element))
        return events

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


class _BatchKey(NamedTuple):
    """What one batch is sealed with: never two."""

    salt: bytes
    cipher: Cipher
    slot: KeySlot


class Sealer:
    """Seals batches for one device. Used by one thread at a time; large batches are shared with a second one."""

    def __init__(self, keys: KeyRing, device: SigningKey, live: SetHash) -> None:
        self._keys = keys
        self._device = device
        self._workers = _Worker(live), _Worker(live)
        self._helper: ThreadPoolExecutor | None = None
        self._next: _BatchKey | None = None

    def sign(self, statement: bytes) -> bytes:
        """See `Chain.sign`."""
        return self._device.sign(statement)

    def make_ready(self) -> None:
        """Make the key of the next batch, where there is time for it."""
        if self._next is None:
            self._next = self._new_key()

    def _new_key(self) -> _BatchKey:
        keys, salt = self._keys, random_bytes(SALT_SIZE)
        cipher, commitment = keys.batch_cipher(keys.tenant, keys.epoch, salt)
        return _BatchKey(salt, cipher, KeySlot(keys.tenant, keys.epoch, commitment))

    def seal(self, place: BatchPlace, changes: Sequence[Change], versions: Sequence[int], live: SetHash) -> SealedBatch:
        """One batch.

        versions: of each change, in order. live: the set hash without the events that this batch replaces; it is
        completed here. Raises LimitError.
        """
        if len(changes) > MAX_EVENTS:
            raise LimitError(f"a batch of {len(changes)} events is larger than the format allows ({MAX_EVENTS})")
        salt, cipher, slot = self._next or self._new_key()
        self._next = None
        bound = bound_prefix(self._keys.chain_id, slot)
        if len(changes) >= _SHARE_FROM and sum(change.lane for change in changes) >= _SHARE_FROM:
            events = self._seal_shared(cipher, salt, bound, changes, versions)
        else:
            events = self._workers[0].seal(cipher, bound, 0, changes, versions)
        for event in events:
            if not event.flags & TOMBSTONE:
                live.add(event.element)
        claim = cipher.seal(CLAIM_NUMBER, live.claim(), bound + place.sequence.to_bytes(8, "little"))
        head = BatchHead(
            place.sequence, place.durable, place.time, place.previous, self._device.public, salt,
            merkle_root([event.hash for event in events]), len(events), (slot,), place.statements, claim,
        ).encode()  # fmt: skip
        mark = batch_hash(head)
        signature = self._device.sign(mark)
        front = b"".join((head, signature, *[event.core + event.hash for event in events]))
        start = FRAME_HEADER_SIZE + len(front)
        end = start + sum([len(event.body) for event in events])
        length = padded(end)
        header = FrameHeader(length, len(head), len(events), 0, len(signature), 0).encode()
        frame: list[Buffer] = [header, front, *[event.body for event in events], bytes(length - end)]
        if length < _JOIN_BELOW:
            frame = [b"".join(frame)]
        return SealedBatch(frame, length, start, mark, salt, (slot,), events, live)

    def _seal_shared(
        self, cipher: Cipher, salt: bytes, bound: bytes, changes: Sequence[Change], versions: Sequence[int]
    ) -> list[SealedEvent]:
        """Two threads, half of the blobs each: compressing, sealing and hashing release the interpreter's lock."""
        if self._helper is None:
            self._helper = ThreadPoolExecutor(1, "seal")
        half = _half_of_blobs(changes)
        keys = self._keys
        second, _ = keys.batch_cipher(keys.tenant, keys.epoch, salt)
        rest = self._helper.submit(self._workers[1].seal, second, bound, half, changes[half:], versions[half:])
        events = self._workers[0].seal(cipher, bound, 0, changes[:half], versions[:half])
        return events + rest.result()


def _half_of_blobs(changes: Sequence[Change]) -> int:
    """Where to cut, so that as many blobs come before as after."""
    left = sum(change.lane for change in changes) // 2
    for place, change in enumerate(changes):
        left -= change.lane
        if left <= 0:
            return place + 1
    return len(changes)


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
