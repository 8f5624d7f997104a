"""Verification of a whole log, without its lock and without changing anything: a list of all damage, not the first.

Each layer raises on what it finds; the walk collects, finds the next frame that verifies, and goes on. With the root
key, and as long as nothing is damaged, the log is replayed into a view in a temporary folder, so that the live objects
are compared with what each batch claims of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from atedb.chain.device import load_device
from atedb.chain.disk import Disk, File, RealDisk
from atedb.chain.event import Lane
from atedb.chain.format import SEGMENT_HEADER_SIZE, SegmentHeader
from atedb.chain.frame import Frame, find_frames, read_frame, verify_frame_signature
from atedb.chain.header import load_header, verify_root
from atedb.chain.heads import RememberedHeads, rolled_back
from atedb.chain.journal import Journal
from atedb.chain.lock import holder
from atedb.chain.log import segment_path
from atedb.chain.manifest import NAME as MANIFEST
from atedb.chain.manifest import Manifest, SealedSegment, load_manifest
from atedb.chain.recovery import Progress, is_zero
from atedb.chain.remote import NAME as REMOTE
from atedb.chain.remote import load_remote
from atedb.chain.report import Damage, Tail, VerifyReport
from atedb.chain.shadow import Shadow
from atedb.chain.view import ViewUnusableError, sealed_checkpoint, view_place
from atedb.chain.walk import BatchOpener, Gap, buffered, read_body, reader, segment_numbers, verify_padding, walk
from atedb.crypto.keys import KeyRing
from atedb.crypto.slot_file import NAMES, SlotTable
from atedb.errors import AteError, DamagedError, StorageError, UnsupportedError

TRIES = 5
"""How often a log is read in which a rebase moves batches meanwhile, before what does not fit counts as damage."""


def verify_log(
    store: Path, root: bytes | None, *, data: bool, heads: Path | None = None, progress: Progress | None = None,
    disk: Disk | None = None, stored: int | None = None,
) -> VerifyReport:  # fmt: skip
    """Verify the chain in the folder `store`; it may be in use meanwhile.

    root: the tenant's root key, to open seals and to compare the live set; without it, hashes and signatures are
    verified. data: read all bodies, not only the frames' heads and tables. heads: folder of the remembered heads.
    progress: called with bytes done and in all. stored: of a store that a server keeps for others, the newest batch
    that it knows to be durable. The report lists all damage of the log. Raises StoreNotFoundError, UnsupportedError,
    and DamagedError when the chain's header is damaged or the root key is another chain's.
    """
    disk = disk or RealDisk()
    for tries in reversed(range(TRIES)):
        before = _moves(disk, store)
        verification = _Verification(disk, store, root, data=data, heads=heads, progress=progress)
        try:
            report = verification.run(stored)
        finally:
            verification.close()
        if not (report.damage or report.tail) or not tries or _moves(disk, store) == before:
            break
    return report


def _moves(disk: Disk, store: Path) -> list[bytes]:
    """What tells whether the chain's owner has put other batches into the place of some, or into other segments."""
    there = disk.names(store)
    return [disk.read_bytes(store / name) for name in (MANIFEST, REMOTE) if name in there]


