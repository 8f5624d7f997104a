"""Loading ahead: what it spares, and when it keeps still."""

from __future__ import annotations

import os

import pytest

from atefs.errors import NotFoundError
from atefs.vault import readahead
from atefs.vault.limits import CacheSizes
from atefs.vault.vault import Vault
from tests.vault.conftest import Bench
from tests.vault.memory_chain import MemoryChain

FILES = 40


def names() -> list[bytes]:
    return [b"f%02d" % number for number in range(FILES)]


def folder(bench: Bench) -> int:
    return bench.vault.lookup(1, b"d").ino


def loads(bench: Bench) -> int:
    assert isinstance(bench.chain, MemoryChain)
    return bench.chain.loads


def steps(vault: Vault) -> int:
    """Steps until there is nothing left to do."""
    count = 0
    while vault.read_ahead():
        count += 1
    return count


def begin(bench: Bench, parent: int) -> None:
    """Walk two names, with idle moments after each."""
    for name in names()[:2]:
        bench.vault.lookup(parent, name)
        steps(bench.vault)


@pytest.fixture
def cold(quick: Bench) -> Bench:
    """A vault with a directory of small files, nothing of it in memory."""
    folder = quick.folder(b"d")
    for name in names():
        quick.file(name, os.urandom(100), folder)
    quick.committed()
    quick.reopen()
    return quick


def test_who_walks_a_directory_waits_for_the_first_two_only(cold: Bench) -> None:
    parent = folder(cold)
    begin(cold, parent)
    before = loads(cold)
    for name in names()[2:30]:
        cold.vault.read(cold.vault.lookup(parent, name).ino, 0, 100)
    assert loads(cold) == before


def test_without_idle_moments_each_costs_its_two_loads(cold: Bench) -> None:
    parent = folder(cold)
    for name in names()[:2]:
        cold.vault.lookup(parent, name)
    before = loads(cold)
    for name in names()[2:30]:
        cold.vault.lookup(parent, name)
    assert loads(cold) == before + 2 * 28


def test_a_walk_goes_on_being_met_after_what_was_loaded_ahead(cold: Bench) -> None:
    parent = folder(cold)
    before = loads(cold)
    for name in names():
        cold.vault.lookup(parent, name)
        steps(cold.vault)
    # All inodes, and the two names that came before the directory was taken in; a few numbers are no inodes.
    assert loads(cold) - before <= FILES + 2 + readahead.AHEAD


def test_what_is_asked_for_in_no_order_loads_nothing_ahead(cold: Bench) -> None:
    first = folder(cold) + 1
    steps(cold.vault)
    for number in (9, 3, 27, 14):
        cold.vault.getattr(first + number)
        assert steps(cold.vault) == 0


def test_idle_moments_with_nothing_to_do_touch_nothing(cold: Bench) -> None:
    before = loads(cold)
    assert steps(cold.vault) == 0
    assert loads(cold) == before


def test_a_large_directory_is_not_taken_in(cold: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = folder(cold)
    monkeypatch.setattr(readahead, "NAMES_MAX", FILES - 1)
    begin(cold, parent)
    before = loads(cold)
    cold.vault.lookup(parent, names()[5])
    assert loads(cold) == before + 1  # its entry; the inode is there already


def test_what_was_changed_meanwhile_is_not_overlaid_by_what_is_taken_in(cold: Bench) -> None:
    parent = folder(cold)
    vault = cold.vault
    vault.unlink(parent, b"f30")
    vault.rename(parent, b"f31", parent, b"new")
    begin(cold, parent)
    for gone in (b"f30", b"f31"):
        with pytest.raises(NotFoundError):
            vault.lookup(parent, gone)
    assert vault.lookup(parent, b"new").ino


def test_what_the_disk_has_to_be_asked_for_is_left_to_who_needs_it(cold: Bench) -> None:
    parent = folder(cold)
    assert isinstance(cold.chain, MemoryChain)
    for name in names()[:2]:
        cold.vault.lookup(parent, name)
        with cold.chain.nothing_resident():
            assert steps(cold.vault) <= 2
    assert cold.vault.lookup(parent, names()[20])


def test_a_small_cache_stays_within_its_bound(cold: Bench) -> None:
    parent = folder(cold)
    vault = cold.reopen(CacheSizes(inodes=8, dentries=8))
    first = parent + 1
    for name in names():
        vault.lookup(parent, name)
        steps(vault)
    assert [vault.lookup(parent, name).ino for name in names()] == list(range(first, first + FILES))
