"""What a node can say of a batch without keys: that it is whole, signed, in its place, and within its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from atedb.chain.format import MAX_FRAME
from atedb.chain.frame import Frame, decode_frame, verify_frame_signature
from atedb.chain.position import Position
from atedb.crypto.signing import BadSignatureError
from atedb.errors import DamagedError, InvalidError, LimitError, StaleError
from atedb.node.index import Draft

MAX_BATCHES = 4096
"""Batches in one append."""


class Checked(NamedTuple):
    """A batch that agrees with itself. data: its bytes."""

    frame: Frame
    data: bytes


class Root(NamedTuple):
    """Under whose root a chain's devices are certified."""

    public: bytes
    chain_id: bytes


def check_whole(frames: Sequence[bytes]) -> list[Checked]:
    """Each batch by itself: its lengths, and the hashes of its event table and of all bodies.

    Raises InvalidError, LimitError. Takes about a second for 2 GiB.
    """
    if not frames:
        raise InvalidError("there is nothing to append")
    if len(frames) > MAX_BATCHES or sum(len(frame) for frame in frames) > MAX_FRAME:
        raise LimitError(f"one append has at most {MAX_BATCHES} batches and {MAX_FRAME} bytes")
    return [_whole(data) for data in frames]


def _whole(data: bytes) -> Checked:
    try:
        frame = decode_frame(data)
    except DamagedError as error:
        raise InvalidError(f"this is not a batch: {error}") from None
    if frame.slim:
        raise InvalidError(f"batch {frame.head.sequence} lacks its blobs")
    if frame.head.durable >= max(1, frame.head.sequence):
        raise InvalidError(f"batch {frame.head.sequence} says that it was durable before it was written")
    return Checked(frame, data)


def check_in_place(batches: Sequence[Checked], draft: Draft, root: Root, proven: bytes = b"") -> Draft:
    """Batches against the chain as it is with `draft`: a draft that has them, too.

    proven: a device that is believed without its signature.
    Raises StaleError when they follow another batch than the newest, InvalidError for signatures, links and versions.
    """
    require_next(batches, draft.at)
    following = draft.fork()
    for frame, _ in batches:
        try:
            verify_frame_signature(frame, following.devices, root.public, root.chain_id, proven=proven)
        except BadSignatureError as error:
            raise InvalidError(f"batch {frame.head.sequence}: {error}") from None
        following.add(frame)
    return following


def require_next(batches: Sequence[Checked], at: Position) -> None:
    """Raises StaleError when the first batch does not follow `at`, InvalidError when another does not follow it."""
    for frame, _ in batches:
        head = frame.head
        if head.sequence != at.sequence + 1 or head.previous != at.hash:
            if frame is batches[0].frame:
                raise StaleError(at)
            raise InvalidError(f"batch {head.sequence} does not follow batch {at.sequence}")
        at = Position(head.sequence, frame.hash)
