"""The log of a chain: numbered segment files, one of them growing.

The log knows frames only as bytes. One thread appends at a time, any may read, and any may wait at the barrier.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from atedb.chain.disk import Buffer, Disk, File
from atedb.chain.format import FORMAT_VERSION, SEGMENT_HEADER_SIZE, SegmentHeader
from atedb.chain.manifest import Manifest, SealedSegment
from atedb.errors import AteError, DamagedError

FOLDER = "segments"
SEGMENT_TARGET = 256 << 20
MAX_OPEN = 64
JOIN_MOST = 8 << 20
"""Bytes that are worth writing a second time, so that they need no segment of their own."""

# Space written as zeros ahead of the log's end: a barrier then flushes data only, and the filesystem's journal is
# left alone. It doubles every time it is used up by small synced appends, and is not used by large ones.
ZERO_AHEAD_FIRST = 256 << 10
ZERO_AHEAD_MOST = 4 << 20
_ZEROS = bytes(1 << 20)

# From this size on the device begins to write a frame at once, while the next is sealed, and not at the next barrier.
# Asking for that waits where the device's queue is full, hence the thread. What was pushed before and is on the device
# by now leaves the page cache: it is cached in the clear by the kernel, and fresh pages are dear on a virtual machine.
PUSH_FROM = 1 << 20
PUSH_BEHIND = 64 << 20


def segment_path(store: Path, number: int) -> Path:
    """Where segment `number` lies."""
    return store / FOLDER / f"{number:08d}.seg"


class Log:
    """Append, barrier, read. `end` is where the next frame goes in the active segment."""

    def __init__(self, disk: Disk, store: Path, manifest: Manifest, *, end: int, read_only: bool = False) -> None:
        self._disk = disk
        self._store = store
        self.manifest = manifest
        self.end = end
        self.appends = 0
        self.barriers = 0
        self._zeroed = end
        self._zero_ahead = ZERO_AHEAD_FIRST
        self._since_barrier = 0
        self._active = disk.open(segment_path(store, manifest.active), writable=not read_only)
        self._sealed: OrderedDict[int, File] = OrderedDict()
        self._opening = threading.Lock()
        self._writing = threading.Lock()
        self._pusher = ThreadPoolExecutor(1, "push")
        self._published = True

    @classmethod
    def create(cls, disk: Disk, store: Path, chain_id: bytes) -> Log:
        """A log with one empty segment."""
        disk.make_folder(store / FOLDER)
        _new_segment(disk, store, SegmentHeader(1, chain_id, 1, bytes(32))).close()
        manifest = Manifest(FORMAT_VERSION, chain_id.hex(), 1, [])
        manifest.save(disk, store)
        return cls(disk, store, manifest, end=SEGMENT_HEADER_SIZE)

    @classmethod
    def draft(cls, disk: Disk, store: Path, manifest: Manifest, first: int, previous: bytes) -> Log:
        """A log whose segments from the active one on are new, and count once `publish` has returned.

        first: the sequence of the batch that comes next; previous: the hash of the one before it.
        """
        header = SegmentHeader(manifest.active, bytes.fromhex(manifest.chain), first, previous)
        _new_segment(disk, store, header).close()
        log = cls(disk, store, manifest, end=SEGMENT_HEADER_SIZE)
        log._published = False
        return log

    def publish(self) -> None:
        """Make a draft the store's log, durably and all at once. Raises StorageError, NoSpaceError."""
        self._active.sync()
        self._published = True
        self._save(self.manifest)

    @property
    def joinable(self) -> bool:
        """Whether `join` is worth it: all is short and in one segment then, for which the one before has room."""
        length = self.end - SEGMENT_HEADER_SIZE
        before = self.manifest.sealed[-1] if self.manifest.sealed else None
        return before is not None and length <= JOIN_MOST and before.length + length <= SEGMENT_TARGET

    def join(self, old: Log) -> int:
        """Move the active segment's frames behind those of the segment before it, which is the active one again.

        old: the log in which it is the active one, with another end: what is zeroed behind that stays so. Returns by
        how many bytes the frames have moved. Durable and all at once: until the manifest says so, what is written
        behind the other segment's end does not count. The file of the segment that was active is left to be removed.
        Raises StorageError, NoSpaceError: all is as before then, unless the manifest was replaced.
        """
        *kept, before = self.manifest.sealed
        moved = before.length - SEGMENT_HEADER_SIZE
        file = self._disk.open(segment_path(self._store, before.number), writable=True)
        try:
            frames = self._active.read(self.end - SEGMENT_HEADER_SIZE, SEGMENT_HEADER_SIZE)
            end = self.end + moved
            zeroed = max(end, old._zeroed)
            file.write([frames, bytes(max(0, old.end - end))], before.length)
            file.truncate(zeroed)
            file.sync()
            manifest = Manifest(self.manifest.format, self.manifest.chain, before.number, kept)
            self._save(manifest)
        except AteError:
            file.close()
            raise
        with self._writing, self._opening:  # files that some thread may still be reading close when it lets go of them
            self._sealed.pop(before.number, None)
            self._active, self.manifest = file, manifest
            self.end, self._zeroed, self._zero_ahead = end, zeroed, old._zero_ahead
        return moved

    def append(self, frame: Sequence[Buffer], length: int) -> tuple[int, int]:
        """Write one frame at the end; (segment, offset). On an error nothing of it remains.

        The caller rolls beforehand with `roll_if_full`.
        """
        with self._writing:
            offset = self.end
            try:
                self._active.write(frame, offset)
            except AteError:
                self._zeroed = offset
                self._active.truncate(offset)
                raise
            self.end = offset + length
            self._since_barrier += length
            if length >= PUSH_FROM:
                start = max(0, offset - PUSH_BEHIND)
                self._pusher.submit(self._active.push, start, offset + length - start)
        self.appends += 1
        return self.manifest.active, offset

    def roll_if_full(self, length: int, *, sequence: int, previous: bytes) -> None:
        """Start a new segment when `length` more bytes would pass the target size.

        sequence: of the batch that comes next; previous: the hash of the one before it.
        """
        if self.end == SEGMENT_HEADER_SIZE or self.end + length <= SEGMENT_TARGET:
            return
        self._active.truncate(self.end)
        self._active.sync()
        old = self.manifest
        header = SegmentHeader(old.active + 1, bytes.fromhex(old.chain), sequence, previous)
        fresh = _new_segment(self._disk, self._store, header)
        first = old.sealed[-1].last + 1 if old.sealed else 1
        done = SealedSegment(old.active, first, sequence - 1, self.end, previous.hex())
        manifest = Manifest(old.format, old.chain, header.number, [*old.sealed, done])
        try:
            self._save(manifest)
        except AteError:
            fresh.close()
            raise
        with self._writing, self._opening:
            self._sealed[old.active] = self._active
            self._active, self.manifest = fresh, manifest
            self.end = self._zeroed = SEGMENT_HEADER_SIZE

    def _save(self, manifest: Manifest) -> None:
        if self._published:
            manifest.save(self._disk, self._store)

    def following(self, segment: int, offset: int) -> tuple[int, int]:
        """Where the frame is that follows one which ends there: in that segment, or at the beginning of the next."""
        for sealed in self.manifest.sealed:
            if sealed.number == segment and offset < sealed.length:
                return segment, offset
            if sealed.number > segment:
                return sealed.number, SEGMENT_HEADER_SIZE
        active = self.manifest.active
        return (active, offset) if segment == active else (active, SEGMENT_HEADER_SIZE)

    def barrier(self) -> None:
        """Return once all that was appended is on stable storage."""
        with self._writing:
            small = self._since_barrier < ZERO_AHEAD_FIRST // 4
            self._since_barrier = 0
            if small and self._zeroed - self.end < ZERO_AHEAD_FIRST // 8:
                self._zero()
            active = self._active
        active.sync()
        self.barriers += 1

    def _zero(self) -> None:
        ahead = min(self._zero_ahead, SEGMENT_TARGET - self.end)
        if ahead <= 0:
            return
        self._zero_ahead = min(self._zero_ahead * 2, ZERO_AHEAD_MOST)
        start = max(self.end, self._zeroed)
        stop = self.end + ahead
        try:
            while start < stop:
                piece = _ZEROS[: stop - start]
                self._active.write([piece], start)
                start += len(piece)
        except AteError:
            return  # a full disk: the log does without
        self._zeroed = stop

    def read(self, segment: int, offset: int, length: int, *, nowait: bool = False) -> bytearray:
        """`length` bytes of a segment. Raises DamagedError when they are not there, NotResident if `nowait`."""
        file = self._file(segment)
        data = file.read_resident(length, offset) if nowait else file.read(length, offset)
        if len(data) != length:
            raise DamagedError(
                f"segment {segment} ends at {offset + len(data)}, {offset + length} was written; "
                "the rest of the vault is kept; run: atefs fsck --repair"
            )
        return data

    def _file(self, segment: int) -> File:
        with self._opening:
            if segment == self.manifest.active:
                return self._active
            file = self._sealed.get(segment)
            if file is None:
                file = self._disk.open(segment_path(self._store, segment))
                self._sealed[segment] = file
                if len(self._sealed) > MAX_OPEN:
                    self._sealed.popitem(last=False)  # a thread may be reading from it: it is closed after that
            else:
                self._sealed.move_to_end(segment)
            return file

    def free_bytes(self) -> int:
        """What the disk can still take."""
        return self._disk.free_bytes(self._store)

    def trim(self) -> None:
        """Give back, durably, what was zeroed ahead."""
        if self._zeroed > self.end:
            self._active.truncate(self.end)
            self._active.sync()
            self._zeroed = self.end

    def close(self) -> None:
        """Release all files."""
        self._pusher.shutdown(cancel_futures=True)
        for file in (self._active, *self._sealed.values()):
            file.close()


def _new_segment(disk: Disk, store: Path, header: SegmentHeader) -> File:
    path = segment_path(store, header.number)
    disk.unlink(path)  # left by a crash between its creation and the manifest that would have named it
    file = disk.create(path)
    try:
        file.write([header.encode()], 0)
        file.sync()
        disk.sync_folder(path.parent)
    except AteError:
        file.close()
        raise
    return file
