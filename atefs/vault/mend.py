"""fsck's hands: putting right what a survey found, by commits like any other, so that a crash half-way does no harm.

Nothing that verifies is thrown away: inodes without a home go to `lost+found`, lost content becomes a hole and is
reported.
"""

from __future__ import annotations

import stat
import time
from collections import defaultdict
from collections.abc import Callable

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from atefs.vault import acl, codec
from atefs.vault.check import Kind, Problem, Survey, regions
from atefs.vault.inode import Inode
from atefs.vault.layout import RegionMap
from atefs.vault.limits import BLOCK, REGION_BLOCKS, ROOT_INO
from atefs.vault.numbers import Numbers
from atefs.vault.objects import Objects
from atefs.vault.ranges import cut

LOST_AND_FOUND = b"lost+found"
_ROUNDS = 4
_BATCH = 10_000


def mend(chain: Chain, report: Callable[[Problem], None], clock: Callable[[], int] = time.time_ns) -> list[Problem]:
    """Repair the vault in `chain` until a survey finds nothing; `report` hears of each problem once.

    Returns what is still wrong after the last round: normally nothing. Raises NoSpaceError, StorageError.
    """
    heard: set[Problem] = set()
    left: list[Problem] = []
    for _ in range(_ROUNDS):
        survey = Survey(chain)
        left = survey.run()
        for problem in left:
            if problem not in heard:
                heard.add(problem)
                report(problem)
        if not left:
            break
        _Mender(chain, survey, clock).mend(left)
        chain.barrier()
    return left


