"""An open directory: what it held when reading it began."""

from __future__ import annotations

from atefs.errors import NotFoundError, StaleError
from atefs.vault.inode import DirEntry, Inode
from atefs.vault.vault import Vault

_DOTS = (b".", b"..")


class Listing:
    """A directory's entries, `.` and `..` too. A position is an index: good while names come and go."""

    __slots__ = ("entries", "ino", "stamp", "taken")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.stamp = -1
        self.taken = False
        self.entries: list[DirEntry] = []

    def take(self, vault: Vault) -> None:
        """Look anew. In the order of inode numbers, which is about that of the log."""
        entries = sorted(vault.readdir(self.ino), key=lambda entry: entry.ino)
        self.stamp = vault.getattr(self.ino).stamp
        self.entries = entries
        self.taken = True

    def current(self, vault: Vault, entry: DirEntry) -> Inode | None:
        """The entry's inode; None when the name is gone, or names something else, since the listing was taken.

        The kernel enters what it is told into its cache of names: an entry that is gone would live on there.
        """
        if entry.name in _DOTS or vault.getattr(self.ino).stamp == self.stamp:
            return vault.getattr(entry.ino)
        try:
            inode = vault.lookup(self.ino, entry.name)
        except (NotFoundError, StaleError):
            return None
        return inode if inode.ino == entry.ino else None
