"""From verified batches to the view: what committing and replaying have in common, and what replaying adds."""

from __future__ import annotations

from collections.abc import Iterable

import zstandard

from atedb.chain.batch import NO_ELEMENT, bound_prefix
from atedb.chain.disk import File
from atedb.chain.event import Lane, TermsOf
from atedb.chain.format import CLAIM_NUMBER, COMPRESSED, EVENT_SIZE, MAX_BODY, TOMBSTONE
from atedb.chain.frame import Frame, verify_frame_signature
from atedb.chain.record import BatchKeys, Record, pack_record, unpack_record
from atedb.chain.view import SegmentUse, View
from atedb.crypto.aead import Cipher
from atedb.crypto.keys import KeyRing
from atedb.crypto.sethash import SetHash
from atedb.errors import DamagedError

_zstd = zstandard.ZstdDecompressor()


def plaintext(opened: bytes, flags: int) -> bytes:
    """A body as it was given. Raises DamagedError."""
    if not flags & COMPRESSED:
        return opened
    try:
        return _zstd.decompress(opened, max_output_size=MAX_BODY)
    except zstandard.ZstdError as error:
        raise DamagedError(f"a body cannot be decompressed: {error}") from None


def install(view: View, rows: Iterable[tuple[bytes, Record, bytes | None]]) -> None:
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


class Replay:
    """Applies frames read back from the log. Everything is verified before the view hears of it."""

    def __init__(self, view: View, keys: KeyRing, live: SetHash, root_public: bytes, terms: TermsOf) -> None:
        self._view = view
        self._keys = keys
        self._live = live
        self._root_public = root_public
        self._terms = terms

    def verify(self, frame: Frame) -> None:
        """Raises BadSignatureError unless a device of the chain signed the frame."""
        verify_frame_signature(frame, self._view.state.devices, self._root_public, self._keys.chain_id)

    def apply(self, frame: Frame, segment: int, file: File) -> None:
        """One frame that `verify` has passed, and that must be the next. Raises DamagedError."""
        state, head = self._view.state, frame.head
        if head.sequence != state.sequence + 1 or head.previous != state.head:
            raise DamagedError(f"batch {head.sequence} does not follow batch {state.sequence}")
        ciphers = [
            self._keys.open_batch_cipher(slot.tenant, slot.epoch, head.salt, slot.commitment) for slot in head.keys
        ]
        bounds = [bound_prefix(self._keys.chain_id, slot) for slot in head.keys]
        install(self._view, self._rows(frame, segment, file, ciphers, bounds))
        self._check_claim(frame, ciphers[0], bounds[0])
        self._view.put_batch(head.sequence, BatchKeys(head.salt, head.keys).encode())
        state.sequence, state.head = head.sequence, frame.hash
        state.segment, state.offset = segment, frame.end
        state.set_total, state.set_count = self._live.total.to_bytes(16, "little"), self._live.count

    def _rows(
        self, frame: Frame, segment: int, file: File, ciphers: list[Cipher], bounds: list[bytes]
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
            # A live blob's core is vouched for by the claim, without reading the blob; a tombstone's by its seal only.
            if ended or event.lane == Lane.META:
                sealed = file.read(event.length, offset)
                opened = ciphers[event.slot].open(event.place, sealed, bounds[event.slot] + event.core)
                if event.lane == Lane.META:
                    self._view.apply(self._terms(ended, plaintext(opened, event.flags)))
            record = Record(
                event.version, frame.head.sequence, segment, offset, event.length, event.place, event.slot,
                event.lane, event.flags, element,
            )  # fmt: skip
            yield event.key, record, old_row

    def _check_claim(self, frame: Frame, cipher: Cipher, bound: bytes) -> None:
        claim = cipher.open(CLAIM_NUMBER, frame.head.claim, bound + frame.head.sequence.to_bytes(8, "little"))
        if not self._live.matches(claim):
            raise DamagedError(f"the live objects are not those that batch {frame.head.sequence} claims")
