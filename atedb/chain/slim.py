"""Slim frames: what a replica keeps of others' batches.

A slim frame is a frame without the bodies of its live blobs. Head, signature, event table and all other bodies are
there, so that the batch has the same hash and verifies the same way; the table has the hash of each absent body.
"""

from __future__ import annotations

from atedb.chain.format import ALIGNMENT, FRAME_HEADER_SIZE, SLIM, FrameHeader
from atedb.chain.frame import Frame, decode_frame
from atedb.errors import DamagedError


def slim_frame(frame: bytes) -> bytes:
    """A frame without the bodies of its live blobs; as it is when it has none, or is slim already.

    Raises DamagedError when `frame` is not one whole frame. Who signed it is not looked at.
    """
    return slim_form(decode_frame(frame), frame)


def slim_form(frame: Frame, data: bytes) -> bytes:
    """The same of a frame that is decoded already: `data` are its bytes."""
    if frame.slim or not any(event.heavy for event in frame.events):
        return data
    kept = [
        data[at - frame.offset : at - frame.offset + event.length]
        for event, at in frame.bodies()
        if at is not None and not event.heavy
    ]
    return join_slim(frame.header, data, kept)


def join_slim(full: FrameHeader, front: bytes, kept: list[bytes]) -> bytes:
    """A slim frame out of its parts. full: the header of the full one; front: all of that, up to the bodies at least.

    kept: the bodies that stay, in their order.
    """
    end = full.bodies_offset + sum(map(len, kept))
    length = end + -end % ALIGNMENT
    header = full._replace(length=length, flags=full.flags | SLIM)
    return b"".join((header.encode(), front[FRAME_HEADER_SIZE : full.bodies_offset], *kept, bytes(length - end)))


def sealed_body(frame: Frame, data: bytes, place: int) -> bytes:
    """The sealed body of the event with index `place`, of a whole frame in `data`. Raises DamagedError if absent."""
    for event, at in frame.bodies():
        if event.place == place and at is not None:
            return data[at - frame.offset : at - frame.offset + event.length]
    raise DamagedError(f"batch {frame.head.sequence} has no body {place} here")


def is_slim(data: bytes) -> bool:
    """Whether the frame that `data` starts with is slim. Raises DamagedError when it starts with none."""
    return bool(FrameHeader.decode(data[:FRAME_HEADER_SIZE]).flags & SLIM)
