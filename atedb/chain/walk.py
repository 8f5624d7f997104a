"""Walking a segment that may be damaged: the frames that verify, the gaps between them, and what is in a frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from atedb.chain.apply import plaintext
from atedb.chain.batch import bound_prefix
from atedb.chain.disk import Disk, File
from atedb.chain.format import (
    ALIGNMENT,
    EVENT_SIZE,
    FRAME_HEADER_SIZE,
    BatchHead,
    Event,
    FrameHeader,
    event_hash,
)
from atedb.chain.frame import Frame, Read, find_frames, infer_header, read_frame
from atedb.chain.log import FOLDER
from atedb.crypto.keys import KeyRing
from atedb.errors import DamagedError, StorageError

_SECTOR = 4096
_WINDOW = 1 << 20


class Gap(NamedTuple):
    """A stretch of a segment where no frame verifies. keys: of the objects that what is left of it still names."""

    offset: int
    end: int
    why: str
    keys: tuple[bytes, ...]


def segment_numbers(disk: Disk, store: Path) -> list[int]:
    """The numbers of the segment files that are there."""
    if FOLDER not in disk.names(store):
        return []
    return [int(n[:-4]) for n in disk.names(store / FOLDER) if n.endswith(".seg") and n[:-4].isdigit()]


def reader(file: File) -> Read:
    """Reads a file through: what the device cannot read comes out as zeros, which no hash agrees with."""

    def read(offset: int, length: int) -> bytes | bytearray:
        length = max(0, min(length, file.size() - offset))  # a window past the end need not be allocated
        try:
            return file.read(length, offset)
        except StorageError:
            return b"".join(_piece(file, at, min(_SECTOR, offset + length - at)) for at in
                            range(offset, offset + length, _SECTOR))  # fmt: skip

    return read


def _piece(file: File, offset: int, length: int) -> bytes:
    try:
        return bytes(file.read(length, offset))
    except StorageError:
        return bytes(length)


def walk(read: Read, start: int, end: int) -> Iterator[Frame | Gap]:
    """Everything between two offsets, in order and without overlap. Of a frame's bodies nothing is believed yet."""
    at = start
    while at < end:
        try:
            frame = _frame(read, at, end, None)
        except DamagedError as error:
            guessed = _guess(read, at, end)
            if guessed is not None:
                yield Gap(at, at + FRAME_HEADER_SIZE, str(error), ())
                frame = guessed
            else:
                following = _resume(read, at, end)
                yield Gap(at, following, str(error), _named(read, at))
                at = following
                continue
        yield frame
        at = frame.end


def _frame(read: Read, at: int, end: int, header: FrameHeader | None) -> Frame:
    frame = read_frame(read, at, bodies=False, header=header)
    if frame.end > end:
        raise DamagedError("a frame is cut short")
    return frame


def _guess(read: Read, at: int, end: int) -> Frame | None:
    """The frame whose header alone is damaged."""
    try:
        return _frame(read, at, end, infer_header(read, at))
    except DamagedError:
        return None


def _resume(read: Read, at: int, end: int) -> int:
    """Where the next frame begins after a bad one; `end` when there is none."""
    try:
        following = at + FrameHeader.decode(bytes(read(at, FRAME_HEADER_SIZE))).length
        if following != end:
            _frame(read, following, end, None)
        return following
    except DamagedError:
        found = next(find_frames(read, at + ALIGNMENT, end, bodies=False), None)
    return found.offset if found is not None and found.end <= end else end


def _named(read: Read, at: int) -> tuple[bytes, ...]:
    """The objects in a bad frame whose row in the event table agrees with their body."""
    keys = []
    try:
        header = FrameHeader.decode(bytes(read(at, FRAME_HEADER_SIZE)))
    except DamagedError:
        return ()
    table = bytes(read(at + header.table_offset, header.present * EVENT_SIZE))
    body_at = at + header.bodies_offset
    for i in range(0, len(table) - EVENT_SIZE + 1, EVENT_SIZE):
        try:
            event = Event.decode(table[i : i + EVENT_SIZE])
        except DamagedError:
            break  # without its length, nobody knows where the bodies after it begin
        with contextlib.suppress(DamagedError):
            read_body(read, event, body_at)
            keys.append(event.key)
        body_at += event.length
    return tuple(keys)


def buffered(read: Read, frame: Frame) -> Read:
    """A reader for the bodies of one frame, which reads a small frame once."""
    if frame.header.length > _WINDOW:
        return read
    start, whole = frame.offset, memoryview(bytes(read(frame.offset, frame.header.length)))
    return lambda offset, length: bytes(whole[offset - start : offset - start + length])


def read_body(read: Read, event: Event, at: int) -> bytes:
    """The sealed body of an event, from offset `at`. Raises DamagedError unless it has the event's hash."""
    body = bytes(read(at, event.length))
    if len(body) != event.length or event_hash(event.core, body) != event.hash:
        raise DamagedError("its body, or its row in the event table, is not what was written")
    return body


def verify_padding(read: Read, frame: Frame) -> None:
    """Raises DamagedError unless a frame ends in zeros."""
    used = frame.header.bodies_offset + sum(event.length for event, at in frame.bodies() if at is not None)
    rest = bytes(read(frame.offset + used, frame.header.length - used))
    if rest != bytes(frame.header.length - used):
        raise DamagedError("the padding of a frame is not zero")


class BatchOpener:
    """Opens the bodies of one batch. Raises DamagedError or MissingKeyError when its keys are not the tenant's."""

    def __init__(self, keys: KeyRing, head: BatchHead) -> None:
        self._ciphers = [
            keys.open_batch_cipher(slot.tenant, slot.epoch, head.salt, slot.commitment) for slot in head.keys
        ]
        self._bounds = [bound_prefix(keys.chain_id, slot) for slot in head.keys]

    def open(self, event: Event, sealed: bytes) -> bytes:
        """The plaintext. Raises DamagedError."""
        opened = self._ciphers[event.slot].open(event.place, sealed, self._bounds[event.slot] + event.core)
        return plaintext(opened, event.flags)
