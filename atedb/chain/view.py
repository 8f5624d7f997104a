"""The materialised view of a chain: where the newest event of each object lies, and the sealed sets.

New rows gather in memory (the overlay) and are folded into LMDB at checkpoints, always behind a barrier of the log.
Thus LMDB is written seldom and in bulk, its file is at every moment the state of one checkpoint, and opening a
chain costs the log's tail only. LMDB has no checksums, and a damaged file can make it fail in ways that cannot be
caught: so the file's hash is kept beside it (`view.seal`) and compared before LMDB sees the file. What does not match
is thrown away and rebuilt from the log.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import lmdb
import msgspec

from atedb.chain.disk import Disk, translated
from atedb.chain.event import Term
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.sets import SetSealer, load_set, merge_set
from atedb.crypto.hashing import Hasher, keyed
from atedb.crypto.keys import KeyRing
from atedb.crypto.sethash import SetHash
from atedb.errors import AteError, DamagedError, NoSpaceError, StorageError

FOLDER = "view"
SEAL = "view.seal"
MAP_SIZE = 1 << 40
VIEW_FORMAT = 1
_STATE = b"state"
_PIECE = 4 << 20


class ViewUnusableError(AteError):
    """The view is missing, stale or damaged. Never reaches a user: the view is rebuilt."""


class SegmentUse(msgspec.Struct, array_like=True):
    """Bytes of a segment's events: of those still live, and of all."""

    live: int
    total: int


class ViewState(msgspec.Struct):
    """Which state of the log the view shows, and what must be known to go on from there.

    sequence, head: the newest batch and its hash. segment, offset: where the next frame is. set_total, set_count:
    the hash of the live set. devices: certified devices and their certificates.
    """

    format: int
    chain: bytes
    sequence: int
    head: bytes
    segment: int
    offset: int
    set_total: bytes
    set_count: int
    devices: dict[bytes, bytes]
    segments: dict[int, SegmentUse]
    objects: tuple[int, int]

    def advance(self, sequence: int, head: bytes, segment: int, offset: int, live: SetHash) -> None:
        """Go on to the next batch, which ends at `offset` and leaves `live`."""
        self.sequence, self.head, self.segment, self.offset = sequence, head, segment, offset
        self.set_total, self.set_count = live.total.to_bytes(16, "little"), live.count

    def copy(self) -> ViewState:
        """An independent copy."""
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self), type=ViewState)


class ViewPlace(NamedTuple):
    """Where a view lies, and how it is sealed. mac_key: 32 bytes, for `view.seal` only."""

    folder: Path
    seal: Path
    disk: Disk
    sealer: SetSealer
    mac_key: bytes


def view_place(disk: Disk, base: Path, keys: KeyRing) -> ViewPlace:
    """The place of the view of the chain of `keys`, in the folder `base`."""
    sealer = SetSealer(keys.purpose("view pages"), keys.suite)
    return ViewPlace(base / FOLDER, base / SEAL, disk, sealer, keys.purpose("view seal"))


def empty_state(chain_id: bytes) -> ViewState:
    """The state before the first batch."""
    return ViewState(VIEW_FORMAT, chain_id, 0, bytes(32), 1, SEGMENT_HEADER_SIZE, bytes(16), 0, {}, {}, (0, 0))


def sealed_checkpoint(place: ViewPlace) -> int:
    """The sequence of the checkpoint that the view's file is sealed at; LMDB is not involved. Nobody may be writing it.

    Raises ViewUnusableError: the seal is missing or forged, or the file is not the one that it was made for.
    """
    try:
        mark = _read_seal(place)
        intact = mark.hash == _hash_file(place.folder / "data.mdb")
    except (AteError, OSError, msgspec.DecodeError) as error:
        raise ViewUnusableError(str(error)) from None
    if not intact:
        raise ViewUnusableError("the view's file is not what was written, or a checkpoint was not finished")
    return mark.sequence


class Overlay:
    """Rows newer than the LMDB file."""

    __slots__ = ("batches", "records", "sets")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.batches: dict[int, bytes] = {}
        self.sets: dict[bytes, dict[bytes, bytes | None]] = {}

    def absorb(self, newer: Overlay) -> None:
        """Put a newer overlay on top of this one."""
        self.records.update(newer.records)
        self.batches.update(newer.batches)
        for group, delta in newer.sets.items():
            self.sets.setdefault(group, {}).update(delta)


class Rows(Protocol):
    """What batches are applied to: the view, or a layer over it."""

    state: ViewState

    def get(self, key: bytes) -> bytes | None:
        """The record of an object, tombstones included."""

    def put(self, key: bytes, record: bytes) -> None:
        """Set an object's record."""

    def put_batch(self, sequence: int, row: bytes) -> None:
        """Set a batch's keys."""

    def apply(self, terms: Iterable[Term]) -> None:
        """Change sealed sets."""

    def advance(self, sequence: int, head: bytes, segment: int, offset: int, live: SetHash) -> None:
        """End a batch: the rows put since the last one are its."""


class _Seal(msgspec.Struct):
    """`view.seal`: the hash of the view's file at the checkpoint of a sequence."""

    sequence: int
    hash: str


