"""fsck: each planted inconsistency is found, named and mended, and nothing else is touched."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from atedb.errors import DamagedError
from atefs.vault import acl, codec
from atefs.vault.check import Kind, Problem, Survey
from atefs.vault.inode import Attributes, Caller, Inode
from atefs.vault.limits import BLOCK, REGION_BLOCKS, ROOT_INO
from atefs.vault.mend import LOST_AND_FOUND, mend
from atefs.vault.vault import Vault

ROOT = bytes(32)
CALLER = Caller(0, 0, 0o022)
BIG = REGION_BLOCKS * BLOCK + 3 * BLOCK
CONTENT = bytes(range(256)) * 16


class Planted:
    """A vault with a directory, an inline file and a big one, and a hand that writes objects behind its back."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        vault = Vault.make(chain)
        self.folder = vault.mkdir(ROOT_INO, b"folder", 0o755, CALLER).ino
        self.small = vault.mknod(self.folder, b"small", stat.S_IFREG | 0o644, 0, CALLER).ino
        vault.write(self.small, 0, b"small content")
        self.big = vault.mknod(self.folder, b"big", stat.S_IFREG | 0o644, 0, CALLER).ino
        for offset in range(0, BIG, len(CONTENT) * 256):
            vault.write(self.big, offset, CONTENT * 256)
        vault.commit()

    def inode(self, ino: int) -> Inode:
        body = self.chain.load(codec.inode_key(self.chain, ino))
        assert body is not None
        return codec.decode_inode(self.chain, body)

    def commit(self, change: Change) -> None:
        self.chain.commit([change])

    def put(self, inode: Inode, **fields: int) -> None:
        for name, value in fields.items():
            setattr(inode, name, value)
        inode.key = codec.inode_key(self.chain, inode.ino)
        self.chain.commit([codec.inode_change(self.chain, inode, codec.orphans_group(self.chain))])

    def entry(self, parent: int, name: bytes, ino: int, kind: int, *, gone: bool = False) -> None:
        group = codec.directory_group(self.chain, parent)
        self.chain.commit([codec.entry_change(self.chain, group, codec.EntryRecord(parent, name, ino, kind), gone)])

    def end(self, key: bytes, lane: Lane) -> None:
        self.chain.commit([Change(key, lane, b"", tombstone=True)])


FILE, FOLDER = stat.S_IFREG >> 12, stat.S_IFDIR >> 12
Plant = Callable[[Planted], None]


def plant_cycle(p: Planted) -> None:
    """folder moves into its own child."""
    vault = Vault(p.chain)
    child = vault.mkdir(p.folder, b"child", 0o755, CALLER).ino
    vault.commit()
    p.entry(ROOT_INO, b"folder", p.folder, FOLDER, gone=True)
    p.entry(child, b"folder", p.folder, FOLDER)


def plant_unlisted_orphan(p: Planted) -> None:
    vault = Vault(p.chain)
    vault.remember(p.small)
    vault.unlink(p.folder, b"small")
    vault.commit()
    row = Term(codec.orphans_group(p.chain), codec.inode_key(p.chain, p.small), None)
    p.chain.commit([codec.superblock_change(p.chain, 0, 65_538, 0)._replace(terms=(row,))])


def plant_shortened_range(p: Planted) -> None:
    p.commit(codec.numbers_change(p.chain, codec.NumbersRecord(p.chain.device, p.folder, p.folder + 1)))


def plant_unlisted_entry(p: Planted) -> None:
    row = Term(codec.directory_group(p.chain, p.folder), codec.entry_key(p.chain, p.folder, b"small"), None)
    p.chain.commit([codec.superblock_change(p.chain, 0, 65_538, 0)._replace(terms=(row,))])


def plant_unsound_acl(p: Planted) -> None:
    small = p.inode(p.small)
    small.xattrs = {acl.ACCESS: b"no list", b"user.kept": b""}
    p.put(small, mode=stat.S_IFREG | 0o674)


