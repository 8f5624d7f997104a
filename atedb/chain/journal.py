"""What was synced and is not in the log yet: changes that the next batch will contain.

A batch costs a signature, a seal and a hash for each event, and rows of the view. Who calls fsync again and again gets
their changes sealed together, and written once, to a file of fixed size; the batch comes seconds later, and has all of
them. If the process or the power fails before, the next opening commits what is here. ZFS calls this its intent log.

A record belongs to the batch that was the newest, and durable, when it was written: once there is another one, it is
not valid any more, and the next record takes its place. docs/formats.md has the layout.
"""

from __future__ import annotations

import logging
import mmap
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from atedb.chain.disk import Disk, ThroughFile
from atedb.chain.event import Change, Lane, Term
from atedb.chain.heads import Head
from atedb.chain.position import Position
from atedb.crypto.aead import TAG_SIZE, Cipher, SealBrokenError, cipher, random_bytes
from atedb.crypto.hashing import derive
from atedb.crypto.keys import SALT_SIZE, KeyRing
from atedb.errors import AteError, DamagedError

log = logging.getLogger(__name__)

NAME = "journal"
SIZE = 4 << 20
MOST = 128 << 10
"""Bytes of changes that are worth writing twice."""
ALIGNMENT = 4096
"""Of records, so that they can be written past the page cache on any disk."""
MAGIC = b"atedbjnl"
_HEADER = struct.Struct(f"<8sIIQ32s{SALT_SIZE}s")
_LONGEST = -(-(_HEADER.size + MOST + TAG_SIZE) // ALIGNMENT) * ALIGNMENT


class _Header(NamedTuple):
    """place: the record's among those of its batch, from 0. length: of what is sealed. salt: what makes their key."""

    magic: bytes
    place: int
    length: int
    sequence: int
    hash: bytes
    salt: bytes

    @property
    def size(self) -> int:
        """What the record takes up."""
        return _aligned(_HEADER.size + self.length)


class _Row(msgspec.Struct, array_like=True):
    """A change as it is read back."""

    key: bytes
    lane: int
    body: bytes
    tombstone: bool
    compress: bool
    terms: tuple[Term, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Row]).decode


