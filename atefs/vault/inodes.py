"""The inodes in memory: the cache of clean ones, those that are dirty, and those that the kernel still knows."""

from __future__ import annotations

from collections import OrderedDict

from atedb.chain.event import Change
from atedb.errors import DamagedError
from atefs.errors import StaleError
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import decode_inode, inode_key, inode_tombstone
from atefs.vault.inode import Inode
from atefs.vault.layout import Layout
from atefs.vault.limits import OBJECT_COST
from atefs.vault.objects import Objects
from atefs.vault.space import Space

_TRIES = 4


class Inodes:
    """Inodes by number. A dirty one stays in memory; a clean one may be dropped at any time and is loaded again.

    Inline content is kept by the inode only while that is dirty, and in the bounded content cache otherwise.
    """

    def __init__(self, objects: Objects, space: Space, content: BlockCache, limit: int) -> None:
        self.dirty: dict[int, Inode] = {}
        self.gone: dict[int, bool] = {}
        """Deleted since the last freeze; True: may stand in the set of orphans."""
        self.references: dict[int, int] = {}
        """How often the kernel holds each inode it knows."""
        self.nameless: set[int] = set()
        """Those of them that have lost their last name."""
        self.missed = 0
        """The last one that had to be loaded."""
        self._objects = objects
        self._space = space
        self._content = content
        self._limit = limit
        self._table: OrderedDict[int, Inode] = OrderedDict()
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, ino: int) -> bool:
        return ino in self._table

    def get(self, ino: int) -> Inode:
        """Raises StaleError when there is no such inode."""
        inode = self._table.get(ino)
        if inode is not None:
            self._table.move_to_end(ino)
            return inode
        return self._load(ino)

    def content(self, inode: Inode) -> bytes:
        """Inline content or link target; may load."""
        if inode.data is not None:
            return inode.data
        data = self._content.get(inode.ino)
        if data is None:
            body = self._objects.load(inode.key)
            if body is None:
                raise DamagedError(f"Inode {inode.ino} has disappeared from the chain. Run: atefs fsck")
            data = decode_inode(self._objects.log, body, inode.key).data or b""
            self._content.put(inode.ino, data)
        return data

    def ready(self, inode: Inode) -> None:
        """Load what a dirty inode must hold. To be called before anything is changed, since it may load."""
        if inode.data is None and inode.inline:
            inode.data = self.content(inode)

    def touch(self, inode: Inode) -> None:
        """It was changed (after `ready`): the next commit takes it."""
        self._stamp += 1
        inode.stamp = self._stamp
        if not inode.dirty:
            inode.dirty = True
            self.dirty[inode.ino] = self._table[inode.ino] = inode
            self._count(inode, _weight(inode))

    def put_content(self, inode: Inode, data: bytes) -> None:
        """Make `data` the inline content, and the inode dirty."""
        old = inode.data
        inode.data = data
        inode.inline = True
        if inode.dirty:
            self._count(inode, len(data) - (len(old) if old else 0))
        self.touch(inode)

    def put_xattrs(self, inode: Inode, held: dict[bytes, bytes]) -> None:
        """Make `held` the extended attributes, and the inode dirty."""
        if inode.dirty:
            self._count(inode, _length(held) - _length(inode.xattrs))
        inode.xattrs = held or None
        self.touch(inode)

    def take_content(self, inode: Inode) -> None:
        """Its content is no longer inline."""
        if inode.dirty and inode.data:
            self._count(inode, -len(inode.data))
        inode.data = None
        inode.inline = False

    def add(self, inode: Inode) -> None:
        """A new inode."""
        inode.key = inode_key(self._objects.log, inode.ino)
        inode.content = inode.content or inode.ino
        self._insert(inode)
        self.touch(inode)

    def named(self, inode: Inode) -> None:
        """It gets its first name, and does not wait to be reaped any more. That must follow from its body alone, which
        says so by a list of doomed regions that is there and empty (`codec.inode_change`).
        """
        if inode.listed:
            inode.layout = inode.layout if inode.layout is not None else Layout()
            inode.layout.doomed = inode.layout.doomed or []
        self.nameless.discard(inode.ino)

    def remove(self, inode: Inode) -> None:
        """It is deleted for good, its content as well. Nothing is written for one that never was in the chain."""
        self.dirty.pop(inode.ino, None)
        self._count(inode, -inode.counted)
        inode.dirty = False
        self._content.drop(inode.ino)
        self._table.pop(inode.ino, None)
        if inode.stored:
            self.gone[inode.ino] = inode.listed

    def clean(self, inode: Inode, listed: bool) -> None:
        """It was just encoded for a commit. listed: with a row in the set of orphans."""
        inode.dirty = False
        inode.counted = 0
        inode.stored = True
        inode.listed |= listed
        if inode.data:
            self._content.put(inode.ino, inode.data)
            inode.data = None

    def trim(self) -> None:
        """Drop what is over the bound; to be called when nothing is dirty."""
        while len(self._table) > self._limit:
            self._table.popitem(last=False)

    def numbers_of(self, keys: set[bytes]) -> set[int]:
        """Those in memory that have one of these object keys."""
        return {ino for ino, inode in self._table.items() if inode.key in keys} if keys else set()

    def contents_of(self, inodes: set[int]) -> set[int]:
        """The numbers by which blocks of these are named, as far as they are in memory."""
        return {self._table[ino].content for ino in inodes if ino in self._table}

    def has_pages(self, ino: int) -> bool:
        """Unless it is known to be neither a file nor a directory."""
        inode = self._table.get(ino)
        return inode is None or inode.is_file or inode.is_dir

    def no_longer_nameless(self, inodes: set[int]) -> set[int]:
        """Those of them that waited here for their end, and by what the chain says do not any more. Loads them."""
        ended = set()
        for ino in inodes & self.nameless:
            key = inode_key(self._objects.log, ino)
            body = self._objects.load(key)
            if body is None or decode_inode(self._objects.log, body, key).nlink:
                ended.add(ino)
        return ended

    def forget(self, inodes: set[int], named: set[int]) -> None:
        """Others have changed them: what is in memory of them counts no more. None is dirty.

        named: what `no_longer_nameless` said.
        """
        for ino in inodes:
            self._table.pop(ino, None)
        self.nameless -= named

    def tombstones(self) -> list[Change]:
        """Of all that are gone; they are forgotten here."""
        changes = [inode_tombstone(self._objects.log, ino, listed) for ino, listed in self.gone.items()]
        self.gone = {}
        return changes

    def _count(self, inode: Inode, more: int) -> None:
        inode.counted += more
        self._space.dirty += more

    def _load(self, ino: int) -> Inode:
        key = inode_key(self._objects.log, ino)
        body = None if ino in self.gone else self._objects.load(key)
        if body is None:
            raise StaleError(f"There is no inode {ino}; it was deleted.")
        self.missed = ino
        inode = decode_inode(self._objects.log, body, key)
        if inode.data:
            self._content.put(ino, inode.data)
            inode.data = None
        self._stamp += 1
        inode.stamp = self._stamp
        self._insert(inode)
        return inode

    def _insert(self, inode: Inode) -> None:
        table = self._table
        table[inode.ino] = inode
        for _ in range(_TRIES):
            if len(table) <= self._limit:
                return
            ino, oldest = table.popitem(last=False)
            if oldest.dirty or oldest is inode:
                table[ino] = oldest


def _weight(inode: Inode) -> int:
    """Bytes that it takes in the log, about, and not less."""
    weight = OBJECT_COST + (len(inode.data) if inode.data else 0)
    if inode.xattrs is not None:
        weight += _length(inode.xattrs)
    if inode.layout is not None:
        weight += inode.layout.weight
    return weight


def _length(xattrs: dict[bytes, bytes] | None) -> int:
    return sum(len(name) + len(value) for name, value in xattrs.items()) if xattrs else 0
