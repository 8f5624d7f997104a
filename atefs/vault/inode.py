"""The inode in memory, and the small values that operations take and give."""

from __future__ import annotations

import stat
from typing import NamedTuple

import msgspec

from atefs.vault.layout import Layout


class Inode(msgspec.Struct, eq=False, gc=False):
    """One file, directory, link or special file. Read its fields freely; only the vault changes them.

    Times are nanoseconds since 1970 and may be negative; `blocks` counts 512 bytes. A directory's `size` is the number
    of its entries, and `parent` is its parent's number. `stamp` has a new value, never used before, after each change.
    """

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    rdev: int = 0
    flags: int = 0
    generation: int = 0
    parent: int = 0
    xattrs: dict[bytes, bytes] | None = None
    inline: bool = True
    """The content, or a link's target, lives in the inode."""
    data: bytes | None = b""
    """That content, of which all beyond its end is zero; None: not in memory now (only while clean)."""
    layout: Layout | None = None
    """Where content that is not inline lives, and what is left to be deleted of former content."""
    stamp: int = 0
    dirty: bool = False
    stored: bool = False
    """The chain has it, or will once the commit in flight has settled."""
    listed: bool = False
    """The chain may have it in the set of inodes that wait to be reaped."""
    key: bytes = b""
    content: int = 0
    """The number by which its blocks and maps are named: its own, until they became shared content (0: no file)."""
    keeper: int = 0
    """While it has no name: the device that has it open or is at work on it (`Numbers.keeper`), 0 for nobody."""
    counted: int = 0
    """What `Space.dirty` counts of it while it is dirty, content in blocks apart."""

    @property
    def is_dir(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFREG

    @property
    def is_link(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFLNK

    @property
    def type(self) -> int:
        """The type as directory entries carry it (man 3 readdir, d_type)."""
        return self.mode >> 12


class Attributes(NamedTuple):
    """What setattr is to change; None leaves a field as it is. Times in nanoseconds, size in bytes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None


class Caller(NamedTuple):
    """On whose behalf: owner of what is made, and what the set-id rules go by."""

    uid: int = 0
    gid: int = 0
    umask: int = 0


class StatFs(NamedTuple):
    """man 3 statvfs. total, free, available in units of bsize bytes."""

    total: int
    free: int
    available: int
    files: int
    files_free: int
    namemax: int
    bsize: int


class DirEntry(NamedTuple):
    """One row of a listing; type is mode >> 12."""

    name: bytes
    ino: int
    type: int
