"""The newest head that this machine has seen of each chain, kept outside the store.

Whoever puts an older copy of a store back cannot put this back with it: that is how a rollback is noticed.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from atedb.chain.disk import Disk
from atedb.chain.note import load_note, save_note
from atedb.errors import DamagedError, RolledBackError


class Head(msgspec.Struct, frozen=True):
    """A durable batch: its sequence, and its hash in hexadecimal."""

    sequence: int
    hash: str


class RememberedHeads:
    """A folder with one small file for each chain. `remember` may be called in several threads at once."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._writing = threading.Lock()
        self._noted: dict[bytes, int] = {}

    def recall(self, chain_id: bytes) -> Head | None:
        """The head last remembered. A damaged note is as good as none: it only ever warns."""
        if not self._folder.exists():
            return None
        try:
            return load_note(self._disk, self._folder / chain_id.hex(), Head)
        except DamagedError:
            return None

    def remember(self, chain_id: bytes, head: Head) -> None:
        """Note a head that is on stable storage, unless a newer one was noted here meanwhile."""
        with self._writing:
            if head.sequence >= self._noted.get(chain_id, 0):
                self._save(chain_id, head)

    def lower(self, chain_id: bytes, head: Head) -> None:
        """Take back, durably, what was remembered of batches after `head`: they are not to be part of the chain."""
        seen = self.recall(chain_id)
        if seen is None or seen.sequence <= head.sequence:
            return
        with self._writing:
            if head.sequence:
                self._save(chain_id, head)
            else:
                self._noted.pop(chain_id, None)
                self._disk.unlink(self._folder / chain_id.hex())
                self._disk.sync_folder(self._folder)

    def _save(self, chain_id: bytes, head: Head) -> None:
        self._disk.make_folder(self._folder)
        save_note(self._disk, self._folder / chain_id.hex(), head)
        self._noted[chain_id] = head.sequence


def rolled_back(seen: Head, found: int) -> RolledBackError:
    """The error for a chain whose newest batch is `found`, or that has another batch where `seen` was."""
    return RolledBackError(
        f"this machine has seen batch {seen.sequence} of this chain, the store ends at {found} or differs: it is an "
        "older or another copy; nothing was changed; if you restored a backup on purpose, accept it with: "
        "atefs mount --accept-rollback"
    )
