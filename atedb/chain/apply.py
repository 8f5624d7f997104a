"""From verified batches to the view: what committing and replaying have in common, and what replaying adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import zstandard

from atedb.chain.batch import NO_ELEMENT, Batch, bound_prefix
from atedb.chain.event import Buffer, Lane, Seen, TermsOf
from atedb.chain.format import CLAIM_NUMBER, COMPRESSED, EVENT_SIZE, MAX_BODY, TOMBSTONE, BatchHead
from atedb.chain.frame import Frame, verify_frame_signature
from atedb.chain.record import ABSENT, BatchKeys, Record, pack_record, unpack_record
from atedb.chain.view import Rows, SegmentUse
from atedb.crypto.aead import Cipher
from atedb.crypto.keys import KeyRing
from atedb.crypto.sethash import CLAIM_SIZE, SetHash
from atedb.errors import DamagedError

_zstd = zstandard.ZstdDecompressor()


class Bodies(Protocol):
    """Where a frame's bodies are read from, by their offset in the segment: a file, or memory."""

    def read(self, length: int, offset: int) -> Buffer:
        """`length` bytes; fewer when there are no more."""


def plaintext(opened: bytes, flags: int) -> bytes:
    """A body as it was given. Raises DamagedError."""
    if not flags & COMPRESSED:
        return opened
    try:
        return _zstd.decompress(opened, max_output_size=MAX_BODY)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a body cannot be decompressed: {error}") from None


def install(view: Rows, rows: Iterable[tuple[bytes, Record, bytes | None]]) -> None:
    """Put (key, record, the row it replaces) into the view, and keep its accounts."""
    state = view.state
    objects = list(state.objects)
    for key, record, old_row in rows:
        if old_row is not None:
            old = unpack_record(old_row)
            state.segments[old.segment].live -= old.length + EVENT_SIZE
            if not old.flags & TOMBSTONE:
                objects[old.lane] -= 1
        use = state.segments.get(record.segment)
        if use is None:
            use = state.segments[record.segment] = SegmentUse(0, 0)
        size = record.length + EVENT_SIZE
        use.live += size
        use.total += size
        if not record.flags & TOMBSTONE:
            objects[record.lane] += 1
        view.put(key, pack_record(*record))
    state.objects = (objects[0], objects[1])


def rows_of(batch: Batch) -> Iterator[tuple[bytes, Record, bytes | None]]:
    """What `install` takes of a batch that was written."""
    assert batch.sealed is not None
    sequence, segment = batch.sequence, batch.segment
    offset = batch.start + batch.sealed.bodies
    for place, (change, version, event, old) in enumerate(
        zip(batch.changes, batch.versions, batch.sealed.events, batch.replaced, strict=True)
    ):
        length = len(event.body)
        record = Record(version, sequence, segment, offset, length, place, 0, change.lane, event.flags, event.element)
        offset += length
        yield change.key, record, old


class Replay:
    """Applies frames read back from the log, or received. Everything is verified before the view hears of it.

    slim: whether a server has what slim frames lack. seen: told of each event of the meta lane.
    """

    def __init__(
        self, view: Rows, keys: KeyRing, live: SetHash, root_public: bytes, terms: TermsOf, *, slim: bool = False,
        seen: Seen | None = None,
    ) -> None:  # fmt: skip
        self._view = view
        self._slim = slim
        self._seen = seen
        self._keys = keys
        self._live = live
        self._root_public = root_public
        self._terms = terms

    def verify(self, frame: Frame) -> None:
        """Raises BadSignatureError unless a device of the chain signed the frame; DamagedError when bodies are lost."""
        if frame.slim and not self._slim:
            raise DamagedError(f"bodies of batch {frame.head.sequence} are absent, and no server has them")
        verify_frame_signature(frame, self._view.state.devices, self._root_public, self._keys.chain_id)

    def apply(self, frame: Frame, segment: int, file: Bodies) -> None:
        """One frame that `verify` has passed, and that must be the next. Raises DamagedError."""
        head = frame.head
        self._require_next(head)
        ciphers = [
            self._keys.open_batch_cipher(slot.tenant, slot.epoch, head.salt, slot.commitment) for slot in head.keys
        ]
        bounds = [bound_prefix(self._keys.chain_id, slot) for slot in head.keys]
        install(self._view, self._rows(frame, segment, file, ciphers, bounds))
        self._check_claim(frame, ciphers[0], bounds[0])
        self._view.put_batch(head.sequence, BatchKeys(head.salt, head.keys).encode())
        self._view.advance(head.sequence, frame.hash, segment, frame.end, self._live)

    def _require_next(self, head: BatchHead) -> None:
        state = self._view.state
        if head.sequence != state.sequence + 1 or head.previous != state.head:
            raise DamagedError(f"batch {head.sequence} does not follow batch {state.sequence}")

    def _rows(
        self, frame: Frame, segment: int, file: Bodies, ciphers: list[Cipher], bounds: list[bytes]
    ) -> Iterable[tuple[bytes, Record, bytes | None]]:
        for event, offset in frame.bodies():
            old_row = self._view.get(event.key)
            if old_row is not None:
                old = unpack_record(old_row)
                if event.version <= old.version:
                    raise DamagedError(f"object {event.key.hex()} goes back from version {old.version}")
                if not old.flags & TOMBSTONE:
                    self._live.remove(old.element)
            ended = bool(event.flags & TOMBSTONE)
            element = NO_ELEMENT
            if not ended:
                element = self._live.element(event.core, event.hash)
                self._live.add(element)
            flags = event.flags if offset is not None else event.flags | ABSENT
            # A live blob's core is vouched for by the claim, without reading the blob; a tombstone's by its seal only.
            if offset is not None and (ended or event.lane == Lane.META):
                sealed = file.read(event.length, offset)
                opened = ciphers[event.slot].open(event.place, sealed, bounds[event.slot] + event.core)
                if event.lane == Lane.META:
                    plain = plaintext(opened, event.flags)
                    self._view.apply(self._terms(ended, plain))
                    if self._seen is not None:
                        self._seen(ended, plain, event.key)
            record = Record(
                event.version, frame.head.sequence, segment, frame.row(event) if offset is None else offset,
                event.length, event.place, event.slot, event.lane, flags, element,
            )  # fmt: skip
            yield event.key, record, old_row

    def _check_claim(self, frame: Frame, cipher: Cipher, bound: bytes) -> None:
        claim = cipher.open(CLAIM_NUMBER, frame.head.claim, bound + frame.head.sequence.to_bytes(8, "little"))
        if len(claim) != CLAIM_SIZE or not self._live.matches(claim):
            raise DamagedError(f"the live objects are not those that batch {frame.head.sequence} claims")
