"""One chain in a folder of files: a store like those of `atefs`, with the engine's own notes beside it.

`chain`, `keys`, `manifest` and `segments/` are as in docs/formats.md, so that a copy of the folder is a backup that can
be mounted. `token`, `tail` and `places` belong to the engine, documents other than the two to the node.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from atedb import threads
from atedb.chain.disk import Disk
from atedb.chain.format import FRAME_HEADER_SIZE, SEGMENT_HEADER_SIZE, BatchHead, FrameHeader, batch_hash
from atedb.chain.header import load_header
from atedb.chain.lock import ChainLock
from atedb.chain.log import Log
from atedb.chain.note import load_note, save_note
from atedb.chain.position import Position
from atedb.chain.recovery import read_manifest
from atedb.crypto.hashing import digest
from atedb.engine.interface import MAX_DOCUMENT, SegmentInfo
from atedb.engine.places import Place, Places
from atedb.engine.tail import Tail, find_tail, save_tail
from atedb.errors import (
    AteError,
    ClosedError,
    DamagedError,
    FencedError,
    InvalidError,
    LimitError,
    NoSpaceError,
    NotResident,
    ReadOnlyError,
    StaleDocumentError,
    StaleError,
    StorageError,
)

log = logging.getLogger(__name__)

HEADER, KEYS, TOKEN, DOCUMENTS = "chain", "keys", "token", "documents"
NOTE_BYTES = 32 << 20
NOTE_SECONDS = 5.0
_SEQUENCE = FRAME_HEADER_SIZE + 8
"""Bytes at a frame's start up to and with its sequence."""
_NAME = re.compile(r"[a-z0-9]{1,32}")

T = TypeVar("T")


class _Token(msgspec.Struct, frozen=True):
    """The newest fencing token that was handed out."""

    token: int


class _Append:
    """An append on its way: `result` or `error` is set when it has ended."""

    def __init__(self, frames: Sequence[bytes], expected: Position, token: int) -> None:
        self.frames = frames
        self.heads = [_link(frame) for frame in frames]
        self.expected = expected
        self.token = token
        self.result: Position | None = None
        self.error: Exception | None = None


