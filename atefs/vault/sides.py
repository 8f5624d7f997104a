"""The states that a merge works with: those it looks at, and the one it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from atedb.chain.event import Change, Lane
from atedb.errors import AteError
from atefs.errors import StaleError
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import EntryRecord, Keys, decode_entry, decode_row, directory_group, entry_key
from atefs.vault.commit import Commits
from atefs.vault.conflicts import Conflicts
from atefs.vault.copying import Copying
from atefs.vault.directory import Directories
from atefs.vault.holes import Holes
from atefs.vault.inode import DirEntry, Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import CacheSizes
from atefs.vault.maps import Maps
from atefs.vault.numbers import Numbers
from atefs.vault.objects import Objects
from atefs.vault.reader import Reader
from atefs.vault.reap import Reaper
from atefs.vault.shared import Shared
from atefs.vault.space import Space
from atefs.vault.superblock import Superblock
from atefs.vault.truncation import Truncation
from atefs.vault.writer import Writer

_CACHES = CacheSizes(8_192, 8_192, 1_024, 8 << 20)
_PIECE = 8 << 20
"""Bytes that gather before they are committed."""
_ROOM = 1 << 62


class Namer(Keys, Protocol):
    """Names objects and sets, and knows which device it does that for: a chain."""

    @property
    def device(self) -> bytes: ...


class State(Protocol):
    """One state of a chain (`atedb.chain.rebase.Reader`)."""

    def load(self, key: bytes) -> bytes | None: ...

    def members(self, group: bytes) -> dict[bytes, bytes]: ...


class _SideLog:
    """A state as the log of a vault. There is always room: what was accepted when it was done is not refused now."""

    live_bytes = -_ROOM
    stored_bytes = 0
    read_only = False
    failed: AteError | None = None
    promised: Mapping[bytes, Change] = {}

    def __init__(self, names: Namer, state: State, commit: Callable[[Sequence[Change]], None] | None) -> None:
        self.device = names.device
        self.object_key = names.object_key
        self.group_key = names.group_key
        self.load = state.load
        self.members = state.members
        self._commit = commit

    def commit(self, changes: Sequence[Change]) -> int:
        assert self._commit is not None
        self._commit(changes)
        return 0

    def object_count(self, lane: Lane) -> int:
        del lane
        return 0

    def free_bytes(self) -> int:
        return _ROOM


class Side:
    """One state of a vault, to be looked at. Loading may fetch, and raises what `State.load` raises."""

    def __init__(
        self, names: Namer, state: State, commit: Callable[[Sequence[Change]], None] | None = None
    ) -> None:  # fmt: skip
        self.log = _SideLog(names, state, commit)
        self.objects = Objects(self.log)
        self.superblock = Superblock(self.objects)
        self.numbers = Numbers(self.objects)
        self.space = Space(self.log, self.superblock, False)
        self.cache = BlockCache(_CACHES.content)
        self.inodes = Inodes(self.objects, self.space, self.cache, _CACHES.inodes)
        self.shared = Shared(self.inodes, self.numbers)
        self.maps = Maps(self.objects, self.space, self.cache, self.shared, _CACHES.maps)
        self.reader = Reader(self.objects, self.inodes, self.maps, self.shared, self.cache)

    def find(self, ino: int) -> Inode | None:
        """The inode, shared content apart; None: there is none."""
        try:
            inode = self.inodes.get(ino)
        except StaleError:
            return None
        return inode if inode.layout is None or inode.layout.users is None else None

    def alive(self, ino: int) -> Inode | None:
        """The same, if it has a name."""
        inode = self.find(ino)
        return inode if inode is not None and inode.nlink else None

    def entry(self, parent: int, name: bytes) -> EntryRecord | None:
        """What a name stands for."""
        body = self.objects.load(entry_key(self.log, parent, name))
        return None if body is None else decode_entry(body)

    def listing(self, ino: int) -> list[DirEntry]:
        """All entries of a directory as they are committed."""
        return [decode_row(row) for row in self.objects.members(directory_group(self.log, ino)).values()]


class Stage(Side):
    """The merged state in the making. Every `flush` leaves a tree that is sound."""

    def __init__(
        self, names: Namer, state: State, commit: Callable[[Sequence[Change]], None], now: int
    ) -> None:  # fmt: skip
        super().__init__(names, state, commit)
        self.directories = Directories(self.objects, self.space, _CACHES.dentries)
        self.writer = Writer(self.inodes, self.maps, self.reader, self.space)
        self.truncation = Truncation(self.inodes, self.maps, self.shared, self.space)
        self.holes = Holes(self.inodes, self.maps, self.writer, self.truncation)
        self.copying = Copying(
            self.inodes, self.maps, self.shared, self.reader,
            writer=self.writer, truncation=self.truncation, space=self.space,
        )  # fmt: skip
        self.conflicts = Conflicts(self.objects)
        self._reaper = Reaper(
            self.objects, self.inodes, self.maps, self.shared, self.truncation,
            keeper=self.numbers.keeper, clock=lambda: now,
        )  # fmt: skip
        self._commits = Commits(
            self.objects, self.superblock, numbers=self.numbers, inodes=self.inodes, directories=self.directories,
            maps=self.maps, conflicts=self.conflicts, space=self.space,
        )  # fmt: skip

    def link(self, parent: int, name: bytes, inode: Inode) -> None:
        """A name for an inode that was prepared; there is none of that name. A directory has no other."""
        directory = self.inodes.get(parent)
        self.inodes.ready(directory)
        self.inodes.ready(inode)
        self.directories.put(parent, name, inode, self.directories.lookup(parent, name))
        directory.size += 1
        if inode.is_dir:
            directory.nlink += 1
            inode.parent = parent
        if inode.is_dir or inode.nlink == 0:
            self.inodes.named(inode)
        inode.nlink += not inode.is_dir
        self.inodes.touch(directory)
        self.inodes.touch(inode)

    def unlink(self, parent: int, name: bytes) -> Inode:
        """Take a name away; what it stood for, which may be left without any."""
        entry = self.directories.lookup(parent, name)
        directory, inode = self.inodes.get(parent), self.inodes.get(entry >> 4)
        self.inodes.ready(directory)
        self.inodes.ready(inode)
        self.directories.remove(parent, name, entry)
        directory.size -= 1
        if inode.is_dir:
            directory.nlink -= 1
        else:
            inode.nlink -= 1
            inode.keeper = self.numbers.keeper
        self.inodes.touch(directory)
        self.inodes.touch(inode)
        return inode

    def copy(self, source: Inode, target: Inode) -> None:
        """All of a file into an empty one: whole blocks are shared, which loads and takes nothing of them."""
        at = 0
        while at < source.size:
            at += self.copying.copy(source, at, target, at, length=source.size - at, now=None)
            self.flush_when_full()

    def dispose(self, inode: Inode) -> None:
        """It has no name and nobody keeps it: it goes, what is large by the reaper of whoever mounts."""
        inode.nlink = inode.keeper = 0
        self._reaper.dispose(inode)

    def flush_when_full(self) -> None:
        """Commit what has gathered, if that is much."""
        if self.space.dirty >= _PIECE:
            self.flush([])

    def flush(self, more: Sequence[Change]) -> None:
        """Commit all that has gathered, and `more` with it."""
        frozen = self._commits.freeze()
        changes = [*(frozen.changes if frozen is not None else ()), *more]
        if changes:
            self.log.commit(changes)
        if frozen is not None:
            self._commits.settled(frozen)
