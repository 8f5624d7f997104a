"""fsck's eyes: every invariant of the tree of objects (docs/formats.md), checked against all that the chain holds.

The survey reads every META object once and asks for every block by key; it opens no content. What it finds is a list
of `Problem`s, which `atefs.vault.mend` knows how to put right.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.chain.format import TOMBSTONE
from atedb.errors import DamagedError
from atefs.vault import acl, codec
from atefs.vault.inode import Inode
from atefs.vault.layout import RegionMap
from atefs.vault.limits import BLOCK, REGION_BLOCKS, ROOT_INO
from atefs.vault.ranges import Ranges, add, contains, cut
from atefs.vault.shared import lenders
from atefs.vault.shares import Users, summed

Progress = Callable[[int, int], None]


class Kind(Enum):
    """What can be wrong. The value is what a person reads."""

    NO_SUPERBLOCK = "the superblock is missing"
    NO_ROOT = "the root directory is missing"
    NEXT_INO = "inode numbers could be given out twice"
    UNREADABLE = "an object cannot be opened"
    DANGLING = "an entry names an inode that is lost"
    HOMELESS = "an entry is in a directory that is lost"
    MISNAMED = "an entry does not say what its inode is"
    TWICE = "a directory has two names"
    NAMELESS = "an inode has no name"
    CYCLE = "a directory is not reachable from the root"
    LINKS = "an inode's link count is wrong"
    ENTRIES = "a directory's count of entries is wrong"
    PARENT = "a directory names the wrong parent"
    LISTING = "a directory's listing does not show what is in it"
    ACL = "an access control list is not valid"
    ORPHAN = "a deleted inode is not listed for reaping"
    LOST_MAP = "a map of a file's blocks is lost"
    LOST_BLOCK = "content is lost"
    LOST_SHARED = "content that was shared with another file is lost"
    USERS = "the users of shared content are counted wrong"
    LEAKED = "an object belongs to nothing"


class Problem(NamedTuple):
    """ino: whom it is about, 0 for nobody. key: the object. path: as far as it is known. detail: numbers for `mend`."""

    kind: Kind
    ino: int = 0
    key: bytes = b""
    path: bytes = b""
    detail: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = self.path.decode("utf-8", "backslashreplace") if self.path else ""
        subject = where or (f"inode {self.ino}" if self.ino else f"object {self.key.hex()}")
        numbers = f" ({', '.join(map(str, self.detail))})" if self.detail else ""
        return f"{subject}: {self.kind.value}{numbers}"


class Node(NamedTuple):
    """What the survey keeps of an inode. content: as `Inode.content`. users: of shared content, None for all others."""

    mode: int
    nlink: int
    size: int
    parent: int
    has_layout: bool
    content: int
    users: Users | None


class Name(NamedTuple):
    """What the survey keeps of an entry."""

    key: bytes
    parent: int
    name: bytes
    ino: int
    type: int


class Survey:
    """One look at everything. problems: what was found, after `run`. uses: who uses which shared content."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.problems: list[Problem] = []
        self.nodes: dict[int, Node] = {}
        self.names: list[Name] = []
        self.superblock: codec.SuperblockRecord | None = None
        self.numbers: list[codec.NumbersRecord] = []
        self.uses: dict[int, Users] = {}
        self._users: dict[int, int] = {}
        self._orphans: set[int] = set()
        self._maps: set[bytes] = set()
        self._home: dict[int, tuple[int, bytes]] = {}
        self._unsound: list[int] = []

    def run(self, progress: Progress | None = None) -> list[Problem]:
        """All that is wrong, in an order in which it can be mended. Raises StorageError."""
        self._read_objects(progress)
        self._check_superblock()
        self._check_names()
        self._check_tree()
        for ino in self._unsound:
            self._found(Kind.ACL, ino)
        self._check_listings()
        expected = self._check_content()
        self._check_users()
        self._name_shared()
        self._check_leaks(expected)
        return self.problems

    @property
    def top(self) -> int:
        """The highest number that is in use."""
        return max([ROOT_INO, *self.nodes, *(node.content for node in self.nodes.values())])

    def path(self, ino: int) -> bytes:
        """The path of an inode, as far up as it is known."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while ino != ROOT_INO and ino in self._home and ino not in seen:
            seen.add(ino)
            ino, name = self._home[ino]
            parts.append(name)
        return (b"/" if ino == ROOT_INO else b"...") + b"/".join(reversed(parts))

    def _found(self, kind: Kind, ino: int = 0, key: bytes = b"", detail: tuple[int, ...] = ()) -> None:
        path = self.path(ino) if ino in self._home or ino == ROOT_INO else b""
        self.problems.append(Problem(kind, ino, key, path, detail))

    def live(self, lane: Lane) -> Iterator[bytes]:
        """The keys of all live objects on a lane."""
        for key, record in self._chain.records():
            if record.lane == lane and not record.flags & TOMBSTONE:
                yield key

    # What there is

    def _read_objects(self, progress: Progress | None) -> None:
        total = self._chain.object_count(Lane.META)
        for done, key in enumerate(self.live(Lane.META)):
            if progress and not done % 1000:
                progress(done, total)
            try:
                body = self._chain.load(key)
                if body is not None:
                    self._take(key, body)
            except DamagedError:
                self._found(Kind.UNREADABLE, key=key, detail=(Lane.META,))

    def _take(self, key: bytes, body: bytes) -> None:
        kind = body[:1]
        if kind == codec.INODE:
            inode = codec.decode_inode(self._chain, body)
            layout = inode.layout
            has_layout = layout is not None and not layout.empty()
            users = layout.users if layout is not None else None
            self.nodes[inode.ino] = Node(
                inode.mode, inode.nlink, inode.size, inode.parent, has_layout, inode.content, users
            )
            if inode.xattrs is not None and acl.unsound(inode):
                self._unsound.append(inode.ino)
        elif kind == codec.ENTRY:
            record = codec.decode_entry(body)
            self.names.append(Name(key, record.parent, record.name, record.ino, record.type))
            self._home.setdefault(record.ino, (record.parent, record.name))
        elif kind == codec.MAP:
            self._maps.add(key)
        elif kind == codec.SUPERBLOCK:
            self.superblock = codec.decode_superblock(body)
        elif kind == codec.NUMBERS:
            self.numbers.append(codec.decode_numbers(body))
        elif kind == codec.CONFLICT:
            codec.decode_conflict(body)
        else:
            self._found(Kind.LEAKED, key=key, detail=(Lane.META,))

    # The tree

    def _check_superblock(self) -> None:
        if self.superblock is None:
            self._found(Kind.NO_SUPERBLOCK)
        else:
            self._check_numbers(self.superblock.next_ino)
        if ROOT_INO not in self.nodes:
            self._found(Kind.NO_ROOT, ROOT_INO)

    def _check_numbers(self, next_ino: int) -> None:
        """Whatever is in use is reserved, by one device."""
        reserved: Ranges = []
        for record in self.numbers:
            if cut(list(reserved), record.start, record.limit):
                self._found(Kind.NEXT_INO, detail=(record.start, record.limit))
            add(reserved, record.start, record.limit)
        add(reserved, 0, next_ino)
        numbers = [*self.nodes, *(node.content for node in self.nodes.values())]
        top = max((number for number in numbers if not contains(reserved, number)), default=0)
        if top:
            self._found(Kind.NEXT_INO, detail=(top,))

    def _check_names(self) -> None:
        """Each entry by itself; those that are no good are dropped from `names`."""
        good = []
        homes: set[int] = set()
        for name in self.names:
            node = self.nodes.get(name.ino)
            if node is None:
                self._found(Kind.DANGLING, name.ino, name.key)
            elif not self._is_directory(name.parent):
                self._found(Kind.HOMELESS, name.ino, name.key)
            elif stat.S_ISDIR(node.mode) and name.ino in homes:
                self._found(Kind.TWICE, name.ino, name.key)
            else:
                if name.type != node.mode >> 12:
                    self._found(Kind.MISNAMED, name.ino, name.key)
                homes.add(name.ino)
                good.append(name)
                self._home[name.ino] = (name.parent, name.name)
        self.names = good

    def _is_directory(self, ino: int) -> bool:
        node = self.nodes.get(ino)
        return node is not None and stat.S_ISDIR(node.mode)

    def _check_tree(self) -> None:
        links = Counter(name.ino for name in self.names)
        entries = Counter(name.parent for name in self.names)
        folders = Counter(name.parent for name in self.names if self._is_directory(name.ino))
        rows = self._chain.members(codec.orphans_group(self._chain)).values()
        self._orphans = {codec.decode_orphan(row) for row in rows}
        rooted = {ROOT_INO}
        for ino, node in self.nodes.items():
            is_dir = stat.S_ISDIR(node.mode)
            if node.users is not None:
                continue
            if node.nlink == 0 and not links[ino]:
                if ino not in self._orphans:
                    self._found(Kind.ORPHAN, ino)
                continue
            if not links[ino] and ino != ROOT_INO:
                self._found(Kind.NAMELESS, ino)
            elif is_dir and not self._reaches_root(ino, rooted):
                self._found(Kind.CYCLE, ino)
            right = 2 + folders[ino] if is_dir else max(1, links[ino])
            if node.nlink != right:
                self._found(Kind.LINKS, ino, detail=(node.nlink, right))
            if is_dir and node.size != entries[ino]:
                self._found(Kind.ENTRIES, ino, detail=(node.size, entries[ino]))
            if is_dir and ino in self._home and node.parent != self._home[ino][0]:
                self._found(Kind.PARENT, ino, detail=(node.parent, self._home[ino][0]))

    def _reaches_root(self, ino: int, rooted: set[int]) -> bool:
        """Whether going up ends at the root, or at a directory without a name, which has its own problem."""
        way: set[int] = set()
        while ino not in rooted and ino in self._home:
            if ino in way:
                return False
            way.add(ino)
            ino = self._home[ino][0]
        rooted |= way
        return True

    def _check_listings(self) -> None:
        inside: dict[int, set[bytes]] = {ino: set() for ino, node in self.nodes.items() if stat.S_ISDIR(node.mode)}
        for name in self.names:
            inside[name.parent].add(name.key)
        for ino, keys in inside.items():
            if self._chain.members(codec.directory_group(self._chain, ino)).keys() != keys:
                self._found(Kind.LISTING, ino)

    # Content

    def _check_content(self) -> tuple[int, int]:
        """How many maps and blocks belong to some file."""
        maps = blocks = 0
        for ino, node in self.nodes.items():
            if node.has_layout:
                body = self._chain.load(codec.inode_key(self._chain, ino))
                if body is not None:
                    of_maps, of_blocks = self._check_file(codec.decode_inode(self._chain, body))
                    maps += of_maps
                    blocks += of_blocks
        return maps, blocks

    def _check_file(self, inode: Inode) -> tuple[int, int]:
        assert inode.layout is not None
        maps = blocks = 0
        lent = [(base.number, base.origin, base.length) for base in inode.layout.bases + inode.layout.cut]
        for region, region_map in regions(self._chain, inode, self._lost_map):
            maps += region > 0
            lent += [(number, lender, 1) for number, lender in lenders(region_map)]
            for number, slot in own_objects(region, region_map):
                blocks += 1
                if not self._chain.exists(codec.block_key(self._chain, inode.content, number, slot)):
                    blocks -= 1
                    self._found(Kind.LOST_BLOCK, inode.ino, detail=(number * BLOCK, BLOCK, slot))
        self._check_lent(inode, lent)
        return maps, blocks

    def _check_lent(self, inode: Inode, lent: list[tuple[int, int, int]]) -> None:
        """Count the regions of shared content that an inode uses, and see that what waits in it is listed."""
        for number in {number for number, _, _ in lent}:
            node = self.nodes.get(number)
            if node is None or node.users is None:
                self._found(Kind.LOST_SHARED, inode.ino, detail=(number,))
            else:
                runs = [(first, first + length, 1) for other, first, length in lent if other == number]
                self.uses[number] = summed([*self.uses.get(number, []), *runs])
                if inode.ino in self._home:
                    self._users[number] = inode.ino
        terms = codec.inode_change(self._chain, inode, codec.orphans_group(self._chain)).terms
        if inode.nlink and inode.ino not in self._orphans and any(term.value is not None for term in terms):
            self._found(Kind.ORPHAN, inode.ino)

    def _check_users(self) -> None:
        for number, node in self.nodes.items():
            if node.users is not None and node.users != self.uses.get(number, []):
                self._found(Kind.USERS, number)

    def _name_shared(self) -> None:
        """What is wrong with shared content is wrong with files: each such problem names one of them."""
        for at, problem in enumerate(self.problems):
            user = self._users.get(problem.ino, 0)
            if not problem.path and user in self._home:
                self.problems[at] = problem._replace(path=self.path(user))

    def _lost_map(self, ino: int, region: int) -> None:
        self._found(Kind.LOST_MAP, ino, detail=(region * REGION_BLOCKS * BLOCK, REGION_BLOCKS * BLOCK))

    def _check_leaks(self, expected: tuple[int, int]) -> None:
        """Counting is enough while nothing leaks; only then is it worth knowing which."""
        if (len(self._maps), self._chain.object_count(Lane.BLOB)) == expected:
            return
        used = set(self._used_keys())
        for key in self._maps - used:
            self._found(Kind.LEAKED, key=key, detail=(Lane.META,))
        for key in self.live(Lane.BLOB):
            if key not in used:
                self._found(Kind.LEAKED, key=key, detail=(Lane.BLOB,))

    def _used_keys(self) -> Iterator[bytes]:
        for ino, node in self.nodes.items():
            body = self._chain.load(codec.inode_key(self._chain, ino)) if node.has_layout else None
            if body is None:
                continue
            for region, region_map in regions(self._chain, codec.decode_inode(self._chain, body), lambda *_: None):
                yield codec.map_key(self._chain, node.content, region)
                for number, slot in own_objects(region, region_map):
                    yield codec.block_key(self._chain, node.content, number, slot)


def own_objects(region: int, region_map: RegionMap) -> Iterator[tuple[int, int]]:
    """Block number and slot of each object that a map lists, what it has of shared content apart."""
    for index, block in region_map.blocks():
        if index not in region_map.foreign:
            for slot in block.slots():
                yield region * REGION_BLOCKS + index, slot


def regions(chain: Chain, inode: Inode, lost: Callable[[int, int], None]) -> Iterator[tuple[int, RegionMap]]:
    """The maps of a file, content and what waits to be deleted; `lost` hears of (ino, region) where one is missing."""
    layout = inode.layout
    if layout is None:
        return
    if not layout.first.empty():
        yield 0, layout.first
    for start, end in [*layout.ranges, *(layout.doomed or [])]:
        for region in range(start, end):
            if region == 0:
                continue
            body = chain.load(codec.map_key(chain, inode.content, region))
            if body is None:
                lost(inode.ino, region)
            else:
                yield region, codec.decode_map(body)