class Journal:
    """The journal of the chain in `store`, for its owner thread. Its file is made when it is first needed.

    failed: it could not be written once, and is left alone since.
    """

    def __init__(self, disk: Disk, store: Path, keys: KeyRing) -> None:
        self._disk = disk
        self._path = store / NAME
        self._keys = keys
        self.failed = False
        self._file: ThroughFile | None = None
        self._area = mmap.mmap(-1, _LONGEST)  # its memory is aligned as well
        self._base: Position | None = None
        self._salt = b""
        self._cipher: Cipher | None = None
        self._place = 0
        self._end = 0

    def append(self, base: Position, changes: Collection[Change]) -> bool:
        """Put changes on stable storage. base: the newest batch, which must be durable.

        False: there is no room, or it cannot be written; whether the changes are there is not known then.
        """
        body = _encoded(changes) if not self.failed else None
        if body is None:
            return False
        try:
            return self._append(base, body)
        except AteError as error:
            log.warning("%s: there is no journal from now on, so that to sync takes longer: %s", self._path, error)
            self.failed = True
            return False

    def _append(self, base: Position, body: bytes) -> bool:
        if base != self._base:
            self._begin(base)
        assert self._cipher is not None
        assert self._file is not None
        header = _Header(MAGIC, self._place, len(body) + TAG_SIZE, *base, self._salt)
        if self._end + header.size > SIZE:
            return False
        front = _HEADER.pack(*header)
        sealed = self._cipher.seal(self._place, body, front)
        self._area[: len(front)] = front
        self._area[len(front) : len(front) + len(sealed)] = sealed
        self._file.write(memoryview(self._area)[: header.size], self._end)
        self._place += 1
        self._end += header.size
        return True

    def read(self, base: Position) -> dict[bytes, Change]:
        """What was put here since `base`, the newest batch of the log: of each object the newest change.

        A last record that is torn was never acknowledged. Raises DamagedError for one in the middle, StorageError.
        """
        first = self._record(self._start(_LONGEST), 0, None)
        if first is not None and (first[0].sequence, first[0].hash) != base:
            return {}  # a row begins with its first record: this one is of another batch, and the newest has none
        data = self._start(SIZE)
        changes, place, at = self._row(data, base)
        if any(self._is_later(data, start, base, place) for start in range(at, len(data), ALIGNMENT)):
            raise DamagedError(
                f"{self._path}: what was synced last is damaged after {place} records; the log and the rest are kept; "
                "run: atefs fsck --repair"
            )
        return changes

    def vouched(self, seen: Head | None, after: int = 0) -> Head | None:
        """The newest batch that is known to have been durable: `seen`, or the one after which something was put here.

        after: that one counts if it is newer than this sequence. It is not for a chain that follows a server, where
        others' batches take the place of one's own.
        """
        found = self._record(self._start(_LONGEST), 0, None)
        if found is None or found[0].sequence <= max(after, seen.sequence if seen is not None else 0):
            return seen
        return Head(found[0].sequence, found[0].hash.hex())

    def remove(self) -> None:
        """Take it away: it speaks of batches that are not to be part of the chain. Raises StorageError."""
        self._disk.unlink(self._path)
        self._disk.sync_folder(self._path.parent)

    def mend(self, base: Position, keep: Callable[[], Path]) -> bool:
        """Cut it off where it is damaged, durably; as it is now goes into the folder that `keep` makes.

        False: it is not damaged. Raises StorageError, NoSpaceError.
        """
        try:
            self.read(base)
        except DamagedError:
            data = self._start(SIZE)
            _, _, end = self._row(data, base)
            self._disk.replace(keep() / NAME, data)
            self._disk.replace(self._path, data[:end].ljust(len(data), b"\0"))
            return True
        return False

    def salvage(self, sequence: int) -> dict[bytes, Change]:
        """What can be had of it where it, or the log, is damaged, and that is newer than the batch `sequence`."""
        data = self._start(SIZE)
        if len(data) < _HEADER.size:
            return {}
        header = _Header(*_HEADER.unpack_from(data))
        if header.sequence < sequence:
            return {}
        return self._row(data, Position(header.sequence, header.hash))[0]

    def close(self) -> None:
        """Release the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, base: Position) -> None:
        if self._file is None:
            self._file = self._opened()
        self._base, self._salt = base, random_bytes(SALT_SIZE)
        self._cipher = self._cipher_of(self._salt)
        self._place = self._end = 0

    def _opened(self) -> ThroughFile:
        """Its bytes are all written once, so that later the disk alone is waited for, and not the filesystem."""
        if self._path.name not in self._disk.names(self._path.parent):
            self._disk.replace(self._path, bytes(SIZE))
        return self._disk.open_through(self._path)

    def _start(self, length: int) -> bytes:
        """Its first bytes; none where there is no journal."""
        if self._path.name not in self._disk.names(self._path.parent):
            return b""
        file = self._disk.open(self._path)
        try:
            return bytes(file.read(length, 0))
        finally:
            file.close()

    def _row(self, data: bytes, base: Position) -> tuple[dict[bytes, Change], int, int]:
        """What the records that follow each other from the beginning say; how many they are, and where they end."""
        changes: dict[bytes, Change] = {}
        at = place = 0
        salt = b""
        while (found := self._record(data, at, base)) is not None:
            header, rows = found
            if header.place != place or (salt and header.salt != salt):
                break
            changes.update((row.key, _change(row)) for row in rows)
            at, place, salt = at + header.size, place + 1, header.salt
        return changes, place, at

    def _record(self, data: bytes, at: int, base: Position | None) -> tuple[_Header, Sequence[_Row]] | None:
        front = data[at : at + _HEADER.size]
        if len(front) < _HEADER.size:
            return None
        header = _Header(*_HEADER.unpack(front))
        if header.magic != MAGIC or at + header.size > len(data):
            return None
        if base is not None and base != (header.sequence, header.hash):
            return None
        start = at + _HEADER.size
        try:
            body = self._cipher_of(header.salt).open(header.place, data[start : start + header.length], front)
        except SealBrokenError:
            return None
        return header, _decode(body)

    def _is_later(self, data: bytes, at: int, base: Position, place: int) -> bool:
        """Whether there is a record that was written when the one at this place was acknowledged."""
        if data[at : at + len(MAGIC)] != MAGIC:
            return False
        found = self._record(data, at, base)
        return found is not None and found[0].place > place

    def _cipher_of(self, salt: bytes) -> Cipher:
        return cipher(self._keys.suite, derive("journal key", self._keys.purpose("journal"), salt))


def _encoded(changes: Collection[Change]) -> bytes | None:
    """Them all as `_Row`s; None when it is too much."""
    rows: list[object] = []
    size = 0
    for key, lane, body, tombstone, compress, terms in changes:
        whole = body if isinstance(body, bytes | bytearray | memoryview) else b"".join(body)
        size += len(whole)
        if size > MOST:
            return None
        rows.append((key, lane, whole, tombstone, compress, terms))
    encoded = _encode(rows)
    return encoded if len(encoded) <= MOST else None


def _change(row: _Row) -> Change:
    return Change(row.key, Lane(row.lane), row.body, row.tombstone, row.compress, row.terms)


def _aligned(length: int) -> int:
    return length + -length % ALIGNMENT