PLANTS: dict[Kind, Plant] = {
    Kind.NO_SUPERBLOCK: lambda p: p.end(codec.superblock_key(p.chain), Lane.META),
    Kind.NO_ROOT: lambda p: p.end(codec.inode_key(p.chain, ROOT_INO), Lane.META),
    Kind.NEXT_INO: plant_shortened_range,
    Kind.DANGLING: lambda p: p.end(codec.inode_key(p.chain, p.small), Lane.META),
    Kind.HOMELESS: lambda p: p.entry(999, b"lost", p.small, FILE),
    Kind.MISNAMED: lambda p: p.entry(p.folder, b"small", p.small, FOLDER),
    Kind.TWICE: lambda p: p.entry(ROOT_INO, b"zweiter", p.folder, FOLDER),
    Kind.NAMELESS: lambda p: p.entry(p.folder, b"small", p.small, FILE, gone=True),
    Kind.CYCLE: plant_cycle,
    Kind.LINKS: lambda p: p.put(p.inode(p.small), nlink=7),
    Kind.ENTRIES: lambda p: p.put(p.inode(p.folder), size=7),
    Kind.PARENT: lambda p: p.put(p.inode(p.folder), parent=7),
    Kind.LISTING: plant_unlisted_entry,
    Kind.ACL: plant_unsound_acl,
    Kind.ORPHAN: plant_unlisted_orphan,
    Kind.LOST_MAP: lambda p: p.end(codec.map_key(p.chain, p.big, 1), Lane.META),
    Kind.LOST_BLOCK: lambda p: p.end(codec.block_key(p.chain, p.big, 1, 0), Lane.BLOB),
    Kind.LEAKED: lambda p: p.commit(Change(codec.block_key(p.chain, 999, 0, 0), Lane.BLOB, b"x")),
}


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Planted]:
    chain = Chain.create(tmp_path / "store", ROOT)
    yield Planted(chain)
    chain.close()


def mended(chain: Chain) -> list[Problem]:
    heard: list[Problem] = []
    assert mend(chain, heard.append) == []
    return heard


def test_a_sound_vault_has_no_problems_and_is_left_alone(planted: Planted) -> None:
    before = planted.chain.head
    assert Survey(planted.chain).run() == []
    assert mended(planted.chain) == []
    assert planted.chain.head == before


@pytest.mark.parametrize("kind", PLANTS, ids=lambda kind: kind.name)
def test_a_planted_problem_is_found_named_and_mended(planted: Planted, kind: Kind) -> None:
    PLANTS[kind](planted)
    assert kind in {problem.kind for problem in Survey(planted.chain).run()}
    assert all(str(problem) for problem in mended(planted.chain))
    vault = Vault(planted.chain)
    folder = planted.folder
    if kind == Kind.CYCLE:
        shelter = vault.lookup(ROOT_INO, LOST_AND_FOUND).ino
        assert any(row.name.startswith(b"#") for row in vault.readdir(shelter))
    else:
        if kind != Kind.NO_ROOT:
            assert vault.lookup(ROOT_INO, b"folder").ino == folder
        expected = CONTENT * (BLOCK // len(CONTENT))
        assert vault.read(planted.big, 0, BLOCK) == expected
    if kind in (Kind.DANGLING, Kind.NAMELESS, Kind.ORPHAN):
        assert [row.name for row in vault.readdir(folder)][2:] == [b"big"]
    else:
        assert vault.read(vault.lookup(folder, b"small").ino, 0, 100) == b"small content"


def test_without_its_unsound_list_a_file_is_open_to_nobody_new(planted: Planted) -> None:
    PLANTS[Kind.ACL](planted)
    vault = Vault(planted.chain)
    with pytest.raises(DamagedError, match="atefs fsck"):
        vault.setattr(planted.small, Attributes(mode=0o600))
    problems = mended(planted.chain)
    assert [(p.kind, p.path) for p in problems] == [(Kind.ACL, b"/folder/small")]
    small = Vault(planted.chain).getattr(planted.small)
    assert (small.mode & 0o777, small.xattrs) == (0o604, {b"user.kept": b""})


def test_what_has_no_name_is_found_again_in_lost_and_found(planted: Planted) -> None:
    PLANTS[Kind.NAMELESS](planted)
    mended(planted.chain)
    vault = Vault(planted.chain)
    shelter = vault.lookup(ROOT_INO, LOST_AND_FOUND).ino
    again = vault.lookup(shelter, b"#%d" % planted.small)
    assert vault.read(again.ino, 0, 100) == b"small content"


def test_lost_content_becomes_a_hole_and_the_rest_of_the_file_stays(planted: Planted) -> None:
    PLANTS[Kind.LOST_BLOCK](planted)
    problems = mended(planted.chain)
    assert [(p.kind, p.path, p.detail) for p in problems] == [(Kind.LOST_BLOCK, b"/folder/big", (BLOCK, BLOCK, 0))]
    vault = Vault(planted.chain)
    assert vault.read(planted.big, BLOCK, BLOCK) == bytes(BLOCK)
    assert vault.read(planted.big, 2 * BLOCK, len(CONTENT)) == CONTENT


def test_an_object_that_cannot_be_opened_is_taken_out(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a body that was changed on disk after it was written."""
    key = codec.inode_key(planted.chain, planted.small)
    load = planted.chain.load

    def broken(wanted: bytes) -> bytes | None:
        if wanted == key and planted.chain.exists(key):
            raise DamagedError("planted")
        return load(wanted)

    monkeypatch.setattr(planted.chain, "load", broken)
    assert Kind.UNREADABLE in {problem.kind for problem in mended(planted.chain)}
    assert [row.name for row in Vault(planted.chain).readdir(planted.folder)][2:] == [b"big"]
