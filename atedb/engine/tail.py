"""Finding the end of a log that is stored blindly: from the last noted batch to the newest; what is torn is cut off.

Frames come from clients, so what they say of durability is a client's disk; here only what this engine wrote down
itself counts: its note of a durable batch, and the records of `atedb.engine.places`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from atedb.chain.disk import Disk, File
from atedb.chain.format import SEGMENT_HEADER_SIZE, SegmentHeader
from atedb.chain.frame import Frame, read_frame
from atedb.chain.log import segment_path
from atedb.chain.manifest import Manifest
from atedb.chain.note import load_note, save_note
from atedb.chain.position import Position
from atedb.chain.recovery import is_zero
from atedb.engine.places import Place, Places
from atedb.errors import DamagedError

log = logging.getLogger(__name__)

NAME = "tail"


class Tail(msgspec.Struct, frozen=True):
    """A durable batch and where the next frame goes. hash: hexadecimal."""

    sequence: int
    hash: str
    segment: int
    offset: int

    @property
    def position(self) -> Position:
        """The batch."""
        return Position(self.sequence, bytes.fromhex(self.hash))


def load_tail(disk: Disk, store: Path) -> Tail | None:
    """The last note; None when there is none, or it is damaged: the active segment is read from its start then."""
    try:
        return load_note(disk, store / NAME, Tail)
    except DamagedError as error:
        log.warning("%s; it is made anew from the log", error)
        return None


def save_tail(disk: Disk, store: Path, tail: Tail) -> None:
    """Note a durable batch: the next opening starts there, and nothing up to there is ever cut off as torn."""
    save_note(disk, store / NAME, tail)


def find_tail(disk: Disk, store: Path, manifest: Manifest, places: Places) -> Tail:
    """The newest whole batch of the log; a torn end after it is cut off, and places are put right.

    Raises DamagedError when something that was acknowledged is missing or changed; nothing is changed then.
    """
    for sealed in manifest.sealed:
        size = _size(disk, store, sealed.number)
        if size != sealed.length:
            raise _damage(store, sealed.number, min(size, sealed.length), f"it has {size} bytes, not {sealed.length}")
    file = disk.open(segment_path(store, manifest.active), writable=True)
    try:
        return _Search(disk, store, manifest, places, file).run()
    finally:
        file.close()


class _Search:
    """The walk through the active segment."""

    def __init__(self, disk: Disk, store: Path, manifest: Manifest, places: Places, file: File) -> None:
        self._disk = disk
        self._store = store
        self._manifest = manifest
        self._places = places
        self._file = file

    def run(self) -> Tail:
        """See `find_tail`."""
        number, end = self._manifest.active, self._file.size()
        tail = noted = self._start()
        if end < tail.offset:
            raise _damage(self._store, number, end, f"batch {tail.sequence} ended at {tail.offset}")
        why: object = "the segment ends there"
        while tail.offset < end:
            try:
                frame = self._next(tail)
            except DamagedError as error:
                why = error
                break
            self._places.put(frame.head.sequence, [Place(number, tail.offset, noted.sequence)])
            tail = Tail(frame.head.sequence, frame.hash.hex(), number, frame.end)
        if self._places.durable_after(tail.sequence) > tail.sequence:
            raise _damage(self._store, number, tail.offset, f"batch {tail.sequence + 1} was acknowledged ({why})")
        self._places.cut(tail.sequence)
        self._cut(tail, end)
        return tail

    def _start(self) -> Tail:
        """From where on the segment has to be read."""
        number = self._manifest.active
        try:
            header = SegmentHeader.decode(bytes(self._file.read(SEGMENT_HEADER_SIZE, 0)))
            if header.number != number or header.chain_id.hex() != self._manifest.chain:
                raise DamagedError("the file is not where it was written")
            before = self._manifest.sealed[-1] if self._manifest.sealed else None
            if header.first != (before.last + 1 if before else 1):
                raise DamagedError(f"it begins at batch {header.first}, which is not the next one")
            if header.previous.hex() != (before.head if before else bytes(32).hex()):
                raise DamagedError(f"before batch {header.first} comes another one")
        except DamagedError as error:
            raise _damage(self._store, number, 0, error) from None
        noted = load_tail(self._disk, self._store)
        if noted is not None and noted.segment == number:
            return noted
        if noted is not None and noted.sequence >= header.first:
            raise _damage(self._store, number, 0, f"batch {noted.sequence} was in segment {noted.segment}")
        return Tail(header.first - 1, header.previous.hex(), number, SEGMENT_HEADER_SIZE)

    def _next(self, tail: Tail) -> Frame:
        frame = read_frame(lambda offset, length: self._file.read(length, offset), tail.offset, bodies=True)
        if frame.head.sequence != tail.sequence + 1 or frame.head.previous.hex() != tail.hash:
            raise DamagedError(f"batch {frame.head.sequence} does not follow batch {tail.sequence}")
        return frame

    def _cut(self, tail: Tail, end: int) -> None:
        if is_zero(self._file, tail.offset, end):
            return
        log.warning(
            "%s: a torn tail of %d bytes after batch %d is cut off, at offset %d of segment %d; nobody was told of it",
            self._store, end - tail.offset, tail.sequence, tail.offset, tail.segment,
        )  # fmt: skip
        self._file.truncate(tail.offset)
        self._file.sync()


def _size(disk: Disk, store: Path, number: int) -> int:
    file = disk.open(segment_path(store, number))
    size = file.size()
    file.close()
    return size


def _damage(store: Path, segment: int, offset: int, why: object) -> DamagedError:
    return DamagedError(
        f"{store}: segment {segment} is damaged at offset {offset}: {why}; nothing was changed; see what is wrong with "
        "atedb verify, and mend it from other copies with atedb repair"
    )
