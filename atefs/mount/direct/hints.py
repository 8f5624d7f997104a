"""Whether whoever lists a directory will want the attributes of what is in it.

The kernel asks for names and attributes together when it begins to read any directory. To load an inode costs some
thirty times what its name does: worth it for a listing that is followed by stat(2), which is spared a request for each
name, and a waste for one that is not, as by find(1) with names or by git for files that it does not know.
So a listing has the attributes of inodes that are in memory; of others only while there is reason to think that they
are wanted: names of what was listed without were looked up lately, and not those of folders, which everybody looks up
who walks a tree.
"""

from __future__ import annotations

from time import perf_counter

BELIEVED = 2.0
"""Seconds for which to go by what programs did."""
ENOUGH = 3
"""Names looked up after a listing without attributes, from which on they count as wanted."""
LISTED_MAX = 1024


class StatHints:
    """plain: directories that were listed without attributes; the newest LISTED_MAX of them."""

    def __init__(self) -> None:
        self.plain: dict[int, int] = {}
        self._until = 0.0

    def wanted(self) -> bool:
        """Should a listing that begins now load inodes?"""
        return perf_counter() < self._until

    def listed_plainly(self, directory: int) -> None:
        """A listing of it had names only, if not of all."""
        self.plain.pop(directory, None)
        self.plain[directory] = 0
        if len(self.plain) > LISTED_MAX:
            del self.plain[next(iter(self.plain))]

    def looked_up(self, directory: int) -> None:
        """A name in one of `plain` was asked for."""
        self.plain[directory] += 1
        if self.plain[directory] >= ENOUGH:
            del self.plain[directory]
            self._until = perf_counter() + BELIEVED
