"""What file operations cost the chain, exactly: appends, barriers, promises, AEAD calls (seals, opens), rows asked of
LMDB."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atefs.vault.codec import terms_of
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK, PAGE, ROOT_INO
from atefs.vault.vault import Vault

KEY = bytes(32)
CALLER = Caller(0, 0, 0o022)
FILE = stat.S_IFREG | 0o644
NAMES = ("appends", "barriers", "promises", "seals", "opens", "view_reads")


class Counted:
    """A vault whose chain is looked at before and after."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.chain = Chain.create(store, KEY)
        self.vault = Vault.make(self.chain)

    def reopen(self) -> None:
        """Nothing is in memory after this."""
        self.vault.commit()
        self.chain.close()
        self.chain = Chain.open(self.store, KEY, terms=terms_of(self.chain.keys))
        self.vault = Vault(self.chain)

    def cost(self, operation: Callable[[], object]) -> dict[str, int]:
        before = [getattr(self.chain.counters, name) for name in NAMES]
        operation()
        after = [getattr(self.chain.counters, name) for name in NAMES]
        return {name: b - a for name, a, b in zip(NAMES, before, after, strict=True) if a != b}


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    counted = Counted(tmp_path / "store")
    yield counted
    counted.chain.close()


def make(counted: Counted, name: bytes, size: int) -> int:
    ino = counted.vault.mknod(ROOT_INO, name, FILE, 0, CALLER).ino
    for offset in range(0, size, BLOCK):
        counted.vault.write(ino, offset, os.urandom(min(BLOCK, size - offset)))
    return ino


def test_making_a_small_file_is_one_append_of_four_seals_and_reads_no_body(counted: Counted) -> None:
    make(counted, b"first", 100)
    counted.reopen()
    counted.vault.getattr(ROOT_INO)
    assert counted.cost(lambda: make(counted, b"second", 4096)) == {"view_reads": 1}  # the name is not there
    # A new mount reserves inode numbers: one seal for their object, once.
    assert counted.cost(counted.vault.commit) == {"appends": 1, "seals": 5, "view_reads": 4}
    assert counted.cost(lambda: make(counted, b"third", 4096)) == {"view_reads": 1}
    # Entry, inode, directory and claim are sealed; the rows that entry and inode replace are asked for, in vain.
    assert counted.cost(counted.vault.commit) == {"appends": 1, "seals": 4, "view_reads": 2}


def test_an_fsync_of_one_page_is_one_append_three_seals_and_one_barrier(counted: Counted) -> None:
    ino = make(counted, b"database", 2 * BLOCK)
    counted.vault.commit()
    counted.vault.write(ino, PAGE, os.urandom(PAGE))
    counted.vault.commit()
    counted.vault.write(ino, PAGE, os.urandom(PAGE))
    before = counted.chain.stored_bytes

    def sync() -> None:
        counted.vault.commit()
        counted.chain.barrier()

    assert counted.cost(sync) == {"appends": 1, "barriers": 1, "seals": 3}  # page, inode, claim
    assert counted.chain.stored_bytes - before < PAGE + 400


def test_an_fsync_of_one_page_that_is_promised_is_one_seal_and_nothing_else(counted: Counted) -> None:
    ino = make(counted, b"database", 2 * BLOCK)
    counted.vault.commit()
    counted.chain.barrier()

    def sync() -> None:
        counted.vault.write(ino, PAGE, os.urandom(PAGE))
        frozen = counted.vault.freeze()
        assert frozen is not None
        assert counted.chain.promise(frozen.loose)
        counted.vault.promised(frozen)

    sync()
    for _ in range(10):
        assert counted.cost(sync) == {"promises": 1, "seals": 1}
    # All of it together: page, inode, claim; the row that the page replaces is asked for, in vain.
    assert counted.cost(counted.vault.commit) == {"appends": 1, "seals": 3, "view_reads": 1}


def test_a_cold_stat_opens_the_entry_and_the_inode(counted: Counted) -> None:
    make(counted, b"file", 100)
    counted.reopen()
    counted.vault.getattr(ROOT_INO)
    assert counted.cost(lambda: counted.vault.lookup(ROOT_INO, b"file")) == {"opens": 2, "view_reads": 2}
    assert counted.cost(lambda: counted.vault.lookup(ROOT_INO, b"file")) == {}


def test_reading_a_small_file_that_was_looked_up_opens_nothing_more(counted: Counted) -> None:
    make(counted, b"file", 4096)
    counted.reopen()
    ino = counted.vault.lookup(ROOT_INO, b"file").ino
    assert counted.cost(lambda: counted.vault.read(ino, 0, 4096)) == {}


def test_reading_a_block_opens_one_body(counted: Counted) -> None:
    ino = make(counted, b"file", 3 * BLOCK)
    counted.reopen()
    counted.vault.getattr(ino)
    assert counted.cost(lambda: counted.vault.read(ino, BLOCK, BLOCK)) == {"opens": 1, "view_reads": 1}


def test_reading_a_patched_page_opens_that_page_and_not_its_block(counted: Counted) -> None:
    ino = make(counted, b"file", 2 * BLOCK)
    counted.vault.commit()
    page = os.urandom(PAGE)
    counted.vault.write(ino, 3 * PAGE, page)
    counted.reopen()
    counted.vault.getattr(ino)
    assert counted.cost(lambda: counted.vault.read(ino, 3 * PAGE, PAGE))["opens"] == 1
    assert counted.vault.read(ino, 3 * PAGE + 7, 100) == page[7:107]
    assert counted.vault.read(ino, 3 * PAGE, 2 * PAGE)[:PAGE] == page


def test_what_does_not_need_the_chain_costs_it_nothing(counted: Counted) -> None:
    ino = make(counted, b"file", 100)
    counted.vault.commit()
    for operation in (
        lambda: counted.vault.getattr(ino),
        lambda: counted.vault.setattr(ino, Attributes(mode=FILE | 0o111)),
        lambda: counted.vault.write(ino, 0, b"more"),
        lambda: counted.vault.setxattr(ino, b"user.note", b"x"),
        lambda: counted.vault.rename(ROOT_INO, b"file", ROOT_INO, b"file"),
    ):
        assert counted.cost(operation) == {}
