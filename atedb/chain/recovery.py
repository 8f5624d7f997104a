"""Opening a log: from the view's checkpoint to the newest batch, telling a torn tail from damage.

A batch that no barrier covered may be torn, missing or overtaken by a later one after a power cut: it and all after it
are cut off, since nobody was told that they were safe. What was acknowledged is never cut: a later batch that says it
was durable, or this machine's memory of the head, makes a bad frame damage, which stops the open.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from atedb.chain.apply import Replay
from atedb.chain.disk import Disk, File
from atedb.chain.format import FORMAT_VERSION, SEGMENT_HEADER_SIZE, SegmentHeader
from atedb.chain.frame import Frame, find_frames, read_frame
from atedb.chain.heads import Head, rolled_back
from atedb.chain.layer import Layer
from atedb.chain.log import FOLDER, segment_path
from atedb.chain.manifest import Manifest, SealedSegment, load_manifest
from atedb.chain.view import View
from atedb.errors import DamagedError, RolledBackError

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""

REBUILD_STEP = 16_384
_PIECE = 1 << 20
_TELL = 1 << 20
"""Bytes replayed between two reports of how far it is."""


def damage(segment: int, offset: int, why: object, objects: str = "") -> DamagedError:
    """The error for a place in the log, with what it touches."""
    touched = f" (objects {objects})" if objects else ""
    return DamagedError(
        f"segment {segment} is damaged at offset {offset}: {why}{touched}; nothing was changed; salvage the rest with: "
        "atefs fsck --repair"
    )


def read_manifest(disk: Disk, store: Path, chain_id: bytes, ignored: Collection[int] = ()) -> Manifest:
    """The store's manifest; made anew from the segments where it is damaged or older than they are.

    ignored: numbers of segments that are known to be left-overs.
    Raises DamagedError when segments are missing or cut short.
    """
    if FOLDER not in disk.names(store):
        raise damage(1, 0, "the folder with the segments is missing")
    numbers = [int(n[:-4]) for n in disk.names(store / FOLDER) if n.endswith(".seg") and n[:-4].isdigit()]
    numbers = [number for number in numbers if number not in ignored]
    try:
        manifest = load_manifest(disk, store)
        if manifest.chain != chain_id.hex():
            raise DamagedError("the manifest is another chain's")
        newer = [n for n in numbers if n > manifest.active and _has_batches(disk, store, n)]
    except DamagedError as error:
        log.warning("the manifest is made anew from the segments: %s", error)
        manifest = None
        newer = []
    if manifest is None or newer:
        manifest = _manifest_of_segments(disk, store, chain_id, numbers)
    for sealed in manifest.sealed:
        if sealed.number not in numbers:
            raise damage(sealed.number, 0, "the file is missing")
    if manifest.active not in numbers:
        raise damage(manifest.active, 0, "the file is missing")
    return manifest


def _has_batches(disk: Disk, store: Path, number: int) -> bool:
    file = disk.open(segment_path(store, number))
    try:
        read_frame(lambda offset, length: file.read(length, offset), SEGMENT_HEADER_SIZE, bodies=True)
    except DamagedError:
        return False
    finally:
        file.close()
    return True


def _manifest_of_segments(disk: Disk, store: Path, chain_id: bytes, numbers: list[int]) -> Manifest:
    headers: list[tuple[SegmentHeader, int]] = []
    for number in numbers:
        file = disk.open(segment_path(store, number))
        try:
            header = SegmentHeader.decode(bytes(file.read(SEGMENT_HEADER_SIZE, 0)))
            if header.number != number or header.chain_id != chain_id:
                raise DamagedError("the file is not where it was written")
            headers.append((header, file.size()))
        except DamagedError as error:
            raise damage(number, 0, error) from None
        finally:
            file.close()
    if not headers:
        raise damage(1, 0, "there are no segments")
    sealed = [
        SealedSegment(this.number, this.first, after.first - 1, size, after.previous.hex())
        for (this, size), (after, _) in itertools.pairwise(headers)
    ]
    return Manifest(FORMAT_VERSION, chain_id.hex(), headers[-1][0].number, sealed)


class Recovery:
    """Replays a log into a view.

    longer: number of a segment that may be longer than the manifest says, or 0: a rebase has replaced its end. device:
    whose word counts for what was durable here; None for anybody's, where all batches were written here.
    """

    def __init__(
        self, disk: Disk, store: Path, manifest: Manifest, view: View | Layer, replay: Replay, *, longer: int = 0,
        device: bytes | None = None,
    ) -> None:  # fmt: skip
        self._longer = longer
        self._device = device
        self._disk = disk
        self._store = store
        self._manifest = manifest
        self._view = view
        self._replay = replay
        self._seen: Head | None = None
        self._rebuilt = 0
        self._progress: Progress | None = None
        self._done = 0
        self._told = 0
        self._whole = 0

    def run(self, seen: Head | None, progress: Progress | None) -> int | None:
        """Replay to the newest batch. seen: the head that this machine remembers.

        Returns where a torn tail of the active segment must be cut, or None. Raises DamagedError, RolledBackError.
        """
        self._seen = seen
        state = self._view.state
        if seen is not None and seen.sequence <= state.sequence:
            self._check_seen(state.head if seen.sequence == state.sequence else self._hash_at(seen.sequence))
        self._progress = progress
        cut = self._replay_all()
        if seen is not None and seen.sequence > state.sequence:
            raise rolled_back(seen, state.sequence)
        return cut

    def _check_seen(self, found: bytes) -> None:
        if self._seen is not None and found.hex() != self._seen.hash:
            raise rolled_back(self._seen, self._view.state.sequence)

    def _hash_at(self, sequence: int) -> bytes:
        """The hash of a batch that the view's checkpoint already covers."""
        number = next((s.number for s in self._manifest.sealed if s.last >= sequence), self._manifest.active)
        file = self._disk.open(segment_path(self._store, number))
        offset = SEGMENT_HEADER_SIZE
        try:
            while True:
                frame = read_frame(lambda o, n: file.read(n, o), offset, bodies=False)
                if frame.head.sequence == sequence:
                    return frame.hash
                offset = frame.end
        except DamagedError as error:
            raise damage(number, offset, error) from None
        finally:
            file.close()

    def _replay_all(self) -> int | None:
        first = self._view.state.segment
        pending = [s for s in self._manifest.sealed if s.number >= first]
        behind = sum(s.length for s in self._manifest.sealed)
        for sealed in self._manifest.sealed:
            self._check_length(sealed)
        self._done = behind - sum(s.length for s in pending)
        self._whole = behind + self._size(self._manifest.active)
        for sealed in pending:
            self._replay_sealed(sealed)
            self._done += sealed.length
        return self._replay_active()

    def _check_length(self, sealed: SealedSegment) -> None:
        size = self._size(sealed.number)
        if size > sealed.length and sealed.number == self._longer:
            return
        if size != sealed.length:
            raise damage(sealed.number, min(size, sealed.length), f"the file has {size} bytes, not {sealed.length}")

    def _size(self, number: int) -> int:
        file = self._disk.open(segment_path(self._store, number))
        size = file.size()
        file.close()
        return size

    def _open(self, number: int) -> tuple[File, int]:
        """The segment, and where in it the next frame is."""
        state = self._view.state
        file = self._disk.open(segment_path(self._store, number))
        try:
            header = SegmentHeader.decode(bytes(file.read(SEGMENT_HEADER_SIZE, 0)))
            if header.number != number or header.chain_id != bytes.fromhex(self._manifest.chain):
                raise DamagedError("the file is not where it was written")
            if number != state.segment:
                if header.first != state.sequence + 1 or header.previous != state.head:
                    raise DamagedError(f"it begins at batch {header.first}, after {state.sequence} comes another")
                state.segment, state.offset = number, SEGMENT_HEADER_SIZE
        except DamagedError as error:
            file.close()
            raise damage(number, 0, error) from None
        return file, state.offset

    def _replay_sealed(self, sealed: SealedSegment) -> None:
        file, offset = self._open(sealed.number)
        try:
            while offset < sealed.length:
                # Bodies of sealed segments are verified when they are read: a rebuild need not touch the blobs.
                frame = read_frame(lambda o, n: file.read(n, o), offset, bodies=False)
                self._replay.verify(frame)
                self._apply(frame, sealed.number, file)
                offset = frame.end
        except RolledBackError:
            raise
        except DamagedError as error:
            raise damage(sealed.number, offset, error) from None
        finally:
            file.close()
        state = self._view.state
        if state.sequence != sealed.last or state.head.hex() != sealed.head:
            raise damage(sealed.number, offset, f"it ends at batch {state.sequence}, not {sealed.last}")

    def _replay_active(self) -> int | None:
        number = self._manifest.active
        file, offset = self._open(number)
        try:
            end = file.size()
            if end < offset:
                raise damage(
                    number, end, f"batch {self._view.state.sequence} ended at {offset}, the file has {end} bytes"
                )
            while offset < end:
                try:
                    frame = read_frame(lambda o, n: file.read(n, o), offset, bodies=True)
                    self._replay.verify(frame)
                except DamagedError as error:
                    return self._judge_tail(file, offset, end, error)
                try:
                    self._apply(frame, number, file)
                except RolledBackError:
                    raise
                except DamagedError as error:
                    raise damage(number, offset, error, _names(frame)) from None
                offset = frame.end
            return None
        finally:
            file.close()

    def _apply(self, frame: Frame, number: int, file: File) -> None:
        self._replay.apply(frame, number, file)
        if self._seen is not None and self._seen.sequence == frame.head.sequence:
            self._check_seen(frame.hash)
        self._rebuilt += len(frame.events)
        if self._rebuilt >= REBUILD_STEP:  # keeps memory flat while a long log is replayed
            self._rebuilt = 0
            self._view.relieve()
        done = self._done + frame.end
        if self._progress is not None and done - self._told >= _TELL:
            self._told = done
            self._progress(done, self._whole)

    def _judge_tail(self, file: File, offset: int, end: int, error: DamagedError) -> int | None:
        """Where to cut, or None when only zeros follow. Raises DamagedError when acknowledged bytes are gone."""
        if is_zero(file, offset, end):
            return None
        number, expected = self._manifest.active, self._view.state.sequence + 1
        later = [f for f in find_frames(lambda o, n: file.read(n, o), offset, end) if f.head.sequence > expected]
        words = [f.head.durable for f in later if self._device is None or f.head.device == self._device]
        if any(durable >= expected for durable in words):
            raise damage(number, offset, f"batch {expected} was durable and is not what was written ({error})")
        if self._seen is not None and self._seen.sequence >= expected:
            raise damage(number, offset, f"batch {expected} was acknowledged and is not what was written ({error})")
        log.warning(
            "segment %d: a torn tail of %d bytes after batch %d is cut off at offset %d; it was never acknowledged",
            number, end - offset, expected - 1, offset,
        )  # fmt: skip
        return offset


def cut_tail(disk: Disk, store: Path, segment: int, offset: int) -> None:
    """Take away, durably, what follows `offset` in a segment. Raises StorageError."""
    file = disk.open(segment_path(store, segment), writable=True)
    try:
        file.truncate(offset)
        file.sync()
    finally:
        file.close()


def is_zero(file: File, offset: int, end: int) -> bool:
    """Whether a file holds nothing but zeros between two offsets."""
    while offset < end:
        piece = file.read(min(_PIECE, end - offset), offset)
        if piece.count(0) != len(piece):
            return False
        if not piece:  # the file's owner has cut it meanwhile
            break
        offset += len(piece)
    return True


def _names(frame: Frame) -> str:
    keys = [event.key.hex() for event in frame.events]
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
