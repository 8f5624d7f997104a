"""What can be saved of a damaged log: the newest sound version of each object, and which newer ones are lost.

The index of it lies in an LMDB file, so that memory stays flat. Two passes over the log: `collect` finds out where
the newest sound versions are, `changes` reads them in the order of the log.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb

from atedb.chain.disk import Disk
from atedb.chain.dump import Describe
from atedb.chain.event import Change, Lane
from atedb.chain.format import COMPRESSED, SEGMENT_HEADER_SIZE, TOMBSTONE, Event
from atedb.chain.frame import Frame, Read, verify_frame_signature
from atedb.chain.header import ChainHeader
from atedb.chain.log import segment_path
from atedb.chain.record import unpack_record
from atedb.chain.recovery import Progress
from atedb.chain.report import Loss
from atedb.chain.view import MAP_SIZE, View
from atedb.chain.walk import BatchOpener, buffered, read_body, reader, segment_numbers, walk
from atedb.crypto.keys import KeyRing
from atedb.errors import AteError, DamagedError

_SOUND = b"sound"
"""The newest version whose body opens."""
_CERTAIN = b"certain"
"""The newest version that is proven to have been there: its body opens, or the intact view names it."""
_CLAIMED = b"claimed"
"""The newest version that an event table names for a body that does not verify; nothing proves the row."""
_STEP = 8192
_ROW = struct.Struct("<QIQBB")


class _Version(NamedTuple):
    """A version of an object. segment, offset: of its body, zeros in a row that the view gave."""

    version: int
    segment: int
    offset: int
    lane: int
    flags: int

    @property
    def ended(self) -> bool:
        return bool(self.flags & TOMBSTONE)


class Salvage:
    """The index, in the empty folder `folder`.

    devices: public keys whose batches are believed; certificates that are found are added. objects: live ones that
    `changes` has given. losses: complete when `changes` has ended.
    """

    def __init__(self, disk: Disk, store: Path, folder: Path, header: ChainHeader, keys: KeyRing) -> None:
        self._disk = disk
        self._store = store
        self._keys = keys
        self._root_public = bytes.fromhex(header.root_public)
        self._env = lmdb.open(str(folder), map_size=MAP_SIZE, max_dbs=3, mode=0o600, sync=False)
        self._dbs = {name: self._env.open_db(name) for name in (_SOUND, _CERTAIN, _CLAIMED)}
        self._txn = self._env.begin(write=True)
        self._noted = 0
        self.devices: dict[bytes, bytes] = {}
        self.objects = 0
        self.losses: list[Loss] = []

    def close(self) -> None:
        """Release the index."""
        self._txn.abort()
        self._env.close()

    # -- the first pass

    def learn(self, view: View) -> None:
        """Take up what an intact view knows: which versions there were, and which devices are certified."""
        self.devices.update(view.state.devices)
        for key, row in view.records():
            record = unpack_record(row)
            self._note(_CERTAIN, key, _Version(record.version, 0, 0, record.lane, record.flags))

    def collect(self, progress: Progress | None) -> None:
        """Find the newest sound versions. progress: called with bytes done and in all."""
        for number, frame, read in self._frames(progress):
            # What is not signed by a device of this chain, or not sealed under this tenant's key, is not salvaged.
            with contextlib.suppress(AteError):
                verify_frame_signature(frame, self.devices, self._root_public, self._keys.chain_id)
                opener = BatchOpener(self._keys, frame.head)
                for event, at in frame.bodies():
                    if at is None:
                        continue
                    self._weigh(number, event, at, read, opener)

    def _weigh(self, number: int, event: Event, at: int, read: Read, opener: BatchOpener) -> None:
        found = _Version(event.version, number, at, event.lane, event.flags)
        try:
            opener.open(event, read_body(read, event, at))
        except DamagedError:
            self._note(_CLAIMED, event.key, found._replace(flags=event.flags & ~TOMBSTONE))
        else:
            self._note(_CERTAIN, event.key, found)
            self._note(_SOUND, event.key, found)

    def _note(self, kind: bytes, key: bytes, found: _Version) -> None:
        known = self._get(kind, key)
        if known is not None and known.version >= found.version:
            return
        self._txn.put(key, _ROW.pack(*found), db=self._dbs[kind])
        self._noted += 1
        if self._noted >= _STEP:  # keeps memory flat: LMDB holds every page that a transaction has touched
            self._noted = 0
            self._txn.commit()
            self._txn = self._env.begin(write=True)

    def _get(self, kind: bytes, key: bytes) -> _Version | None:
        row = self._txn.get(key, db=self._dbs[kind])
        return None if row is None else _Version(*_ROW.unpack(row))

    def _frames(self, progress: Progress | None) -> Iterator[tuple[int, Frame, Read]]:
        numbers = segment_numbers(self._disk, self._store)
        whole = sum(segment_path(self._store, number).stat().st_size for number in numbers)
        done = 0
        for number in numbers:
            with contextlib.ExitStack() as stack:
                try:
                    file = self._disk.open(segment_path(self._store, number))
                except AteError:
                    continue
                stack.callback(file.close)
                for item in walk(reader(file), SEGMENT_HEADER_SIZE, file.size()):
                    if isinstance(item, Frame):
                        yield number, item, buffered(reader(file), item)
                    if progress:
                        progress(done + item.end, whole)
                done += file.size()

    # -- the second pass

    def changes(self, describe: Describe | None, progress: Progress | None) -> Iterator[Change]:
        """Every live object in its newest sound version, in the order of the log."""
        for number, frame, read in self._frames(progress):
            opener: BatchOpener | None = None
            for event, at in frame.bodies():
                kept = self._kept(event.key)
                if at is None or kept is None or (kept.segment, kept.offset) != (number, at):
                    continue
                opener = opener or BatchOpener(self._keys, frame.head)
                plain = opener.open(event, read_body(read, event, at))
                self._account(event.key, kept, describe, plain)
                yield Change(event.key, Lane(event.lane), plain, compress=bool(event.flags & COMPRESSED))
        self._account_lost()

    def _newest(self, key: bytes) -> _Version | None:
        certain, claimed = self._get(_CERTAIN, key), self._get(_CLAIMED, key)
        if certain is None or (claimed is not None and claimed.version > certain.version):
            return claimed
        return certain

    def _kept(self, key: bytes) -> _Version | None:
        """The version to put into the new log; None where the object has ended or nothing of it is left."""
        certain = self._get(_CERTAIN, key)
        return None if certain is None or certain.ended else self._get(_SOUND, key)

    def _account(self, key: bytes, kept: _Version, describe: Describe | None, plain: bytes) -> None:
        self.objects += 1
        newest = self._newest(key)
        if newest is not None and newest.version > kept.version:
            what = describe(False, plain) if describe and kept.lane == Lane.META else None
            self.losses.append(Loss(key.hex(), Lane(kept.lane).name.lower(), newest.version, kept.version, what))

    def _account_lost(self) -> None:
        for kind in (_CERTAIN, _CLAIMED):
            for key, row in self._txn.cursor(db=self._dbs[kind]):
                known = _Version(*_ROW.unpack(row))
                newest = self._newest(key)
                if known == newest and not newest.ended and self._kept(key) is None:
                    self.losses.append(Loss(key.hex(), Lane(known.lane).name.lower(), known.version))
