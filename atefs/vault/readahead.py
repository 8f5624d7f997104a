"""Loading what is likely to be asked for next, in moments when nobody asks for anything.

Whoever walks a tree asks for one inode after the other, in about the order in which they were made; and for one name
after the other of one directory. Once two in a row had to be loaded, the ones after them are loaded ahead, a step at a
time: the walk then finds them in memory. What turns out not to be needed has cost idle time only.
"""

from __future__ import annotations

from atedb.errors import AteError, NotResident
from atefs.vault.directory import Directories
from atefs.vault.inodes import Inodes

AHEAD = 32
"""Inodes loaded ahead of one that had to be waited for."""
NAMES_MAX = 1024
"""Entries of the largest directory that is taken in as a whole: that many take less than a millisecond."""


class ReadAhead:
    """What was loaded lately, and what should be next."""

    def __init__(self, inodes: Inodes, directories: Directories) -> None:
        self._inodes = inodes
        self._directories = directories
        self._expected = 0
        self._next = self._end = 0
        self._parent = 0

    def step(self) -> bool:
        """Do a little, some tens of microseconds at most but for a directory's names. False: there is nothing to do."""
        ino, self._inodes.missed = self._inodes.missed, 0
        if ino:
            self._missed_inode(ino)
        parent, self._directories.missed = self._directories.missed, 0
        if parent and parent == self._parent:
            self._parent = 0
            self._take_in(parent)
            return True
        self._parent = parent or self._parent
        if self._next >= self._end:
            return False
        self._next += 1
        self._load(self._next - 1)
        return True

    def _missed_inode(self, ino: int) -> None:
        if ino == self._expected:
            self._next, self._end = ino + 1, ino + 1 + AHEAD
            self._expected = self._end
        else:
            self._expected = ino + 1

    def _load(self, ino: int) -> None:
        """An error is no news here: whoever asks for the inode will hear of it."""
        try:
            self._inodes.get(ino)
        except NotResident:
            self._end = 0
        except AteError:
            pass
        self._inodes.missed = 0

    def _take_in(self, parent: int) -> None:
        try:
            directory = self._inodes.get(parent)
            if directory.is_dir and directory.size <= NAMES_MAX:
                self._directories.take_in(directory)
        except (NotResident, AteError):
            pass
        self._inodes.missed = 0
