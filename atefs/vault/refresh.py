"""What others have changed: gathered while their changes are applied, then taken out of every cache."""

from __future__ import annotations

from typing import NamedTuple

from atefs.vault import codec
from atefs.vault.blockcache import BlockCache
from atefs.vault.directory import Directories
from atefs.vault.inodes import Inodes
from atefs.vault.limits import ROOT_INO
from atefs.vault.maps import Maps
from atefs.vault.reap import Reaper


class Touched:
    """Hears of every event of the meta lane that did not come from the vault in memory.

    inodes: by number; contents: the numbers that name their blocks. keys: of objects that have ended without saying
    which they were. entries: places, (parent, name). superblock, numbers: whether those have changed.

    What a merge has written anew without a change for whoever looks from here: same_names, of `entries`, stand for what
    they stood for, and same_content, of `inodes`, have the bytes that they had.
    """

    def __init__(self) -> None:
        self.inodes: set[int] = set()
        self.contents: set[int] = set()
        self.keys: set[bytes] = set()
        self.entries: set[tuple[int, bytes]] = set()
        self.same_names: set[tuple[int, bytes]] = set()
        self.same_content: set[int] = set()
        self.superblock = False
        self.numbers = False

    def __call__(self, tombstone: bool, plaintext: bytes, key: bytes) -> None:
        """One event: its body, or the epitaph of a tombstone."""
        kind = plaintext[:1]
        if kind == codec.INODE:
            ino, content = codec.decode_inode_numbers(tombstone, plaintext)
            self.inodes.add(ino)
            self.contents |= {ino, content}
        elif kind == codec.ENTRY:
            record = codec.decode_entry(plaintext)
            self.entries.add((record.parent, record.name))
            self.inodes.add(record.ino)
        elif kind == codec.SUPERBLOCK:
            self.superblock = True
        elif kind == codec.NUMBERS:
            self.numbers = True
        elif tombstone:
            self.keys.add(key)

    def __bool__(self) -> bool:
        return bool(self.inodes or self.keys or self.entries or self.superblock or self.numbers)


class Stale(NamedTuple):
    """What the kernel must be told to forget: attributes of inodes; attributes and pages (or listings) of others; and
    entries, as (parent, name). Only what it may know is in here.
    """

    attributes: set[int]
    pages: set[int]
    entries: set[tuple[int, bytes]]


class Refresh:
    """Takes out of the caches what others have changed. Nothing of it is dirty."""

    def __init__(
        self, inodes: Inodes, directories: Directories, maps: Maps, cache: BlockCache, reaper: Reaper
    ) -> None:  # fmt: skip
        self._inodes = inodes
        self._directories = directories
        self._maps = maps
        self._cache = cache
        self._reaper = reaper

    def forget(self, touched: Touched) -> Stale:
        """Loads first, then forgets."""
        inodes = touched.inodes | self._inodes.numbers_of(touched.keys) | self._directories.cached(touched.entries)
        named = self._inodes.no_longer_nameless(inodes)
        contents = touched.contents | self._inodes.contents_of(inodes)
        pages = {ino for ino in inodes - touched.same_content if self._inodes.has_pages(ino)}
        self._inodes.forget(inodes, named)
        self._directories.forget(touched.entries)
        self._maps.forget(contents)
        self._cache.forget(inodes | contents)
        self._reaper.look_again()
        known = self._inodes.references
        inodes = {ino for ino in inodes if ino in known or ino == ROOT_INO}
        changed = touched.entries - touched.same_names
        entries = {(parent, name) for parent, name in changed if parent in known or parent == ROOT_INO}
        return Stale(inodes - pages, inodes & pages, entries)
