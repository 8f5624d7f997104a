"""A second, temporary view of a log, to check what batches claim without touching the store."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from atedb.chain.apply import Replay
from atedb.chain.disk import Disk, File
from atedb.chain.event import no_terms
from atedb.chain.frame import Frame
from atedb.chain.view import View, empty_state, view_place
from atedb.crypto.keys import KeyRing
from atedb.crypto.sethash import SetHash

STEP = 16_384
"""Rows between checkpoints: each may touch a page of its own, and LMDB holds those in memory until it commits."""


class Shadow:
    """Replays frames from the first on. Lies in the system's temporary folder until `close`.

    slim: whether a server has what slim frames lack.
    """

    def __init__(self, disk: Disk, keys: KeyRing, root_public: bytes, *, slim: bool) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="atefs-verify-"))
        try:
            self._view = View.create(view_place(disk, self._folder, keys), empty_state(keys.chain_id))
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        live = SetHash(keys.purpose("live set hash"))
        self._replay = Replay(self._view, keys, live, root_public, no_terms, slim=slim)
        self._rows = 0

    def apply(self, frame: Frame, segment: int, file: File) -> None:
        """The next frame: its place, signature, seals of the meta lane, versions and claim. Raises DamagedError."""
        self._replay.verify(frame)
        self._replay.apply(frame, segment, file)
        self._rows += len(frame.events)
        if self._rows >= STEP:
            self._rows = 0
            self._view.begin_checkpoint().write()
            self._view.end_checkpoint(written=True)

    def close(self) -> None:
        """Remove it."""
        self._view.close()
        shutil.rmtree(self._folder, ignore_errors=True)