class _Verification:
    """Where one verification is in the chain, and what it has found."""

    def __init__(
        self, disk: Disk, store: Path, root: bytes | None, *, data: bool, heads: Path | None, progress: Progress | None
    ) -> None:
        self._disk = disk
        self._store = store
        self._data = data
        self._progress = progress
        header = load_header(disk, store)
        self._chain_id = header.chain_id
        self._root_public = bytes.fromhex(header.root_public)
        self._keys: KeyRing | None = None
        if root is not None:
            verify_root(header, root)
            self._keys = KeyRing(root, header.chain_id, header.suite)
        self._seen = RememberedHeads(disk, heads).recall(header.chain_id) if heads else None
        self.report = VerifyReport(str(store), header.chain_id.hex(), holder(store))
        self._devices: dict[bytes, bytes] = {}
        self._uncertified: set[bytes] = set()
        self._checkpoint = 0
        self._sequence = 0
        self._head: bytes | None = bytes(32)  # None: not known, after damage
        self._number = 0
        self._offset = SEGMENT_HEADER_SIZE
        self._last_gap: Damage | None = None
        self._shadow: Shadow | None = None
        self._remote = load_remote(disk, store)
        if self._keys is not None and self._remote is None:
            self._seen = Journal(disk, store, self._keys).vouched(self._seen)
        self._own = b""
        self._done = 0

    def close(self) -> None:
        """Remove the temporary view."""
        if self._shadow is not None:
            self._shadow.close()

    def run(self, stored: int | None) -> VerifyReport:
        """All of it."""
        if stored is None:
            self._check_slots()
        else:
            self._checkpoint = stored
        if self._keys is not None:
            self._check_view(self._keys)
            self._shadow = Shadow(self._disk, self._keys, self._root_public, slim=self._remote is not None)
            own = load_device(self._disk, self._store, self._keys)
            if own is not None:  # as good as certified: the root key sealed it
                self._devices[own.public] = b""
                self._own = own.public
        self._walk_all()
        self._check_end()
        report = self.report
        report.replayed = self._shadow is not None and not report.damage
        return report

    # -- what lies beside the log

    def _check_slots(self) -> None:
        for name in NAMES:
            try:
                SlotTable.parse((self._store / name).read_bytes(), name)
            except FileNotFoundError:
                self._remark(f"the file `{name}` with the key slots is missing")
            except (DamagedError, UnsupportedError) as error:
                self._remark(str(error))
            except OSError as error:
                self._remark(f"the file `{name}` cannot be read: {error.strerror}")

    def _check_view(self, keys: KeyRing) -> None:
        if holder(self._store) is not None:
            return  # its owner may be writing the view, and has compared it when the chain was opened
        try:
            self._checkpoint = sealed_checkpoint(view_place(self._disk, self._store, keys))
        except ViewUnusableError as error:
            self._remark(f"the view is rebuilt when the chain is opened next: {error}")

    def _manifest(self) -> Manifest | None:
        try:
            manifest = load_manifest(self._disk, self._store)
            if manifest.chain != self._chain_id.hex():
                raise DamagedError("it is another chain's")
        except (DamagedError, StorageError) as error:
            self._remark(f"the manifest is made anew when the chain is opened next: {error}")
            return None
        return manifest

    def _remark(self, text: str) -> None:
        if text not in self.report.remarks:
            self.report.remarks.append(text)

    # -- segments

    def _walk_all(self) -> None:
        """Walk what there is now; what the chain's owner adds meanwhile may be left out."""
        manifest, there, wanted = self._segments()
        sealed = {s.number: s for s in manifest.sealed} if manifest else {}
        self.report.segments = len(wanted)
        self.report.bytes = sum(segment_path(self._store, n).stat().st_size for n in wanted if n in there)
        for number in wanted:
            if number in there:
                self._walk_segment(number, sealed.get(number), active=number == wanted[-1])
            else:
                self._last_gap = self._damage(number, 0, 0, "the file is missing")
            if number in sealed:
                self._check_sealed_end(sealed[number])

    def _segments(self) -> tuple[Manifest | None, list[int], list[int]]:
        """The manifest, the numbers of the segments that are there, and of those that the chain consists of."""
        while True:
            manifest = self._manifest()
            left = self._leftovers()
            there = [n for n in segment_numbers(self._disk, self._store) if n not in left]
            if manifest is None:
                return None, there, there or [1]
            newer = [n for n in there if n > manifest.active and self._has_frames(n)]
            if self._manifest() == manifest:  # else a new segment was begun meanwhile
                break
        if newer:
            self._remark("the manifest is older than the segments; it is made anew when the chain is opened next")
        return manifest, there, sorted({*(s.number for s in manifest.sealed), manifest.active, *newer})

    def _leftovers(self) -> list[int]:
        """Segments that are there because a rebase was cut short."""
        with contextlib.suppress(DamagedError, StorageError):
            return self._remote.leftovers()[0] if self._remote is not None else []
        return []

    def _longer(self) -> int:
        """The segment whose end a rebase has replaced, and that may still be there; 0 for none."""
        with contextlib.suppress(DamagedError, StorageError):
            longer = self._remote.leftovers()[1] if self._remote is not None else None
            return longer.number if longer is not None else 0
        return 0

    def _has_frames(self, number: int) -> bool:
        with contextlib.suppress(AteError), contextlib.closing(self._open(number)) as file:
            frames = find_frames(reader(file), SEGMENT_HEADER_SIZE, file.size(), bodies=False)
            return next(frames, None) is not None
        return False

    def _open(self, number: int) -> File:
        return self._disk.open(segment_path(self._store, number))

    def _walk_segment(self, number: int, sealed: SealedSegment | None, *, active: bool) -> None:
        try:
            file = self._open(number)
        except AteError as error:
            self._damage(number, 0, 0, str(error))
            return
        with contextlib.closing(file):
            self._number, self._offset = number, SEGMENT_HEADER_SIZE
            self._check_header(number, file)
            size = file.size()
            end = min(size, sealed.length) if sealed else size
            if sealed and size != sealed.length and not (size > sealed.length and number == self._longer()):
                self._damage(number, end, abs(size - sealed.length), f"it has {size} bytes, not {sealed.length}")
            self._walk_frames(number, file, end, active=active)
        self._done += end

    def _check_header(self, number: int, file: File) -> None:
        try:
            header = SegmentHeader.decode(bytes(reader(file)(0, SEGMENT_HEADER_SIZE)))
            if header.number != number or header.chain_id != self._chain_id:
                raise DamagedError("the file is not where it was written")
        except DamagedError as error:
            self._damage(number, 0, SEGMENT_HEADER_SIZE, str(error))
            return
        if header.first > self._sequence + 1:
            self._missing(header.first - 1, number, 0)
            self._head = header.previous
        elif header.first <= self._sequence or header.previous != (self._head or header.previous):
            self._damage(number, 0, SEGMENT_HEADER_SIZE, f"it does not follow batch {self._sequence}")

    def _check_sealed_end(self, sealed: SealedSegment) -> None:
        if self._sequence < sealed.last:
            self._missing(sealed.last, sealed.number, sealed.length)
            self._head = bytes.fromhex(sealed.head)
        elif self._sequence == sealed.last and (self._head or b"").hex() not in ("", sealed.head):
            self._damage(sealed.number, sealed.length, 0, f"it ends with another batch {sealed.last}")

    def _walk_frames(self, number: int, file: File, end: int, *, active: bool) -> None:
        read = reader(file)
        for item in walk(read, self._offset, end):
            if active and self._is_tail(item, number, file, end):
                return
            if isinstance(item, Gap):
                self._last_gap = self._damage(number, item.offset, item.end - item.offset, item.why, item.keys)
                self._offset = item.end
            else:
                self._take(item, number, file)
                self._offset = item.end
            if self._progress:
                self._progress(self._done + self._offset, self.report.bytes)

    def _is_tail(self, item: Frame | Gap, number: int, file: File, end: int) -> bool:
        """Whether nothing but what was never acknowledged follows; notes it. As recovery judges, which cuts it off."""
        if isinstance(item, Gap) and is_zero(file, item.offset, end):
            return True
        expected = self._sequence + 1
        if self._checkpoint >= expected or (self._seen is not None and self._seen.sequence >= expected):
            return False
        with contextlib.suppress(DamagedError):
            frame = read_frame(reader(file), item.offset, bodies=True)
            verify_frame_signature(frame, self._devices, self._root_public, self._chain_id)
            return isinstance(item, Gap)  # it was being written just now: what follows is not looked at
        later = (f.head for f in find_frames(reader(file), item.offset, end) if f.head.sequence > expected)
        if any(head.durable >= expected for head in later if self._remote is None or head.device == self._own):
            return False
        self.report.tail = Tail(number, item.offset, end - item.offset)
        return True

    # -- frames

    def _take(self, frame: Frame, number: int, file: File) -> None:
        """One frame that verifies by itself."""
        head = frame.head
        if not self._signed(frame, number):
            return
        if head.sequence <= self._sequence:
            self._damage(number, frame.offset, frame.header.length, f"batch {head.sequence} is out of place")
            return
        if head.sequence > self._sequence + 1:
            self._missing(head.sequence - 1, number, frame.offset)
        elif self._head is not None and head.previous != self._head:
            self._damage(
                number, frame.offset, frame.header.length, f"batch {head.sequence} follows another than the last"
            )
        self._sequence, self._head, self._last_gap = head.sequence, frame.hash, None
        self.report.sequence, self.report.head = head.sequence, frame.hash.hex()
        self.report.batches += 1
        self.report.events += len(frame.events)
        if self._seen is not None and self._seen.sequence == head.sequence and self._seen.hash != frame.hash.hex():
            self.report.rolled_back = str(rolled_back(self._seen, head.sequence))
        if self._data:
            self._check_bodies(frame, number, file)
        if self._shadow is not None and not self.report.damage:
            self._check_claim(self._shadow, frame, number, file)

    def _signed(self, frame: Frame, number: int) -> bool:
        """Whether the frame can be believed."""
        device = frame.head.device
        try:
            verify_frame_signature(frame, self._devices, self._root_public, self._chain_id)
        except DamagedError as error:
            unknown = device not in self._devices
            if unknown and device in self._uncertified:
                return True  # said once: its certificate is in a batch that is lost
            keys = [event.key for event in frame.events]
            found = self._damage(number, frame.offset, frame.header.length, str(error), keys)
            if not unknown:
                self._last_gap = found
                return False
            self._uncertified.add(device)
        return True

    def _check_bodies(self, frame: Frame, number: int, file: File) -> None:
        read = buffered(reader(file), frame)
        try:
            opener = BatchOpener(self._keys, frame.head) if self._keys else None
        except AteError as error:
            self._damage(number, frame.offset, frame.header.length, str(error), [e.key for e in frame.events])
            return
        # While the log is replayed, the replay opens the meta lane.
        replaying = not self.report.damage
        for event, at in frame.bodies():
            if at is None:
                continue
            self.report.bodies += 1
            try:
                body = read_body(read, event, at)
                if opener is not None:
                    self.report.seals += 1
                    if event.lane == Lane.BLOB or not replaying:
                        opener.open(event, body)
            except DamagedError as error:
                self._damage(number, at, event.length, str(error), [event.key])
        try:
            verify_padding(read, frame)
        except DamagedError as error:
            self._damage(number, frame.offset, frame.header.length, str(error))

    def _check_claim(self, shadow: Shadow, frame: Frame, number: int, file: File) -> None:
        try:
            shadow.apply(frame, number, file)
        except AteError as error:
            keys = [event.key for event in frame.events]
            self._damage(number, frame.offset, frame.header.length, str(error), keys)

    def _check_end(self) -> None:
        if self._sequence < self._checkpoint:
            self._missing(self._checkpoint, self._number, self._offset)
        if self._seen is None or self._sequence >= self._seen.sequence:
            return
        if self.report.damage:
            self._missing(self._seen.sequence, self._number, self._offset)
        else:
            self.report.rolled_back = str(rolled_back(self._seen, self._sequence))

    # -- findings

    def _damage(self, segment: int, offset: int, length: int, why: str, keys: Sequence[bytes] = ()) -> Damage:
        found = Damage(segment, offset, length, why)
        found.name(keys)
        self.report.damage.append(found)
        return found

    def _missing(self, last: int, number: int, offset: int) -> None:
        """Batches up to `last` are not there: because of the gap before, or, without one, taken out cleanly."""
        place = self._last_gap or self._damage(number, offset, 0, "batches are missing here")
        place.missing.append((self._sequence + 1, last))
        self._sequence, self._head = last, None
