"""What the vault's objects look like in the chain, and what is derived from them."""

from __future__ import annotations

import os

import pytest

from atedb.chain.event import Term
from atedb.errors import DamagedError
from atefs.vault import codec
from atefs.vault.inode import Attributes, Inode
from atefs.vault.layout import FULL, BlockMap, Layout, Patch, RegionMap
from atefs.vault.limits import BLOCK
from atefs.vault.rename import EXCHANGE
from tests.vault.conftest import ME, Bench
from tests.vault.memory_chain import MemoryChain

KEYS = MemoryChain()
ORPHANS = codec.orphans_group(KEYS)


def inode(**fields: object) -> Inode:
    made = Inode(7, 0o100644, 1, 2, 1, 5, 8, -1, 2**62, 3, 4, content=7)
    made.key = codec.inode_key(KEYS, 7)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def body_of(made: Inode) -> bytes:
    body = codec.inode_change(KEYS, made, ORPHANS).body
    assert isinstance(body, bytes)
    return body


def test_an_inode_comes_back_as_it_went() -> None:
    first = RegionMap(5, {9: BlockMap(100, 6, (Patch(1, 2, 33), Patch(4, 5, 36)))}, True)
    layout = Layout(first, [(1, 4), (9, 10)], [(20, 21)])
    made = inode(xattrs={b"user.a": b"\xff"}, inline=False, data=None, layout=layout, rdev=9, parent=3, generation=2)
    again = codec.decode_inode(KEYS, body_of(made))
    for name in set(Inode.__struct_fields__) - {"layout", "stored", "listed", "dirty", "stamp"}:
        assert getattr(again, name) == getattr(made, name), name
    assert again.layout is not None
    assert (again.layout.first.full, again.layout.first.partial) == (5, layout.first.partial)
    assert (again.layout.ranges, again.layout.doomed) == ([(1, 4), (9, 10)], [(20, 21)])
    assert (again.stored, again.listed, again.dirty) == (True, True, False)


def test_the_bytes_of_an_inode_do_not_change_unnoticed() -> None:
    assert body_of(inode(data=b"hello")).hex() == (
        "49dc001207cd81a40102010508ffcf4000000000000000030400000000c0c40568656c6c6fc0"
    )


def test_a_region_map_comes_back_and_a_complete_one_is_small() -> None:
    region = RegionMap(2**64 - 1)
    change = codec.map_change(KEYS, 7, 3, region)
    assert isinstance(change.body, bytes)
    assert len(change.body) < 20
    assert codec.decode_map(change.body).get(63) == FULL
    region.put(1, BlockMap(BLOCK, 2**32 - 1, tuple(Patch(n * 4096, 96, n + 33) for n in range(32))))
    body = codec.map_change(KEYS, 7, 3, region).body
    assert isinstance(body, bytes)
    assert codec.decode_map(body).partial == region.partial


def test_an_object_of_another_kind_is_damage() -> None:
    with pytest.raises(DamagedError, match="an inode"):
        codec.decode_inode(KEYS, b"E\x90")
    with pytest.raises(DamagedError, match="a directory entry"):
        codec.decode_entry(body_of(inode()))


def test_terms_follow_from_the_body_alone() -> None:
    terms = codec.terms_of(KEYS)
    group = codec.directory_group(KEYS, 1)
    record = codec.EntryRecord(1, b"name", 7, 8)
    for gone in (False, True):
        change = codec.entry_change(KEYS, group, record, gone)
        assert isinstance(change.body, bytes)
        assert terms(gone, change.body) == change.terms
        assert (change.terms[0].value is None) == gone
    doomed = {None: 0, (): 1, ((5, 6),): 1}
    for nlink in (0, 1):
        for ranges, count in doomed.items():
            layout = Layout(doomed=None if ranges is None else list(ranges))
            change = codec.inode_change(KEYS, inode(nlink=nlink, inline=False, data=None, layout=layout), ORPHANS)
            assert isinstance(change.body, bytes)
            assert terms(False, change.body) == change.terms
            assert len(change.terms) == (1 if nlink == 0 else count)
    stone = codec.inode_tombstone(KEYS, 7, True)
    assert isinstance(stone.body, bytes)
    assert terms(True, stone.body) == stone.terms == (Term(ORPHANS, codec.inode_key(KEYS, 7), None),)
    assert terms(True, b"") == codec.inode_tombstone(KEYS, 7, False).terms == ()


def test_a_view_rebuilt_from_the_log_lists_the_same(bench: Bench) -> None:
    vault = bench.vault
    folder = bench.folder()
    for number in range(200):
        bench.file(b"%d" % number, os.urandom(20), folder)
    bench.committed()
    for number in range(0, 200, 2):
        vault.unlink(folder, b"%d" % number)
    for number in range(1, 200, 4):
        vault.rename(folder, b"%d" % number, 1, b"moved %d" % number)
    bench.file(b"swap")
    vault.rename(1, b"swap", folder, b"3", EXCHANGE)
    kept = vault.mknod(1, b"kept", 0o644, 0, ME).ino
    vault.remember(kept)
    vault.unlink(1, b"kept")
    bench.committed()
    for ino in (1, folder):
        before = sorted(vault.readdir(ino))
        assert sorted(bench.reopen(rebuild=True).readdir(ino)) == before
        vault = bench.vault
    assert len(bench.chain.members(codec.orphans_group(bench.chain))) == 1


def test_small_bodies_are_not_compressed_and_large_ones_are_tried() -> None:
    assert not codec.inode_change(KEYS, inode(data=b"x" * 512), ORPHANS).compress
    assert codec.inode_change(KEYS, inode(data=b"x" * 513), ORPHANS).compress


def test_mode_and_size_survive_many_generations(bench: Bench) -> None:
    file = bench.file(data=b"x" * 5000)
    for generation in range(5):
        bench.vault.setattr(file, Attributes(mode=0o600 + generation, size=5000 - generation))
        bench.committed()
        inode_now = bench.reopen().getattr(file)
        assert (inode_now.mode & 0o777, inode_now.size) == (0o600 + generation, 5000 - generation)
        assert bench.vault.read(file, 0, 9000) == b"x" * (5000 - generation)
