"""Reading frames back: what is on disk is believed only after it has verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from atedb.chain.format import (
    ALIGNMENT,
    CERTIFICATE,
    EVENT_SIZE,
    FRAME_HEADER_SIZE,
    FRAME_MAGIC,
    MAX_FRAME,
    MAX_HEAD,
    SLIM,
    BatchHead,
    Event,
    FrameHeader,
    batch_hash,
    event_hash,
)
from atedb.crypto.hashing import merkle_root
from atedb.crypto.signing import SIGNATURE_SIZE, BadSignatureError, Certificate, verify_signature
from atedb.errors import DamagedError

Read = Callable[[int, int], bytes | bytearray]
"""(offset, length) -> the bytes of one segment; shorter at its end."""

_SMALL = 1 << 20
_SCAN = 1 << 20


class Frame(NamedTuple):
    """A frame whose head, event table and (if asked for) bodies agree with its hash. Who signed it is checked later."""

    offset: int
    header: FrameHeader
    head: BatchHead
    hash: bytes
    signature: bytes
    events: tuple[Event, ...]

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offset + self.header.length

    @property
    def slim(self) -> bool:
        """Whether the bodies of live blobs are absent."""
        return bool(self.header.flags & SLIM)

    def row(self, event: Event) -> int:
        """The offset of an event's row of the event table in the segment."""
        return self.offset + self.header.table_offset + event.place * EVENT_SIZE

    def bodies(self) -> Iterator[tuple[Event, int | None]]:
        """Each event with the offset of its sealed body in the segment; None for a body that is absent."""
        at = self.offset + self.header.bodies_offset
        slim = self.slim
        for event in self.events:
            if slim and event.heavy:
                yield event, None
            else:
                yield event, at
                at += event.length


def read_frame(read: Read, offset: int, *, bodies: bool, header: FrameHeader | None = None) -> Frame:
    """The frame at `offset`. bodies: also compare every sealed body with its hash. header: instead of the one there.

    Raises DamagedError. Memory is bounded by the format's limits on a head and on one body.
    """
    header = header or FrameHeader.decode(bytes(read(offset, FRAME_HEADER_SIZE)))
    front = bytes(read(offset, header.length if bodies and header.length <= _SMALL else header.bodies_offset))
    if len(front) < header.bodies_offset:
        raise DamagedError("a frame is cut short")
    head_bytes = front[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + header.head]
    head = BatchHead.decode(head_bytes)
    table = front[header.table_offset : header.table_offset + header.present * EVENT_SIZE]
    events = tuple(Event.decode(table[i : i + EVENT_SIZE]) for i in range(0, len(table), EVENT_SIZE))
    signature = front[FRAME_HEADER_SIZE + header.head : header.table_offset]
    frame = Frame(offset, header, head, batch_hash(head_bytes), signature, events)
    _verify_table(frame)
    if bodies:
        _verify_bodies(frame, front, read)
    return frame


def decode_frame(data: bytes) -> Frame:
    """The one frame that `data` is, its bodies compared with their hashes. Raises DamagedError."""
    frame = read_frame(lambda offset, length: data[offset : offset + length], 0, bodies=True)
    if frame.end != len(data):
        raise DamagedError("there is something after the end of a frame")
    return frame


def infer_header(read: Read, offset: int) -> FrameHeader:
    """The frame header that must have been at `offset`, by the batch head and event table that follow it.

    Nothing of it is proven: `read_frame` with it does that. Raises DamagedError.
    """
    after = offset + FRAME_HEADER_SIZE
    size = BatchHead.measure(bytes(read(after, MAX_HEAD)))
    head = BatchHead.decode(bytes(read(after, size)))
    table = bytes(read(after + size + SIGNATURE_SIZE, head.events * EVENT_SIZE))
    if len(table) != head.events * EVENT_SIZE:
        raise DamagedError("an event table is cut short")
    bodies = sum(Event.decode(table[i : i + EVENT_SIZE]).length for i in range(0, len(table), EVENT_SIZE))
    length = FRAME_HEADER_SIZE + size + SIGNATURE_SIZE + len(table) + bodies
    length += -length % ALIGNMENT
    if length > MAX_FRAME:
        raise DamagedError("a frame exceeds the format's limits")
    return FrameHeader(length, size, head.events, 0, SIGNATURE_SIZE, 0)


