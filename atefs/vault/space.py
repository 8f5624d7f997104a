"""Room: what the disk can still take, what the quota allows, and how much waits in memory to be written."""

from __future__ import annotations

from atedb.chain.event import Lane
from atedb.errors import NoSpaceError, ReadOnlyError
from atefs.errors import QuotaError
from atefs.vault.inode import StatFs
from atefs.vault.limits import NAME_MAX, PAGE
from atefs.vault.objects import Log
from atefs.vault.superblock import Superblock

_FILES = 2**32


class Space:
    """dirty: bytes that the next commit would take, about. in_flight: those of the commit under way."""

    def __init__(self, log: Log, superblock: Superblock, read_only: bool) -> None:
        self.dirty = 0
        self.in_flight = 0
        self._log = log
        self._superblock = superblock
        self._read_only = read_only
        self._forbidden = ""
        self._room = 0

    def check_writable(self) -> None:
        """Raises ReadOnlyError when nothing may change."""
        failed = self._log.failed
        if self._read_only or self._log.read_only or failed is not None:
            cause = f" after a failure ({failed})" if failed else self._forbidden
            raise ReadOnlyError(f"The vault is read-only{cause}; nothing was changed.")

    def forbid(self, reason: str) -> None:
        """Let nothing be changed for now, and say why; "" allows it again. Does not lift what was said at the start."""
        if not self._read_only or self._forbidden:
            self._read_only, self._forbidden = bool(reason), reason and f": {reason}"

    def check_room(self, need: int) -> None:
        """Raises NoSpaceError or QuotaError when `need` more bytes could not be committed.

        The disk is asked only when what was known of it is used up, and after each commit.
        """
        if self.dirty + need > self._room:
            self._measure()
            if self.dirty + need > self._room:
                self._refuse()

    def commit_done(self) -> None:
        """What was known of the disk is out of date."""
        self.in_flight = 0
        self._room = 0

    def statfs(self) -> StatFs:
        """The size of the vault as man 3 statvfs has it: the quota, or the disk's free space and what is stored."""
        waiting = self.dirty + self.in_flight
        free = max(0, self._log.free_bytes() - waiting)
        total = free + self._log.stored_bytes + waiting
        if self._superblock.quota:
            total = min(total, self._superblock.quota)
            free = min(free, max(0, total - self._log.live_bytes - waiting))
        files = self._log.object_count(Lane.META) // 2
        pages = free // PAGE
        return StatFs(total // PAGE, pages, pages, max(_FILES, files), max(_FILES, files) - files, NAME_MAX, PAGE)

    def _measure(self) -> None:
        room = self._log.free_bytes() - self.in_flight
        if self._superblock.quota:
            room = min(room, self._superblock.quota - self._log.live_bytes - self.in_flight)
        self._room = room

    def _refuse(self) -> None:
        quota = self._superblock.quota
        if quota and quota - self._log.live_bytes <= self._log.free_bytes():
            raise QuotaError(f"The vault's quota of {quota} bytes is used up; nothing was written. Delete something.")
        raise NoSpaceError("The disk that holds the vault is full; nothing was written. Make room on it, or delete.")