class _Pages:
    """The rows of sealed sets inside one transaction."""

    def __init__(self, txn: lmdb.Transaction, db: Any) -> None:
        self._txn = txn
        self._db = db

    def get(self, name: bytes) -> bytes | None:
        return cast("bytes | None", self._txn.get(name, db=self._db))

    def put(self, name: bytes, row: bytes) -> None:
        self._txn.put(name, row, db=self._db)

    def delete(self, name: bytes) -> None:
        self._txn.delete(name, db=self._db)


class View:
    """Rows by key. Used by one thread, except for `Checkpoint.write`."""

    def __init__(self, place: ViewPlace, *, read_only: bool) -> None:
        self._place = place
        self.read_only = read_only
        self._fresh = Overlay()
        self._frozen: Overlay | None = None
        self.reads = 0
        try:
            self._map()
            row = self._txn.get(_STATE, db=self._meta)
            if row is None:
                raise ViewUnusableError("the view has no state")
            self.state = msgspec.msgpack.decode(place.sealer.open(_STATE, row), type=ViewState)
        except (lmdb.Error, DamagedError, msgspec.DecodeError) as error:
            raise ViewUnusableError(str(error)) from None

    def _map(self) -> None:
        folder, read_only = str(self._place.folder), self.read_only
        self._env = lmdb.open(folder, map_size=MAP_SIZE, max_dbs=4, readonly=read_only, lock=not read_only, mode=0o600)
        self._objects = self._env.open_db(b"objects", create=False)
        self._batches = self._env.open_db(b"batches", create=False)
        self._sets = self._env.open_db(b"sets", create=False)
        self._meta = self._env.open_db(b"meta", create=False)
        self._txn = self._env.begin()

    def remap(self) -> None:
        """Let go of the file's pages that were touched so far, which count as this process's memory."""
        self.close()
        self._map()

    @classmethod
    def create(cls, place: ViewPlace, state: ViewState) -> View:
        """An empty view of `state`; what was at its place is removed."""
        place.disk.unlink(place.seal)
        shutil.rmtree(place.folder, ignore_errors=True)
        place.disk.make_folder(place.folder)
        try:
            with lmdb.open(str(place.folder), map_size=MAP_SIZE, max_dbs=4, mode=0o600) as env:
                for name in (b"objects", b"batches", b"sets", b"meta"):
                    env.open_db(name)
                with env.begin(write=True) as txn:
                    row = place.sealer.seal(_STATE, msgspec.msgpack.encode(state))
                    txn.put(_STATE, row, db=env.open_db(b"meta", txn=txn))
        except lmdb.Error as error:
            raise _failure("made", error) from None
        _write_seal(place, _Seal(state.sequence, _hash_file(place.folder / "data.mdb")))
        return cls(place, read_only=False)

    @classmethod
    def open(cls, place: ViewPlace, *, read_only: bool) -> View:
        """The view as its last checkpoint left it. Raises ViewUnusableError."""
        sequence = sealed_checkpoint(place)
        view = cls(place, read_only=read_only)
        if view.state.sequence != sequence:
            view.close()
            raise ViewUnusableError("the view belongs to another checkpoint")
        return view

    def get(self, key: bytes) -> bytes | None:
        """The record of an object, tombstones included."""
        row = self._fresh.records.get(key)
        if row is None and self._frozen is not None:
            row = self._frozen.records.get(key)
        if row is None:
            self.reads += 1
            row = self._txn.get(key, db=self._objects)
        return row

    def batch(self, sequence: int) -> bytes | None:
        """The keys of a batch."""
        row = self._fresh.batches.get(sequence)
        if row is None and self._frozen is not None:
            row = self._frozen.batches.get(sequence)
        if row is None:
            self.reads += 1
            row = self._txn.get(sequence.to_bytes(8, "big"), db=self._batches)
        return row

    def members(self, group: bytes) -> dict[bytes, bytes]:
        """A sealed set. Raises SealBrokenError."""
        self.reads += 1
        members = load_set(_Pages(self._txn, self._sets), self._place.sealer, group)
        for overlay in (self._frozen, self._fresh):
            for member, value in (overlay.sets.get(group) or {}).items() if overlay else ():
                if value is None:
                    members.pop(member, None)
                else:
                    members[member] = value
        return members

    def put(self, key: bytes, record: bytes) -> None:
        """Set an object's record."""
        self._fresh.records[key] = record

    def put_batch(self, sequence: int, row: bytes) -> None:
        """Set a batch's keys."""
        self._fresh.batches[sequence] = row

    def apply(self, terms: Iterable[Term]) -> None:
        """Change sealed sets."""
        sets = self._fresh.sets
        for group, member, value in terms:
            sets.setdefault(group, {})[member] = value

    def advance(self, sequence: int, head: bytes, segment: int, offset: int, live: SetHash) -> None:
        """End a batch."""
        self.state.advance(sequence, head, segment, offset, live)

    def absorb(self, newer: Overlay, state: ViewState) -> None:
        """Put rows on top of all others, which makes it the view of `state`."""
        self._fresh.absorb(newer)
        self.state = state

    @property
    def folding(self) -> bool:
        """Whether a checkpoint is under way."""
        return self._frozen is not None

    @property
    def gathered(self) -> int:
        """Objects whose rows wait for the next checkpoint; 0 while one is under way."""
        return 0 if self.folding else len(self._fresh.records)

    def relieve(self) -> None:
        """Fold all there is into the file, and let go of memory: for a long log that is replayed.

        A reader, which must not change the file, keeps it in memory.
        """
        if self.read_only:
            return
        self.begin_checkpoint().write()
        self.end_checkpoint(written=True)
        self.remap()

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Every object's key and newest record. The view must not change meanwhile."""
        overlays = [overlay.records for overlay in (self._fresh, self._frozen) if overlay is not None]
        for key, row in self._txn.cursor(db=self._objects):
            if not any(key in newer for newer in overlays):
                yield key, row
        for place, newer in enumerate(overlays):
            yield from ((key, row) for key, row in newer.items() if not any(key in o for o in overlays[:place]))

    def begin_checkpoint(self) -> Checkpoint:
        """Set the overlay aside for `Checkpoint.write`. `state` must be that of a durable log."""
        self._frozen, self._fresh = self._fresh, Overlay()
        return Checkpoint(self, self._frozen, self.state.copy())

    def end_checkpoint(self, *, written: bool) -> None:
        """Forget the overlay that was set aside; or, when it could not be written, take it back."""
        frozen, self._frozen = self._frozen, None
        if not written and frozen is not None:
            frozen.absorb(self._fresh)
            self._fresh = frozen
        self._txn.abort()
        self._txn = self._env.begin()

    def fold(self, overlay: Overlay, state: ViewState) -> None:
        """Write an overlay into LMDB, durably, and seal the file anew.

        A crash in between leaves a file without its seal: the view is rebuilt. To trust such a file would be to trust
        whoever can write to the disk.
        """
        try:
            self._place.sealer.start()
            with self._env.begin(write=True) as txn:
                with txn.cursor(db=self._objects) as cursor:
                    cursor.putmulti(sorted(overlay.records.items()))
                with txn.cursor(db=self._batches) as cursor:
                    cursor.putmulti((n.to_bytes(8, "big"), row) for n, row in sorted(overlay.batches.items()))
                pages = _Pages(txn, self._sets)
                for group, delta in overlay.sets.items():
                    merge_set(pages, self._place.sealer, group, delta)
                txn.put(_STATE, self._place.sealer.seal(_STATE, msgspec.msgpack.encode(state)), db=self._meta)
            _write_seal(self._place, _Seal(state.sequence, _hash_file(self._place.folder / "data.mdb")))
        except lmdb.Error as error:
            raise _failure("written", error) from None

    def unseal(self) -> None:
        """Have the file made anew by the next opening, unless it is sealed again. Raises StorageError."""
        self._place.disk.unlink(self._place.seal)
        self._place.disk.sync_folder(self._place.seal.parent)

    def move(self, place: ViewPlace) -> None:
        """Put the file, which must have been relieved, to another place; the seal last. Raises StorageError."""
        self.close()
        try:
            shutil.rmtree(place.folder, ignore_errors=True)
            self._place.folder.rename(place.folder)
            self._place.seal.replace(place.seal)
        except OSError as error:
            raise translated(error, f"moving the view to {place.folder}") from error
        finally:
            if place.folder.exists():
                self._place = place
            self._map()
        place.disk.sync_folder(place.folder.parent)

    def close(self) -> None:
        """Release LMDB."""
        self._txn.abort()
        self._env.close()