class _Mender:
    """One round: the changes that answer a survey."""

    def __init__(self, chain: Chain, survey: Survey, clock: Callable[[], int]) -> None:
        self._chain = chain
        self._survey = survey
        self._now = clock()
        self._inodes: dict[int, Inode] = {}
        self._changes: dict[bytes, Change] = {}
        self._terms: dict[int, list[Term]] = defaultdict(list)
        self._found = 0

    def mend(self, problems: list[Problem]) -> None:
        """Answer each problem, then commit."""
        answers: dict[Kind, Callable[[Problem], None]] = {
            Kind.NO_SUPERBLOCK: self._superblock,
            Kind.NEXT_INO: self._next_ino,
            Kind.NO_ROOT: self._root,
            Kind.UNREADABLE: self._remove,
            Kind.LEAKED: self._remove,
            Kind.DANGLING: self._remove_entry,
            Kind.HOMELESS: self._remove_entry,
            Kind.TWICE: self._remove_entry,
            Kind.MISNAMED: self._rename_type,
            Kind.NAMELESS: self._rescue,
            Kind.CYCLE: self._rescue,
            Kind.LINKS: self._links,
            Kind.ENTRIES: self._entries,
            Kind.PARENT: self._parent,
            Kind.LISTING: self._listing,
            Kind.ACL: self._acl,
            Kind.ORPHAN: self._write_again,
            Kind.LOST_MAP: self._lost_map,
            Kind.LOST_BLOCK: self._lost_block,
            Kind.LOST_SHARED: self._lost_shared,
            Kind.USERS: self._users,
        }
        rescued = {p.ino for p in problems if p.kind in (Kind.NAMELESS, Kind.CYCLE)}
        for problem in problems:
            if problem.kind == Kind.PARENT and problem.ino in rescued:
                continue
            answers[problem.kind](problem)
        self._commit()

    def _commit(self) -> None:
        orphans = codec.orphans_group(self._chain)
        for inode in self._inodes.values():
            change = codec.inode_change(self._chain, inode, orphans)
            terms = (*change.terms, *self._terms.get(inode.ino, ()))
            self._changes[change.key] = change._replace(terms=terms)
        changes = list(self._changes.values())
        for start in range(0, len(changes), _BATCH):
            self._chain.commit(changes[start : start + _BATCH])

    def _touch(self, ino: int) -> Inode:
        """The inode, to be written again as it will be at the end of the round."""
        inode = self._inodes.get(ino)
        if inode is None:
            body = self._chain.load(codec.inode_key(self._chain, ino))
            if body is None:
                raise AssertionError(f"inode {ino} was surveyed and is not there")
            inode = self._inodes[ino] = codec.decode_inode(self._chain, body)
        return inode

    # Objects

    def _remove(self, problem: Problem) -> None:
        self._changes[problem.key] = Change(problem.key, Lane(problem.detail[0]), b"", tombstone=True)

    def _write_again(self, problem: Problem) -> None:
        """The terms that follow from the inode are put right by that."""
        self._touch(problem.ino)

    def _acl(self, problem: Problem) -> None:
        """Without the list, the mode decides alone. Its group bits were the mask, which the group may not have had."""
        inode = self._touch(problem.ino)
        gone = acl.unsound(inode)
        if acl.ACCESS in gone:
            inode.mode &= ~stat.S_IRWXG
        inode.xattrs = {name: value for name, value in (inode.xattrs or {}).items() if name not in gone} or None

    def _superblock(self, _problem: Problem) -> None:
        old = self._survey.superblock
        next_ino = self._survey.top + 1
        created, quota = (old.created, old.quota) if old else (self._now, 0)
        change = codec.superblock_change(self._chain, created, next_ino, quota)
        self._changes[change.key] = change

    def _next_ino(self, problem: Problem) -> None:
        """All devices begin new ranges, and everything in use counts as from before there were any."""
        self._superblock(problem)
        for record in self._survey.numbers:
            key = codec.numbers_key(self._chain, record.device)
            self._changes[key] = Change(key, Lane.META, b"", tombstone=True)

    def _root(self, _problem: Problem) -> None:
        now = self._now
        self._inodes[ROOT_INO] = Inode(
            ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 2, 0, 0, now, now, now, now, parent=ROOT_INO,
            key=codec.inode_key(self._chain, ROOT_INO),
        )  # fmt: skip

    # Entries

    def _remove_entry(self, problem: Problem) -> None:
        body = self._chain.load(problem.key)
        if body is not None:
            record = codec.decode_entry(body)
            self._put_entry(record.parent, record.name, record.ino, record.type, gone=True)

    def _put_entry(self, parent: int, name: bytes, ino: int, kind: int, gone: bool = False) -> None:
        group = codec.directory_group(self._chain, parent)
        change = codec.entry_change(self._chain, group, codec.EntryRecord(parent, name, ino, kind), gone)
        self._changes[change.key] = change

    def _rename_type(self, problem: Problem) -> None:
        body = self._chain.load(problem.key)
        if body is not None:
            record = codec.decode_entry(body)
            self._put_entry(record.parent, record.name, record.ino, self._survey.nodes[record.ino].mode >> 12)

    def _listing(self, problem: Problem) -> None:
        """Take out what should not be shown; write again the entries that should be."""
        group = codec.directory_group(self._chain, problem.ino)
        shown = self._chain.members(group).keys()
        inside = {name.key: name for name in self._survey.names if name.parent == problem.ino}
        self._touch(problem.ino)
        self._terms[problem.ino] += [Term(group, key, None) for key in shown - inside.keys()]
        for key in inside.keys() - shown:
            name = inside[key]
            self._put_entry(name.parent, name.name, name.ino, name.type)

    def _rescue(self, problem: Problem) -> None:
        """Give the inode a name in lost+found; a directory in a cycle loses the one it has there."""
        if problem.kind == Kind.CYCLE:
            for name in self._survey.names:
                if name.ino == problem.ino:
                    self._put_entry(name.parent, name.name, name.ino, name.type, gone=True)
        shelter = self._shelter()
        inode = self._touch(problem.ino)
        self._put_entry(shelter.ino, b"#%d" % inode.ino, inode.ino, inode.type)
        shelter.size += 1
        if inode.is_dir:
            shelter.nlink += 1
            inode.parent = shelter.ino

    def _shelter(self) -> Inode:
        """lost+found, made if it is not there; later rounds count its links and entries again."""
        for name in self._survey.names:
            if name.parent == ROOT_INO and name.name == LOST_AND_FOUND and stat.S_ISDIR(name.type << 12):
                return self._touch(name.ino)
        if not self._found:
            now, root = self._now, self._root_inode()
            numbers = Numbers(Objects(self._chain))
            self._found = numbers.allocate()
            self._inodes[self._found] = Inode(
                self._found, stat.S_IFDIR | 0o700, root.uid, root.gid, 2, 0, 0, now, now, now, now,
                parent=ROOT_INO, key=codec.inode_key(self._chain, self._found),
            )  # fmt: skip
            self._put_entry(ROOT_INO, LOST_AND_FOUND, self._found, stat.S_IFDIR >> 12)
            root.size += 1
            root.nlink += 1
            change = numbers.change(self._chain)
            self._changes[change.key] = change
        return self._inodes[self._found]

    def _root_inode(self) -> Inode:
        return self._inodes[ROOT_INO] if ROOT_INO in self._inodes else self._touch(ROOT_INO)

    # Inodes

    def _links(self, problem: Problem) -> None:
        self._touch(problem.ino).nlink = problem.detail[1]

    def _entries(self, problem: Problem) -> None:
        self._touch(problem.ino).size = problem.detail[1]

    def _parent(self, problem: Problem) -> None:
        self._touch(problem.ino).parent = problem.detail[1]

    # Content

    def _lost_map(self, problem: Problem) -> None:
        """The region is a hole from now on."""
        inode = self._touch(problem.ino)
        region = problem.detail[0] // (REGION_BLOCKS * BLOCK)
        if inode.layout is not None:
            cut(inode.layout.ranges, region, region + 1)
            cut(inode.layout.doomed or [], region, region + 1)

    def _lost_block(self, problem: Problem) -> None:
        """What is left of the block stays; a lost base or patch reads as zeros, or as what lies below."""
        inode = self._touch(problem.ino)
        offset, _, slot = problem.detail
        region, index = divmod(offset // BLOCK, REGION_BLOCKS)
        region_map = self._map(inode, region)
        block = region_map.get(index) if region_map is not None else None
        if region_map is None or block is None:
            return
        left = block.without(slot)
        if left.end:
            region_map.put(index, left)
        else:
            region_map.drop(index)
        if region:
            self._put_map(inode, region, region_map)

    def _lost_shared(self, problem: Problem) -> None:
        """What the file had of it becomes holes."""
        inode = self._touch(problem.ino)
        layout, lost = inode.layout, problem.detail[0]
        assert layout is not None
        layout.bases = [base for base in layout.bases if base.number != lost]
        layout.cut = [base for base in layout.cut if base.number != lost]
        for region, _ in regions(self._chain, inode, lambda *_: None):
            region_map = self._map(inode, region)
            gone = [index for index, (number, _) in region_map.foreign.items() if number == lost] if region_map else []
            if region_map is not None and gone:
                for index in gone:
                    region_map.drop(index)
                if region:
                    self._put_map(inode, region, region_map)

    def _users(self, problem: Problem) -> None:
        layout = self._touch(problem.ino).layout
        assert layout is not None
        layout.users = self._survey.uses.get(problem.ino, [])

    def _put_map(self, inode: Inode, region: int, region_map: RegionMap) -> None:
        change = codec.map_change(self._chain, inode.content, region, region_map)
        self._changes[change.key] = change

    def _map(self, inode: Inode, region: int) -> RegionMap | None:
        if region == 0:
            return inode.layout.first if inode.layout is not None else None
        key = codec.map_key(self._chain, inode.content, region)
        pending = self._changes.get(key)
        body = bytes(pending.body) if pending and isinstance(pending.body, bytes) else self._chain.load(key)
        return None if body is None else codec.decode_map(body)
