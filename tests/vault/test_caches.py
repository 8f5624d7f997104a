"""Caches are bounded, and nothing depends on what is in them."""

from __future__ import annotations

import gc
import os

import pytest

from atefs.errors import NotFoundError
from atefs.vault.blockcache import BlockCache
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, REGION_BLOCKS, CacheSizes
from tests.vault.conftest import Bench

SMALL = CacheSizes(inodes=50, dentries=60, maps=4, content=4 * BLOCK)


def test_every_cache_keeps_to_its_bound(quick: Bench) -> None:
    for number in range(500):
        quick.file(b"%d" % number, b"x" * 5000)
    big = quick.file(b"big")
    for region in range(20):
        quick.vault.write(big, region * BLOCK * REGION_BLOCKS, os.urandom(BLOCK))
    quick.committed()
    vault = quick.reopen(caches=SMALL)
    for _ in range(2):
        for number in range(500):
            assert vault.read(vault.lookup(1, b"%d" % number).ino, 0, 1) == b"x"
        for region in range(20):
            assert len(vault.read(big, region * BLOCK * REGION_BLOCKS, 10)) == 10
    assert len(vault._inodes) <= SMALL.inodes
    assert len(vault._reader._maps) <= SMALL.maps
    assert vault._reader._cache.bytes <= SMALL.content
    assert len(vault._namespace._directories) <= SMALL.dentries


def test_absent_names_do_not_fill_the_memory(quick: Bench) -> None:
    vault = quick.reopen(caches=SMALL)
    for number in range(1000):
        with pytest.raises(NotFoundError):
            vault.lookup(1, b"none %d" % number)
    assert len(vault._namespace._directories) <= SMALL.dentries


def test_dirty_inodes_outlive_any_pressure_on_the_cache(quick: Bench) -> None:
    vault = quick.reopen(caches=CacheSizes(inodes=4, dentries=4, maps=1, content=10))
    for number in range(100):
        file = quick.file(b"%d" % number)
        vault.setattr(file, Attributes(mode=number))
    for number in range(100):
        assert vault.lookup(1, b"%d" % number).mode & 0o7777 == number
    quick.committed()
    for number in range(100):
        assert vault.lookup(1, b"%d" % number).mode & 0o7777 == number
    assert len(vault._inodes) <= 5


def test_an_evicted_inode_comes_back_with_another_stamp(quick: Bench) -> None:
    vault = quick.reopen(caches=CacheSizes(inodes=2))
    first = quick.file(b"first")
    quick.committed()
    seen = {vault.getattr(first).stamp}
    for number in range(10):
        quick.file(b"%d" % number)
        quick.committed()
        seen.add(vault.getattr(first).stamp)
    assert len(seen) > 5


def test_memory_stays_flat_while_files_come_and_go(quick: Bench) -> None:
    vault = quick.reopen(caches=SMALL)

    def round_of_work() -> int:
        for number in range(200):
            file = quick.file(b"%d" % number, os.urandom(3000))
            vault.remember(file)
            vault.write(file, 20_000, os.urandom(20_000))
        quick.committed()
        for number in range(200):
            ino = vault.lookup(1, b"%d" % number).ino
            vault.unlink(1, b"%d" % number)
            vault.forget(ino, 1)
        quick.settle_down()
        quick.chain.log.clear()  # type: ignore[union-attr]
        gc.collect()
        return len(gc.get_objects())

    after = [round_of_work() for _ in range(4)]
    assert after[-1] - after[1] < 50, after
    assert vault._reader._cache.bytes <= SMALL.content
    assert not vault._inodes.references
    assert not vault._inodes.nameless


def test_the_least_recently_used_content_goes_first() -> None:
    cache = BlockCache(3 * 1200)
    for key in (1, 2, 3):
        cache.put(key, bytes(1000))
    cache.get(1)
    cache.put(4, bytes(1000))
    assert [cache.get(key) is not None for key in (1, 2, 3, 4)] == [True, False, True, True]
    cache.put(5, bytes(10_000))
    assert cache.bytes == 0