def _verify_table(frame: Frame) -> None:
    if len(frame.events) != frame.head.events or frame.header.proof or frame.header.flags & ~SLIM:
        raise DamagedError("a frame lacks events that its batch has")
    if not frame.head.keys:
        raise DamagedError("a batch does not say under which key its claim is sealed")
    total = frame.header.bodies_offset + sum(event.length for event, at in frame.bodies() if at is not None)
    if not 0 <= frame.header.length - total < ALIGNMENT:
        raise DamagedError("a frame's events do not fill it")
    if merkle_root([event.hash for event in frame.events]) != frame.head.root:
        raise DamagedError("a frame's event table is not what was signed")
    for place, event in enumerate(frame.events):
        if event.place != place or event.slot >= len(frame.head.keys):
            raise DamagedError("a frame's event table is out of order")


def _verify_bodies(frame: Frame, front: bytes, read: Read) -> None:
    whole = memoryview(front) if len(front) == frame.header.length else None
    end = frame.header.bodies_offset
    for event, at in frame.bodies():
        if at is None:
            continue
        start = at - frame.offset
        end = start + event.length
        body = whole[start:end] if whole is not None else read(at, event.length)
        if len(body) != event.length or event_hash(event.core, body) != event.hash:
            raise DamagedError(f"object {event.key.hex()} is not what was written")
    padding = whole[end:] if whole is not None else read(frame.offset + end, frame.header.length - end)
    if bytes(padding).strip(b"\0") or end + len(padding) != frame.header.length:
        raise DamagedError("a frame's padding is not zero")


def verify_frame_signature(
    frame: Frame, devices: dict[bytes, bytes], root_public: bytes, chain_id: bytes, *, proven: bytes = b""
) -> None:
    """Check who wrote the frame; take up the certificates it brings into `devices` (public key -> certificate).

    proven: a device that has shown by other means that it gave this frame; its signature is not looked at. Raises
    BadSignatureError.
    """
    for kind, data in frame.head.statements:
        if kind == CERTIFICATE:
            certificate = Certificate.decode(data)
            certificate.verify(root_public, chain_id)
            devices[certificate.device] = data
    if frame.head.device not in devices:
        raise BadSignatureError(
            f"batch {frame.head.sequence} is signed by a device that the chain's root never certified"
        )
    if frame.head.device != proven:
        verify_signature(frame.head.device, frame.hash, frame.signature)


def find_frames(read: Read, start: int, end: int, *, bodies: bool = True) -> Iterator[Frame]:
    """Every frame between two offsets that verifies, whatever lies between: for judging what follows damage.

    bodies: also compare every sealed body with its hash.
    """
    at = start + -start % ALIGNMENT
    while at < end:
        window = bytes(read(at, min(_SCAN, end - at)))
        if len(window) < FRAME_HEADER_SIZE:
            return
        hit = _next_magic(window)
        if hit is None:
            at += max(ALIGNMENT, len(window) - ALIGNMENT)
            at += -at % ALIGNMENT
            continue
        try:
            frame = read_frame(read, at + hit, bodies=bodies)
        except DamagedError:
            at += hit + ALIGNMENT
            continue
        yield frame
        at = frame.end


def _next_magic(window: bytes) -> int | None:
    hit = window.find(FRAME_MAGIC)
    while hit >= 0 and hit % ALIGNMENT:
        hit = window.find(FRAME_MAGIC, hit + 1)
    return hit if hit >= 0 else None
