"""The blind index of one chain: of each object the newest version, and which bytes of the log are still needed.

It holds nothing that the log does not, knows no keys, and is thrown away and rebuilt when it is missing, damaged or
not about this log. New rows gather in memory and are folded into LMDB now and then, always behind the log. LMDB has no
checksums, and a damaged file can end the process; so the file's hash is kept beside it and compared at opening.
"""

from __future__ import annotations

import shutil
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from atedb.chain.disk import Disk
from atedb.chain.format import EVENT_SIZE, TOMBSTONE
from atedb.chain.frame import Frame
from atedb.chain.note import load_note, save_note
from atedb.chain.position import START, Position
from atedb.crypto.hashing import Hasher, digest
from atedb.engine.interface import SegmentInfo
from atedb.errors import AteError, DamagedError, InvalidError, NoSpaceError, StorageError

FOLD_ROWS = 8192
"""Rows that gather in memory before they are folded, about 2 MiB; in a large index one for each FOLD_SHARE objects."""
FOLD_SHARE = 64
MAP_SIZE = 32 << 30
_FORMAT = 1
_STATE = b"state"
_PIECE = 4 << 20
_ROW = struct.Struct("<QQIBB")


class Row(NamedTuple):
    """The newest event of an object. length: of its sealed body; flags: those of the event."""

    version: int
    sequence: int
    length: int
    lane: int
    flags: int


class LaneUse(msgspec.Struct, array_like=True):
    """Of one lane: bytes of events that are the newest of their object, and of all, with their rows in the tables."""

    live: int = 0
    total: int = 0


class SegmentUse(msgspec.Struct, array_like=True):
    """What of a segment is still needed. first: sequence of its first batch; lanes: meta, blob."""

    number: int
    first: int
    lanes: tuple[LaneUse, LaneUse]


class IndexState(msgspec.Struct):
    """What the index shows: the newest batch (sequence, hash), certified devices, segments, live objects by lane."""

    format: int
    chain: bytes
    sequence: int
    hash: bytes
    devices: dict[bytes, bytes]
    segments: list[SegmentUse]
    objects: list[int]

    def copy(self) -> IndexState:
        """An independent copy."""
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self), type=IndexState)


class _Seal(msgspec.Struct, frozen=True):
    """The hash of the index's file after the fold that ended with a batch."""

    sequence: int
    hash: str


class _Unusable(AteError):
    """The index is missing, damaged or another chain's: it is made anew."""


def index_folder(folder: Path, path: str) -> Path:
    """Where the index of the chain with this path ("/you@example.com/vault") lies, below the folder of all indexes."""
    return folder / digest(path.encode())[:16].hex()


class Draft:
    """What batches that are not durable yet would change. Made by `Index.draft`, given to `Index.apply`.

    uses: by sequence of the batch whose events they are: live and all bytes on the meta lane, then on the blob lane.
    live: by how much the live bytes change.
    """

    def __init__(self, index: Index, below: Draft | None = None) -> None:
        self._index = index
        self._below = below
        self.rows: dict[bytes, Row] = {}
        self.devices: dict[bytes, bytes] = dict(below.devices if below is not None else index.state.devices)
        self.at: Position = below.at if below is not None else index.position
        self.objects = [0, 0]
        self.uses: dict[int, list[int]] = {}
        self.live = 0

    def fork(self) -> Draft:
        """A draft on top of this one, to be joined or thrown away."""
        return Draft(self._index, self)

    def join(self, fork: Draft) -> None:
        """Take up what a fork has."""
        self.rows.update(fork.rows)
        self.devices, self.at = fork.devices, fork.at
        self.objects = [sum(pair) for pair in zip(self.objects, fork.objects, strict=True)]
        for sequence, use in fork.uses.items():
            own = self.uses.get(sequence)
            self.uses[sequence] = use if own is None else [sum(pair) for pair in zip(own, use, strict=True)]
        self.live += fork.live

    def get(self, key: bytes) -> Row | None:
        """The newest event of an object."""
        row = self.rows.get(key)
        if row is None:
            row = self._below.get(key) if self._below is not None else self._index.get(key)
        return row

    def add(self, frame: Frame) -> None:
        """One batch more. Raises InvalidError where an object's version does not rise: the draft is of no use then."""
        sequence = frame.head.sequence
        for event in frame.events:
            old = self.get(event.key)
            if old is not None and event.version <= old.version:
                raise InvalidError(
                    f"batch {sequence}: object {event.key.hex()} has version {old.version} already, not {event.version}"
                )
            row = Row(event.version, sequence, event.length, event.lane, event.flags)
            self._account(old, row)
            self.rows[event.key] = row
        self.at = Position(sequence, frame.hash)

    def _account(self, old: Row | None, row: Row) -> None:
        size = row.length + EVENT_SIZE
        use = self.uses.setdefault(row.sequence, [0, 0, 0, 0])
        use[2 * row.lane] += size
        use[2 * row.lane + 1] += size
        self.live += size
        if not row.flags & TOMBSTONE:
            self.objects[row.lane] += 1
        if old is not None:
            gone = old.length + EVENT_SIZE
            self.uses.setdefault(old.sequence, [0, 0, 0, 0])[2 * old.lane] -= gone
            self.live -= gone
            if not old.flags & TOMBSTONE:
                self.objects[old.lane] -= 1