class Checkpoint:
    """One fold of the overlay into LMDB, which may run in a thread of its own."""

    def __init__(self, view: View, overlay: Overlay, state: ViewState) -> None:
        self._view = view
        self._overlay = overlay
        self.state = state

    def write(self) -> None:
        """Fold. Raises StorageError, NoSpaceError."""
        self._view.fold(self._overlay, self.state)


def _failure(done: str, error: lmdb.Error) -> AteError:
    if isinstance(error, lmdb.DiskError):
        return NoSpaceError(f"the store's disk is full: the view could not be {done}; the log is kept; free some space")
    return StorageError(f"the view could not be {done}: {error}; the log is kept; check the disk")


def _hash_file(path: Path) -> str:
    """The file's hash; read, not mapped, so that it does not count as this process's memory."""
    state = Hasher()
    buffer = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(buffer[:count])
    return state.digest().hex()


def _write_seal(place: ViewPlace, mark: _Seal) -> None:
    body = msgspec.json.encode(mark)
    place.disk.replace(place.seal, body + b"\n" + keyed(place.mac_key, body).hex().encode() + b"\n")


def _read_seal(place: ViewPlace) -> _Seal:
    body, _, mac = place.disk.read_bytes(place.seal).partition(b"\n")
    if mac != keyed(place.mac_key, body).hex().encode() + b"\n":
        raise ViewUnusableError("the view's seal does not verify")
    return msgspec.json.decode(body, type=_Seal)