class FileLog:
    """A `BatchLog` in the folder `store`. Opened by `FileEngine`."""

    def __init__(self, disk: Disk, store: Path, writers: trio.CapacityLimiter) -> None:
        """Recover and open; blocks. Raises DamagedError, StoreNotFoundError, InUseError."""
        self._disk = disk
        self._store = store
        self._writers = writers
        self._undo = contextlib.ExitStack()
        self._undo.callback(ChainLock(store).release)
        try:
            self._recover()
        except BaseException:
            self._undo.close()
            raise
        self._turn = trio.Lock()
        self._queue: list[_Append] = []
        self._advanced = trio.Event()
        self._closed = False
        self._failed: AteError | None = None
        self._noted_at = -math.inf

    def _recover(self) -> None:
        disk, store = self._disk, self._store
        self._chain_id = load_header(disk, store).chain_id
        manifest = read_manifest(disk, store, self._chain_id)
        self._places = Places(disk, store, self._chain_id)
        self._undo.callback(self._places.close)
        tail = find_tail(disk, store, manifest, self._places)
        self._log = Log(disk, store, manifest, end=tail.offset)
        self._undo.callback(self._log.close)
        if not manifest.is_saved(disk, store):
            manifest.save(disk, store)
        self._log.barrier()  # what was found may still be in the page cache only
        self._places.vouch(tail.sequence)
        self._tail = self._written = tail.position
        self._noted_bytes = 0
        noted = load_note(disk, store / TOKEN, _Token)
        self._token = noted.token if noted is not None else 0

    @property
    def tail(self) -> Position:
        """The newest batch that is durable."""
        return self._tail

    @property
    def chain_id(self) -> bytes:
        """The chain's identity: 32 bytes."""
        return self._chain_id

    # -- changing

    async def take(self) -> int:
        """See `BatchLog.take`."""
        async with self._turn:
            self._require_open()
            token = self._token + 1
            await self._in_thread(lambda: save_note(self._disk, self._store / TOKEN, _Token(token)))
            self._token = token
            return token

    async def append(self, frames: Sequence[bytes], expected: Position, token: int) -> Position:
        """See `BatchLog.append`."""
        self._require_open()
        request = _Append(frames, expected, token)
        self._queue.append(request)
        try:
            async with self._turn:
                if request in self._queue:  # else somebody who had the turn has done it along with their own
                    await self._flush()
        finally:
            if request in self._queue:
                self._queue.remove(request)
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    async def _flush(self) -> None:
        """Write all that waits, with one barrier. The caller has the turn."""
        requests, self._queue = self._queue, []
        try:
            durable = await self._in_thread(lambda: self._write_all(requests))
        except BaseException as error:
            self._failed = StorageError(f"{self._store}: writing ended in an unforeseen way: {error!r}")
            for request in requests:
                request.error = request.error or self._failed
            raise
        if durable is not None:
            self._tail = durable
            self._advanced.set()
            self._advanced = trio.Event()
            await self._note_now_and_then()

    def _write_all(self, requests: Sequence[_Append]) -> Position | None:
        """The newest batch if there is one more that is durable; the requests get their result or error."""
        written = []
        for request in requests:
            try:
                self._write(request)
                written.append(request)
            except AteError as error:
                request.error = error
        if not written:
            return None
        try:
            self._log.barrier()
        except AteError as error:  # nobody knows what the disk has now; a new opening will find out
            self._failed = error
            for request in written:
                request.error = error
            return None
        for request in written:
            request.result = Position(*request.heads[-1][:2])
        with contextlib.suppress(AteError):
            self._places.vouch(self._written.sequence)
        return self._written

    def _write(self, request: _Append) -> None:
        """Append the frames of one request; all of them, or none when it raises."""
        self._require_open()
        self._require_writable(request.token)
        if request.expected != self._written:
            raise StaleError(self._written)
        at = request.expected
        for sequence, mark, previous in request.heads:
            if sequence != at.sequence + 1 or previous != at.hash:
                raise InvalidError(f"batch {sequence} does not follow batch {at.sequence}")
            at = Position(sequence, mark)
        if at == request.expected:
            raise InvalidError("there is nothing to append")
        size = sum(len(frame) for frame in request.frames)
        first = request.heads[0][0]
        try:
            self._log.roll_if_full(size, sequence=first, previous=request.expected.hash)
            segment, offset = self._log.append(request.frames, size)
        except NoSpaceError:
            raise
        except AteError as error:
            self._failed = error
            raise
        self._written = at
        self._noted_bytes += size
        places = []
        for frame in request.frames:
            places.append(Place(segment, offset, self._tail.sequence))
            offset += len(frame)
        with contextlib.suppress(AteError):  # places are only a shortcut
            self._places.put(first, places)

    async def _note_now_and_then(self) -> None:
        now = trio.current_time()
        if self._noted_bytes >= NOTE_BYTES or now - self._noted_at >= NOTE_SECONDS:
            self._noted_at = now
            try:
                await self._in_thread(self._note)
            except AteError as error:  # the batches are durable all the same
                log.warning("%s: the newest batch could not be noted: %s", self._store, error)

    def _note(self) -> None:
        tail = Tail(self._tail.sequence, self._tail.hash.hex(), self._log.manifest.active, self._log.end)
        save_tail(self._disk, self._store, tail)
        self._noted_bytes = 0

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._store} was closed")

    def _require_writable(self, token: int) -> None:
        if token != self._token:
            raise FencedError(f"fencing token {token} is not {self._token}: somebody else has taken the chain over")
        if self._failed is not None:
            raise ReadOnlyError(f"the chain is read-only since a failure: {self._failed}")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run what waits for the disk; it is never left half done by a cancellation."""
        with trio.CancelScope(shield=True):
            done = await threads.run(work, limiter=self._writers)
        return done

    # -- reading

    async def read(self, first: int, limit: int) -> list[bytes]:
        """See `BatchLog.read`."""
        self._require_open()
        if first < 1:
            raise InvalidError(f"there is no batch {first}")
        if first > self._tail.sequence:
            return []
        return await self._resident_or_not(lambda nowait: self._frames(first, limit, nowait=nowait))

    async def read_range(self, sequence: int, offset: int, length: int) -> bytes:
        """See `BatchLog.read_range`."""
        self._require_open()
        if not 1 <= sequence <= self._tail.sequence or offset < 0 or length < 0:
            raise InvalidError(f"there is no batch {sequence}, or it has no bytes from {offset} on")
        return await self._resident_or_not(lambda nowait: self._range(sequence, offset, length, nowait=nowait))

    async def _resident_or_not(self, work: Callable[[bool], T]) -> T:
        """Run `work` here if everything is in memory, and in a thread otherwise."""
        try:
            return work(True)
        except NotResident:
            return await threads.run(lambda: work(False))

    def _frames(self, first: int, limit: int, *, nowait: bool) -> list[bytes]:
        last = self._tail.sequence
        segment, offset, header = self._find(first, nowait=nowait)
        manifest, end = self._log.manifest, self._log.end
        if segment != manifest.active:
            end = next(s.length for s in manifest.sealed if s.number == segment)
        data = self._log.read(segment, offset, max(header.length, min(limit, end - offset)), nowait=nowait)
        frames: list[bytes] = []
        at = 0
        while first <= last and len(data) - at >= _SEQUENCE:
            length = self._header_at(bytes(data[at : at + _SEQUENCE]), segment, offset + at, first).length
            if at + length > len(data):
                break
            frames.append(bytes(data[at : at + length]))
            at += length
            first += 1
        return frames

    def _range(self, sequence: int, offset: int, length: int, *, nowait: bool) -> bytes:
        segment, start, header = self._find(sequence, nowait=nowait)
        length = min(length, header.length - offset)
        return bytes(self._log.read(segment, start + offset, length, nowait=nowait)) if length > 0 else b""

    def _find(self, sequence: int, *, nowait: bool) -> tuple[int, int, FrameHeader]:
        """Segment, offset and header of a batch; where its place is not known, the segment is walked."""
        place = self._places.get(sequence, nowait=nowait)
        if place is not None:
            with contextlib.suppress(DamagedError):
                start = bytes(self._log.read(place.segment, place.offset, _SEQUENCE, nowait=nowait))
                return place.segment, place.offset, self._header_at(start, place.segment, place.offset, sequence)
        if nowait:
            raise NotResident(lambda: None)  # a walk takes its time
        segment, at = self._segment_of(sequence)
        offset = SEGMENT_HEADER_SIZE
        while True:
            start = bytes(self._log.read(segment, offset, _SEQUENCE))
            header = self._header_at(start, segment, offset, at)
            with contextlib.suppress(AteError):
                self._places.put(at, [Place(segment, offset, 0)])
            if at == sequence:
                return segment, offset, header
            offset += header.length
            at += 1

    def _segment_of(self, sequence: int) -> tuple[int, int]:
        """The segment that a batch is in, and the first batch there."""
        manifest = self._log.manifest
        for sealed in manifest.sealed:
            if sealed.last >= sequence:
                return sealed.number, sealed.first
        return manifest.active, manifest.sealed[-1].last + 1 if manifest.sealed else 1

    def _header_at(self, start: bytes, segment: int, offset: int, sequence: int) -> FrameHeader:
        try:
            header = FrameHeader.decode(start)
            if int.from_bytes(start[FRAME_HEADER_SIZE:], "little") != sequence:
                raise DamagedError("there is another batch")
        except DamagedError as error:
            raise DamagedError(
                f"{self._store}: batch {sequence}, segment {segment}, offset {offset}: {error}"
            ) from None
        return header

    async def wait_past(self, sequence: int) -> Position:
        """See `BatchLog.wait_past`."""
        while self._tail.sequence <= sequence:
            self._require_open()
            await self._advanced.wait()
        return self._tail

    async def segments(self, first: int = 0) -> list[SegmentInfo]:
        """See `BatchLog.segments`."""
        manifest, end = self._log.manifest, self._log.end
        start = manifest.sealed[-1].last + 1 if manifest.sealed else 1
        found = [SegmentInfo(manifest.active, start, self._tail.sequence, end, sealed=False)]
        for sealed in reversed(manifest.sealed):
            if sealed.last < first:
                break
            found.append(SegmentInfo(sealed.number, sealed.first, sealed.last, sealed.length, sealed=True))
        return found[::-1]

    async def free_bytes(self) -> int:
        """See `BatchLog.free_bytes`."""
        return self._log.free_bytes()

    # -- documents

    async def document(self, name: str) -> tuple[bytes, int]:
        """See `BatchLog.document`."""
        self._require_open()
        return await threads.run(self._read_document, self._document_path(name))

    async def put_document(self, name: str, data: bytes, expected: int, token: int) -> int:
        """See `BatchLog.put_document`."""
        path = self._document_path(name)
        if name == HEADER:
            raise ReadOnlyError("the header of a chain never changes")
        if len(data) > MAX_DOCUMENT:
            raise LimitError(f"a document of {len(data)} bytes is larger than {MAX_DOCUMENT}")
        async with self._turn:
            self._require_open()
            self._require_writable(token)
            await self._in_thread(lambda: self._replace_document(path, data, expected))
        return _generation(data)

    def _document_path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidError(f"{name!r} is not the name of a document")
        return self._store / name if name in (HEADER, KEYS) else self._store / DOCUMENTS / name

    def _read_document(self, path: Path) -> tuple[bytes, int]:
        if not path.exists():
            return b"", 0
        data = self._disk.read_bytes(path)
        return data, _generation(data)

    def _replace_document(self, path: Path, data: bytes, expected: int) -> None:
        if self._read_document(path)[1] != expected:
            raise StaleDocumentError(f"the document {path.name!r} was replaced meanwhile; nothing was changed")
        if path.parent != self._store and not path.parent.exists():
            self._disk.make_folder(path.parent)
        self._disk.replace(path, data)

    async def aclose(self) -> None:
        """See `BatchLog.aclose`."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                if self._closed:
                    return
                self._closed = True
                self._advanced.set()
                self._advanced = trio.Event()
                await self._in_thread(self._close)

    def _close(self) -> None:
        try:
            if self._failed is None:
                with contextlib.suppress(NoSpaceError):
                    self._note()
                    self._log.trim()
        finally:
            self._undo.close()


def _link(frame: bytes) -> tuple[int, bytes, bytes]:
    """The sequence of a full frame, its hash, and that of the batch before it. Raises InvalidError."""
    try:
        header = FrameHeader.decode(frame)
        if header.length != len(frame) or header.flags:
            raise DamagedError("it is not a whole frame")
        data = frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + header.head]
        head = BatchHead.decode(data)
    except DamagedError as error:
        raise InvalidError(f"this is not a batch: {error}") from None
    return head.sequence, batch_hash(data), head.previous


def _generation(data: bytes) -> int:
    """A number that tells contents apart."""
    return int.from_bytes(digest(data)[:8], "big") >> 1 or 1