class Index:
    """Used by one task at a time, but for `Fold.write`. Opening, folding and much `Draft.add` block."""

    def __init__(self, disk: Disk, folder: Path, chain_id: bytes) -> None:
        """The index of a chain in `folder`, as it was folded last; an empty one if that cannot be used."""
        self._disk = disk
        self._folder = folder
        self._chain_id = chain_id
        self._folded = 0
        self._fresh: dict[bytes, Row] = {}
        self._frozen: dict[bytes, Row] = {}
        try:
            self._open(self._sealed())
        except (_Unusable, AteError, OSError):
            self.clear()

    @property
    def position(self) -> Position:
        """The newest batch that the index shows."""
        return Position(self.state.sequence, self.state.hash)

    @property
    def has_news(self) -> bool:
        """Whether there is anything that the file does not have."""
        return self.state.sequence != self._folded

    def _sealed(self) -> int:
        seal = load_note(self._disk, self._folder / "seal", _Seal)
        if seal is None or seal.hash != _hash_file(self._folder / "data.mdb"):
            raise _Unusable("it is not what was written")
        return seal.sequence

    def _open(self, sequence: int) -> None:
        try:
            self._env = lmdb.open(str(self._folder), map_size=MAP_SIZE, max_dbs=1, mode=0o600)
        except lmdb.Error as error:
            raise _Unusable(str(error)) from None
        try:
            self._rows = self._env.open_db(b"objects")
            self._txn = self._env.begin()
            data = self._txn.get(_STATE)
            if data is None:
                raise _Unusable("it has no state")
            self.state = msgspec.msgpack.decode(data, type=IndexState)
            if (self.state.format, self.state.chain, self.state.sequence) != (_FORMAT, self._chain_id, sequence):
                raise _Unusable("it is another chain's or another time's")
            self._folded = sequence
        except (lmdb.Error, msgspec.DecodeError, _Unusable) as error:
            self._env.close()
            raise _Unusable(str(error)) from None

    def clear(self) -> None:
        """Begin anew, with the state before the first batch. Raises StorageError, NoSpaceError."""
        if hasattr(self, "_txn"):
            self.close()
        self._fresh, self._frozen = {}, {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._disk.make_folder(self._folder)
        self.state = IndexState(_FORMAT, self._chain_id, *START, {}, [], [0, 0])
        try:
            with lmdb.open(str(self._folder), map_size=MAP_SIZE, max_dbs=1, mode=0o600) as env:
                env.open_db(b"objects")
                with env.begin(write=True) as txn:
                    txn.put(_STATE, msgspec.msgpack.encode(self.state))
        except lmdb.Error as error:
            raise _failure(error) from None
        save_note(self._disk, self._folder / "seal", _Seal(0, _hash_file(self._folder / "data.mdb")))
        self._open(0)

    def get(self, key: bytes) -> Row | None:
        """The newest event of an object, tombstones included."""
        row = self._fresh.get(key) or self._frozen.get(key)
        if row is None:
            data = self._txn.get(key, db=self._rows)
            row = Row(*_ROW.unpack(data)) if data is not None else None
        return row

    def rows(self) -> Iterator[tuple[bytes, Row]]:
        """All objects, in order of their keys, as the file has them: what was not folded is left out."""
        with self._txn.cursor(db=self._rows) as cursor:
            for key, data in cursor:
                yield bytes(key), Row(*_ROW.unpack(data))

    def draft(self) -> Draft:
        """For the batches that come next."""
        return Draft(self)

    def apply(self, draft: Draft, segments: Sequence[SegmentInfo]) -> None:
        """Take up what is durable now. segments: at least those that the draft's batches are in, in order."""
        state = self.state
        for segment in segments:
            if not state.segments or segment.number > state.segments[-1].number:
                state.segments.append(SegmentUse(segment.number, segment.first, (LaneUse(), LaneUse())))
        firsts = [segment.first for segment in state.segments]
        for sequence, (meta_live, meta, blob_live, blob) in draft.uses.items():
            lanes = state.segments[bisect_right(firsts, sequence) - 1].lanes
            lanes[0].live += meta_live
            lanes[0].total += meta
            lanes[1].live += blob_live
            lanes[1].total += blob
        self._fresh.update(draft.rows)
        state.devices = draft.devices
        state.objects = [sum(pair) for pair in zip(state.objects, draft.objects, strict=True)]
        state.sequence, state.hash = draft.at

    # -- folding

    def fold_due(self) -> bool:
        """Whether enough has gathered in memory."""
        return len(self._fresh) >= max(FOLD_ROWS, sum(self.state.objects) // FOLD_SHARE)

    def begin_fold(self) -> Fold:
        """Set aside what is new; then run `Fold.write` in any thread, then `end_fold`. One at a time."""
        self._frozen, self._fresh = self._fresh, {}
        return Fold(self, self._frozen, self.state.copy())

    def end_fold(self, *, written: bool) -> None:
        """Forget what was set aside; or take it back, when it could not be written."""
        if not written:
            self._fresh = {**self._frozen, **self._fresh}
        self._frozen = {}
        self._txn.abort()
        self._txn = self._env.begin()

    def write(self, rows: dict[bytes, Row], state: IndexState) -> None:
        """Write rows and state into the file, durably, and seal it. Raises StorageError, NoSpaceError."""
        try:
            with self._env.begin(write=True) as txn:
                with txn.cursor(db=self._rows) as cursor:
                    cursor.putmulti((key, _ROW.pack(*row)) for key, row in sorted(rows.items()))
                txn.put(_STATE, msgspec.msgpack.encode(state))
        except lmdb.Error as error:
            raise _failure(error) from None
        seal = _Seal(state.sequence, _hash_file(self._folder / "data.mdb"))
        save_note(self._disk, self._folder / "seal", seal)
        self._folded = state.sequence

    def fold(self) -> None:
        """All three steps in one go."""
        fold = self.begin_fold()
        written = False
        try:
            fold.write()
            written = True
        finally:
            self.end_fold(written=written)

    def close(self) -> None:
        """Release the file; what was not folded is found in the log again."""
        self._txn.abort()
        self._env.close()


class Fold:
    """One fold of what is new into the file."""

    def __init__(self, index: Index, rows: dict[bytes, Row], state: IndexState) -> None:
        self._index = index
        self._rows = rows
        self._state = state

    def write(self) -> None:
        """Any thread. Raises StorageError, NoSpaceError."""
        self._index.write(self._rows, self._state)


def _failure(error: lmdb.Error) -> AteError:
    if isinstance(error, lmdb.DiskError | lmdb.MapFullError):
        return NoSpaceError("the disk is full: an index could not be written; the chain is kept; free some space")
    return StorageError(f"an index could not be written: {error}; the chain is kept; check the disk")


def _hash_file(path: Path) -> str:
    """The file's hash; read, not mapped, so that it does not count as this process's memory."""
    state = Hasher()
    buffer = memoryview(bytearray(_PIECE))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                state.update(buffer[:count])
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from None
    return state.digest().hex()
