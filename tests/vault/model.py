"""A filesystem as dictionaries: what the vault is compared with. No caches, no commits, no cleverness."""

from __future__ import annotations

import copy
import errno
import stat
from dataclasses import dataclass, field

PAGE = 4096
EMPTY = bytes(PAGE)


class Refused(Exception):
    """errno: what the operation answers."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass
class Node:
    mode: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    size: int = 0
    target: bytes = b""
    parent: int = 0
    mtime: int = 0
    ctime: int = 0
    atime: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            page, inner = divmod(offset + at, PAGE)
            piece = data[at : at + PAGE - inner]
            old = self.pages.get(page, EMPTY)
            self.pages[page] = old[:inner] + piece + old[inner + len(piece) :]
            at += len(piece)
        self.size = max(self.size, offset + len(data))

    def read(self, offset: int, size: int) -> bytes:
        end = min(self.size, offset + size)
        if offset >= end:
            return b""
        first, last = offset // PAGE, (end - 1) // PAGE
        whole = b"".join(self.pages.get(page, EMPTY) for page in range(first, last + 1))
        return whole[offset - first * PAGE : end - first * PAGE]

    def resize(self, size: int) -> None:
        self.size = min(self.size, size)
        keep, inner = divmod(size, PAGE)
        for page in [page for page in self.pages if page > keep or (page == keep and not inner)]:
            del self.pages[page]
        if inner and keep in self.pages:
            self.pages[keep] = self.pages[keep][:inner] + bytes(PAGE - inner)
        self.size = size

    def punch(self, offset: int, length: int) -> None:
        end = min(self.size, offset + length)
        touched = [page for page in self.pages if page * PAGE < end and (page + 1) * PAGE > offset]
        for page in touched if offset < end else []:
            low, high = max(0, offset - page * PAGE), min(PAGE, end - page * PAGE)
            self.pages[page] = self.pages[page][:low] + bytes(high - low) + self.pages[page][high:]


class Model:
    """nodes: by inode number; the vault says which number it gave. held: references of a pretended kernel."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {1: Node(stat.S_IFDIR | 0o755, nlink=2, parent=1)}
        self.held: dict[int, int] = {}

    def snapshot(self) -> Model:
        """What a crash leaves: every name and what it leads to, and no references."""
        other = Model()
        other.nodes = {ino: self._copy(node) for ino, node in self.nodes.items() if node.nlink}
        return other

    @staticmethod
    def _copy(node: Node) -> Node:
        other = copy.copy(node)
        other.pages, other.entries, other.xattrs = dict(node.pages), dict(node.entries), dict(node.xattrs)
        return other

    def find(self, parent: int, name: bytes) -> int:
        ino = self.directory(parent).entries.get(name)
        if ino is None:
            raise Refused(errno.ENOENT)
        return ino

    def directory(self, ino: int) -> Node:
        node = self.nodes[ino]
        if not node.is_dir:
            raise Refused(errno.ENOTDIR)
        return node

    def check_free(self, parent: int, name: bytes) -> Node:
        directory = self.directory(parent)
        if directory.nlink == 0:
            raise Refused(errno.ENOENT)
        if name in directory.entries:
            raise Refused(errno.EEXIST)
        return directory

    def add(self, parent: int, name: bytes, ino: int, node: Node, now: int) -> None:
        directory = self.nodes[parent]
        directory.entries[name] = ino
        directory.mtime = directory.ctime = now
        node.mtime = node.ctime = node.atime = now
        if directory.mode & stat.S_ISGID:
            node.gid = directory.gid
            node.mode |= stat.S_ISGID if node.is_dir else 0
        if node.is_dir:
            node.nlink, node.parent = 2, parent
            directory.nlink += 1
        self.nodes[ino] = node

    def tmpfile(self, parent: int, ino: int, node: Node, now: int) -> None:
        """Held once by the kernel, as an open file is."""
        node.mtime = node.ctime = node.atime = now
        node.nlink = 0
        if self.nodes[parent].mode & stat.S_ISGID:
            node.gid = self.nodes[parent].gid
        self.nodes[ino] = node
        self.held[ino] = 1

    def link(self, ino: int, parent: int, name: bytes, now: int) -> None:
        self.directory(parent)
        if self.nodes[parent].nlink == 0:
            raise Refused(errno.ENOENT)
        node = self.nodes[ino]
        if node.is_dir:
            raise Refused(errno.EPERM)
        directory = self.check_free(parent, name)
        directory.entries[name] = ino
        directory.mtime = directory.ctime = node.ctime = now
        node.nlink += 1

    def unlink(self, parent: int, name: bytes, now: int) -> None:
        node = self.nodes[self.find(parent, name)]
        if node.is_dir:
            raise Refused(errno.EISDIR)
        self.drop(parent, name, now)

    def rmdir(self, parent: int, name: bytes, now: int) -> None:
        node = self.nodes[self.find(parent, name)]
        if not node.is_dir:
            raise Refused(errno.ENOTDIR)
        if node.entries:
            raise Refused(errno.ENOTEMPTY)
        self.drop(parent, name, now)

    def drop(self, parent: int, name: bytes, now: int) -> None:
        directory = self.nodes[parent]
        ino = directory.entries.pop(name)
        directory.mtime = directory.ctime = now
        node = self.nodes[ino]
        directory.nlink -= node.is_dir
        node.nlink = 0 if node.is_dir else node.nlink - 1
        node.ctime = now
        self.let_go(ino)

    def let_go(self, ino: int) -> None:
        if self.nodes[ino].nlink == 0 and not self.held.get(ino):
            del self.nodes[ino]

    def rename(self, parent: int, name: bytes, other: int, new: bytes, *, flags: int, now: int) -> None:
        ino = self.check_rename(parent, name, other, new, flags)
        node = self.nodes[ino]
        there = self.nodes[other].entries.get(new)
        if ino == there:
            return
        for directory in (self.nodes[parent], self.nodes[other]):
            directory.mtime = directory.ctime = now
        node.ctime = now
        if flags != 2 and there is not None:
            self.drop(other, new, now)
        del self.nodes[parent].entries[name]
        self.nodes[parent].nlink -= node.is_dir
        self.nodes[other].nlink += node.is_dir
        if node.is_dir:
            node.parent = other
        if flags == 2:
            assert there is not None
            swapped = self.nodes[there]
            self.nodes[parent].entries[name] = there
            self.nodes[parent].nlink += swapped.is_dir
            self.nodes[other].nlink -= swapped.is_dir
            swapped.ctime = now
            if swapped.is_dir:
                swapped.parent = parent
        self.nodes[other].entries[new] = ino

    def check_rename(self, parent: int, name: bytes, other: int, new: bytes, flags: int) -> int:
        self.directory(parent)
        target = self.directory(other)
        if target.nlink == 0:
            raise Refused(errno.ENOENT)
        ino = self.find(parent, name)
        there = target.entries.get(new)
        if flags == 2 and there is None:
            raise Refused(errno.ENOENT)
        if flags == 1 and there is not None:
            raise Refused(errno.EEXIST)
        node = self.nodes[ino]
        if node.is_dir and parent != other and self.inside(other, ino):
            raise Refused(errno.EINVAL)
        if there is None or there == ino:
            return ino
        replaced = self.nodes[there]
        if flags == 2:
            if replaced.is_dir and parent != other and self.inside(parent, there):
                raise Refused(errno.EINVAL)
        elif replaced.is_dir:
            if not node.is_dir:
                raise Refused(errno.EISDIR)
            if replaced.entries:
                raise Refused(errno.ENOTEMPTY)
        elif node.is_dir:
            raise Refused(errno.ENOTDIR)
        return ino

    def inside(self, ino: int, top: int) -> bool:
        while ino != 1:
            if ino == top:
                return True
            ino = self.nodes[ino].parent
        return False
