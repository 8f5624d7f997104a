"""Mending a stored chain without its keys.

What is damaged is put back from other copies of the chain, byte for byte: the batch before a hole and the batch after
it say, by their hashes, what belongs there, so that nobody has to be believed. What no copy has can be cut off, with
all that comes after it: clients that have seen more are told, decide, and send again what they have.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from atedb.chain.disk import Disk, File, translated
from atedb.chain.format import SEGMENT_HEADER_SIZE, SegmentHeader
from atedb.chain.frame import Frame, Read, read_frame, verify_frame_signature
from atedb.chain.header import load_header
from atedb.chain.log import segment_path
from atedb.chain.manifest import Manifest, SealedSegment, load_manifest
from atedb.chain.position import START, Position
from atedb.chain.recovery import is_zero, read_manifest
from atedb.chain.walk import Gap, reader, segment_numbers, walk
from atedb.engine.donors import Donor, whole
from atedb.engine.places import NAME as PLACES
from atedb.engine.tail import NAME as TAIL
from atedb.engine.verifying import acknowledged_up_to
from atedb.errors import DamagedError

_PIECE = 4 << 20


class Hole(NamedTuple):
    """Bytes of a segment that are not what was written.

    before: the batch in front of them. last: the newest batch that is missing there, and its hash where something says
    so. content: the batch is known, and only sealed bodies in it are bad. open_end: it is the end of the log.
    """

    segment: int
    offset: int
    end: int
    before: Position
    last: tuple[int, bytes | None]
    content: bool = False
    open_end: bool = False

    def __str__(self) -> str:
        where = f"segment {self.segment} at offset {self.offset}, {self.end - self.offset} bytes: "
        if self.content:
            return where + f"contents in batch {self.last[0]} are lost"
        first, last = self.before.sequence + 1, self.last[0]
        return where + (f"batches {first} to {last} are lost" if first < last else f"batch {first} is lost")


class _Piece(NamedTuple):
    """A stretch of a segment: a batch, or (no position) what is none. sound: its bodies are what was written."""

    offset: int
    end: int
    position: Position | None = None
    previous: bytes = b""
    sound: bool = True


class Mending:
    """The chain in `store`, which nobody has open: the caller holds its lock. restored: the batches that were put back.

    Raises DamagedError when header and manifest say too little to begin, StoreNotFoundError.
    """

    def __init__(self, disk: Disk, store: Path, donors: Sequence[Donor] = ()) -> None:
        self._disk = disk
        self._store = store
        self._donors = donors
        header = load_header(disk, store)
        self._chain_id, self._root = header.chain_id, bytes.fromhex(header.root_public)
        self._devices: dict[bytes, bytes] = {}
        self._manifest = self._read_manifest()
        self.restored: list[int] = []
        self._left: list[Hole] = []
        self._lost = False

    def _read_manifest(self) -> Manifest:
        try:
            return read_manifest(self._disk, self._store, self._chain_id)
        except DamagedError:
            return load_manifest(self._disk, self._store)  # a segment is missing or cut short: this says which

    def fill(self) -> list[Hole]:
        """Put back what donors have, and the headers that can be made anew; the holes that are left.

        Raises StorageError, NoSpaceError.
        """
        self._left = []
        at = START
        for sealed in self._manifest.sealed:
            at = self._mend(sealed.number, sealed, at)
        self._mend(self._manifest.active, None, at)
        return self._left

    def _found(self, hole: Hole) -> None:
        if not self._fill(hole):
            self._left.append(hole)
        self._lost = bool(self._left)

    # -- finding

    def _mend(self, number: int, sealed: SealedSegment | None, at: Position) -> Position:
        """Fill the holes of one segment; the batch that it ends with."""
        with contextlib.closing(self._open(number, at)) as file:
            size = file.size()
            end = sealed.length if sealed is not None else size
            if size > end:  # nothing of the chain is there
                file.truncate(end)
                file.sync()
            start: int | None = None
            for piece in self._pieces(file, min(end, size), active=sealed is None):
                if piece.position is None or piece.position.sequence <= at.sequence:
                    start = piece.offset if start is None else start
                    self._lost = True
                    continue
                before = Position(piece.position.sequence - 1, piece.previous)
                if start is not None or before != at:
                    self._found(Hole(number, piece.offset if start is None else start, piece.offset, at, before))
                if not piece.sound:
                    self._found(Hole(number, piece.offset, piece.end, before, piece.position, content=True))
                at, start = piece.position, None
            start = min(end, size) if start is None else start
        if sealed is not None:
            last = Position(sealed.last, bytes.fromhex(sealed.head))
            if at != last or start < end:
                self._found(Hole(number, start, end, at, last))
            return last
        acknowledged = acknowledged_up_to(self._disk, self._store)
        if at.sequence < acknowledged:
            self._found(Hole(number, start, size, at, (acknowledged, None), open_end=True))
        return at

    def _pieces(self, file: File, end: int, *, active: bool) -> Iterator[_Piece]:
        read = reader(file)
        before: Gap | None = None
        for item in walk(read, SEGMENT_HEADER_SIZE, end):
            if before is not None and not (isinstance(item, Frame) and item.offset == before.offset):
                yield _Piece(before.offset, before.end)
                before = None
            if isinstance(item, Gap):
                if active and is_zero(file, item.offset, end):
                    return
                before = item
                continue
            if before is not None:  # the frame's header alone is bad, and was made anew from what follows it
                file.write([item.header.encode()], item.offset)
                file.sync()
                before = None
            yield self._piece(read, item)
        if before is not None:
            yield _Piece(before.offset, before.end)

    def _piece(self, read: Read, frame: Frame) -> _Piece:
        head = frame.head
        try:
            verify_frame_signature(frame, self._devices, self._root, self._chain_id)
        except DamagedError:
            if head.device in self._devices or not self._lost:
                return _Piece(frame.offset, frame.end)
            # Its certificate may be in a batch that is lost: the hashes around it have to do.
        sound = True
        try:
            read_frame(read, frame.offset, bodies=True)
        except DamagedError:
            sound = False
        return _Piece(frame.offset, frame.end, Position(head.sequence, frame.hash), head.previous, sound)

    def _open(self, number: int, before: Position) -> File:
        """A segment, with the header that it must have; made if it is missing."""
        path = segment_path(self._store, number)
        there = number in segment_numbers(self._disk, self._store)
        file = self._disk.open(path, writable=True) if there else self._disk.create(path)
        header = SegmentHeader(number, self._chain_id, before.sequence + 1, before.hash).encode()
        if bytes(file.read(SEGMENT_HEADER_SIZE, 0)) != header and before.hash:
            file.write([header], 0)
            file.sync()
            self._disk.sync_folder(path.parent)
        return file

    # -- filling

    def _fill(self, hole: Hole) -> bool:
        """Put back the batches of a hole, if donors have all of them and they fit."""
        with contextlib.closing(self._disk.open(segment_path(self._store, hole.segment), writable=True)) as file:
            at, position, found = hole.offset, hole.before, []
            last, mark = hole.last
            while position.sequence < last:
                data = self._given(position, reader(file), at)
                if data is None:
                    return False
                frame, whole_frame = data
                position = Position(frame.head.sequence, frame.hash)
                found.append(whole_frame)
                at += len(whole_frame)
            if not found or (mark is not None and position.hash != mark) or (at != hole.end and not hole.open_end):
                return False
            file.write(found, hole.offset)
            if hole.open_end:
                file.truncate(at)
            file.sync()
        self.restored += range(hole.before.sequence + 1, last + 1)
        return True

    def _given(self, before: Position, own: Read, at: int) -> tuple[Frame, bytes] | None:
        """The batch after `before`, as a donor has it; in a damaged form it lies at offset `at` of what `own` reads."""
        for donor in self._donors:
            for given in donor.frames(before.sequence + 1):
                found = whole(given, own, at)
                if found is None or found[0].head.previous != before.hash:
                    continue
                with contextlib.suppress(DamagedError):
                    verify_frame_signature(found[0], self._devices, self._root, self._chain_id)
                    return found
        return None

    # -- cutting

    def cut(self, hole: Hole, kept: Path) -> None:
        """End the log in front of a hole. What comes after it, and the segment that it is in, is kept in `kept`.

        Safe to be interrupted, and done again then. Raises StorageError, NoSpaceError.
        """
        disk, number = self._disk, hole.segment
        disk.make_folder(kept)
        path = segment_path(self._store, number)
        self._copy(path, kept / path.name)
        sealed = [one for one in self._manifest.sealed if one.number < number]
        Manifest(self._manifest.format, self._manifest.chain, number, sealed).save(disk, self._store)
        for later in reversed(segment_numbers(disk, self._store)):
            if later > number:
                after = segment_path(self._store, later)
                _move(after, kept / after.name)
        disk.sync_folder(kept)
        disk.sync_folder(path.parent)
        with contextlib.closing(disk.open(path, writable=True)) as file:
            file.truncate(hole.offset)
            file.sync()
        for name in (TAIL, PLACES):  # what they say of later batches is no longer so
            disk.unlink(self._store / name)
        disk.sync_folder(self._store)

    def _copy(self, source: Path, target: Path) -> None:
        disk = self._disk
        with contextlib.closing(disk.open(source)) as old, contextlib.closing(disk.create(target)) as new:
            read = reader(old)
            for at in range(0, old.size(), _PIECE):
                new.write([read(at, _PIECE)], at)
            new.sync()


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        raise translated(error, f"moving {source} to {target}") from error
