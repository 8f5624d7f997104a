"""The file `remote`: that a store follows a server, and how far the server is known to have it.

It also says when a rebase is under way, so that one that was cut short can be told from a log that is whole: segments
from a certain number on are its work, and count only if the manifest names them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

import msgspec

from atedb.chain.disk import Disk
from atedb.chain.log import FOLDER, segment_path
from atedb.chain.manifest import SealedSegment, load_manifest
from atedb.chain.note import load_note, save_note
from atedb.chain.position import START, Position
from atedb.chain.recovery import cut_tail
from atedb.chain.walk import segment_numbers
from atedb.errors import DamagedError

log = logging.getLogger(__name__)

NAME = "remote"


class _Note(msgspec.Struct, frozen=True):
    """sequence, hash (hexadecimal): a batch that the server has. rebase: the first segment of one, or 0."""

    sequence: int
    hash: str
    rebase: int


class RemoteNote:
    """What the file says, and what it is to say next.

    acked: the newest batch that the server is known to have; a lower bound. rebase: the first segment of a rebase that
    may be under way, or 0.
    """

    def __init__(self, disk: Disk, store: Path, acked: Position = START, rebase: int = 0) -> None:
        self._disk = disk
        self._store = store
        self.acked = acked
        self.rebase = rebase
        self._saved = acked
        self._saving = threading.Lock()

    def save(self, durable: int) -> None:
        """Write it durably. durable: the newest sequence on stable storage; what the server has beyond it, and a power
        cut could take back here, is not written down yet. Any thread. Raises StorageError, NoSpaceError.
        """
        with self._saving:
            acked = self.acked
            if acked.sequence <= durable:
                self._saved = acked
            note = _Note(self._saved.sequence, self._saved.hash.hex(), self.rebase)
            save_note(self._disk, self._store / NAME, note)

    def settle(self, tail: Position) -> None:
        """Once the log is open and ends, durably, at `tail`. Raises StorageError, NoSpaceError."""
        if (
            self.acked.sequence > tail.sequence
        ):  # the log has lost batches that were never durable here; they come again
            self.acked = tail
        if NAME not in self._disk.names(self._store) or self.acked != self._saved:
            self.save(tail.sequence)

    def leftovers(self) -> tuple[list[int], SealedSegment | None]:
        """What a rebase that was cut short has left: segments that are not the chain's, and one that may be too long.

        Either it was complete, then they are what it replaced, or not, then they are its work. Raises DamagedError.
        """
        if not self.rebase:
            return [], None
        manifest = load_manifest(self._disk, self._store)
        complete = manifest.active >= self.rebase
        ours = {*(sealed.number for sealed in manifest.sealed), manifest.active}
        others = [n for n in segment_numbers(self._disk, self._store) if n not in ours]
        before = [sealed for sealed in manifest.sealed if sealed.number < self.rebase] if complete else []
        return [n for n in others if complete == (n < self.rebase)], before[-1] if before else None

    def clean(self, durable: int) -> None:
        """Remove what a rebase that was cut short has left. durable: as for `save`.

        Raises DamagedError, StorageError, NoSpaceError.
        """
        if not self.rebase:
            return
        gone, longer = self.leftovers()
        if longer is not None and self._size(longer.number) > longer.length:
            cut_tail(self._disk, self._store, longer.number, longer.length)
        for number in gone:
            self._disk.unlink(segment_path(self._store, number))
        if gone:
            self._disk.sync_folder(self._store / FOLDER)
        self.rebase = 0
        self.save(durable)

    def _size(self, number: int) -> int:
        with contextlib.closing(self._disk.open(segment_path(self._store, number))) as file:
            return file.size()


def load_remote(disk: Disk, store: Path) -> RemoteNote | None:
    """What the store's file says; None when it follows no server.

    A damaged file is as good as one that says nothing of `acked`, which is found out anew on connection.
    """
    try:
        note = load_note(disk, store / NAME, _Note)
        if note is None:
            return None
        return RemoteNote(disk, store, Position(note.sequence, bytes.fromhex(note.hash)), note.rebase)
    except (DamagedError, ValueError):
        log.warning("the file %s is not what was written; what the server has is found out anew", store / NAME)
        return RemoteNote(disk, store)
