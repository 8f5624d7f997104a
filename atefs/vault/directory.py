"""Directory entries: lookup of one name, listing of all, and the entries that wait to be committed."""

from __future__ import annotations

from collections import OrderedDict

from atedb.chain.event import Change
from atefs.errors import InvalidError, NameTooLongError, NotFoundError
from atefs.vault.codec import EntryRecord, decode_entry, decode_row, directory_group, entry_change, entry_key
from atefs.vault.inode import DirEntry, Inode
from atefs.vault.limits import NAME_MAX, OBJECT_COST
from atefs.vault.objects import Objects
from atefs.vault.space import Space

Entry = int
"""Inode number << 4 | type; 0: no entry of that name."""


def check_name(name: bytes) -> None:
    """Raises NameTooLongError, NotFoundError for an empty name, InvalidError for one that no entry can have."""
    if len(name) > NAME_MAX:
        raise NameTooLongError(f"A name of {len(name)} bytes; {NAME_MAX} is the most.")
    if not name:
        raise NotFoundError("An empty name names nothing.")
    if b"/" in name or b"\0" in name or name in {b".", b".."}:
        raise InvalidError(f"{name!r} cannot be the name of an entry.")


class Directories:
    """The entries of all directories.

    The dentry cache answers first, with names known to be absent as well. What is dirty is kept per directory as
    entry << 1 | fresh, fresh meaning that neither the chain nor the commit in flight has the name, or as the negated
    former entry where the name was taken out.
    """

    def __init__(self, objects: Objects, space: Space, limit: int) -> None:
        self.dirty_count = 0
        self.missed = 0
        """The directory of which an entry had to be loaded last."""
        self._objects = objects
        self._space = space
        self._limit = limit
        self._cache: OrderedDict[tuple[int, bytes], Entry] = OrderedDict()
        self._dirty: dict[int, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._cache)

    def lookup(self, parent: int, name: bytes) -> Entry:
        """The entry of `name`, or 0; at most one load."""
        entry = self._cache.get((parent, name))
        if entry is not None:
            return entry
        names = self._dirty.get(parent)
        waiting = names.get(name) if names else None
        if waiting is not None:
            entry = waiting >> 1 if waiting > 0 else 0
        else:
            body = self._objects.load(entry_key(self._objects.log, parent, name))
            if body is None:
                entry = 0
            else:
                record = decode_entry(body)
                entry = record.ino << 4 | record.type
                self.missed = parent
        self._remember(parent, name, entry)
        return entry

    def listing(self, directory: Inode) -> list[DirEntry]:
        """All entries as they are now, "." and ".." first, the others in no order."""
        group = directory_group(self._objects.log, directory.ino)
        rows = [decode_row(value) for value in self._objects.members(group).values()]
        waiting = self._dirty.get(directory.ino)
        if waiting:
            rows = [row for row in rows if row.name not in waiting]
            rows += [DirEntry(name, value >> 5, value >> 1 & 15) for name, value in waiting.items() if value > 0]
        parent = directory.parent or directory.ino
        return [DirEntry(b".", directory.ino, 4), DirEntry(b"..", parent, 4), *rows]

    def take_in(self, directory: Inode) -> None:
        """Have the cache know all names of a directory."""
        parent, cache = directory.ino, self._cache
        for name, ino, kind in self.listing(directory):
            if (parent, name) not in cache:
                self._remember(parent, name, ino << 4 | kind)

    def put(self, parent: int, name: bytes, inode: Inode, replaced: Entry) -> None:
        """Let `name` stand for `inode`. replaced: what lookup said of it just before."""
        entry = inode.ino << 4 | inode.mode >> 12
        names = self._dirty.get(parent)
        if names is None:
            names = self._dirty[parent] = {}
        waiting = names.get(name)
        if waiting is None:
            self._count(1)
            fresh = 0 if replaced else 1
        else:
            fresh = waiting & 1 if waiting > 0 else 0
        names[name] = entry << 1 | fresh
        self._remember(parent, name, entry)

    def remove(self, parent: int, name: bytes, entry: Entry) -> None:
        """Take `name` out. entry: what lookup said of it just before."""
        names = self._dirty.setdefault(parent, {})
        waiting = names.get(name)
        if waiting is None:
            self._count(1)
            names[name] = -entry
        elif waiting & 1 and waiting > 0:
            self._count(-1)
            del names[name]
            if not names:
                del self._dirty[parent]
        else:
            names[name] = -entry
        self._remember(parent, name, 0)

    def cached(self, places: set[tuple[int, bytes]]) -> set[int]:
        """The inodes that these names are known to stand for."""
        return {entry >> 4 for place in places if (entry := self._cache.get(place))}

    def forget(self, places: set[tuple[int, bytes]]) -> None:
        """Others have changed what these names stand for. None is dirty."""
        for place in places:
            self._cache.pop(place, None)

    def changes(self) -> list[Change]:
        """One for each dirty entry; they are clean afterwards."""
        keys = self._objects.log
        changes = []
        for parent, names in self._dirty.items():
            group = directory_group(keys, parent)
            for name, value in names.items():
                entry = value >> 1 if value > 0 else -value
                changes.append(entry_change(keys, group, EntryRecord(parent, name, entry >> 4, entry & 15), value < 0))
        self._dirty = {}
        self.dirty_count = 0
        return changes

    def _remember(self, parent: int, name: bytes, entry: Entry) -> None:
        self._cache[parent, name] = entry
        if len(self._cache) > self._limit:
            self._cache.popitem(last=False)

    def _count(self, more: int) -> None:
        self.dirty_count += more
        self._space.dirty += more * OBJECT_COST
