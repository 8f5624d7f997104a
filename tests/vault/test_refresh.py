"""What others have changed is not answered from memory, and the kernel is told of exactly that."""

from __future__ import annotations

import os

import pytest

from atefs.errors import NotFoundError, StaleError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, KEPT_FOR, ROOT_INO
from atefs.vault.refresh import Refresh, Stale, Touched
from atefs.vault.vault import Vault
from tests.vault.conftest import ME
from tests.vault.replicas import Replica
from tests.vault.test_merge import BIG, Pair, number, put


@pytest.fixture
def pair() -> Pair:
    """Both know two files, a folder and a link, and the second one's kernel does, too."""
    pair = Pair()
    put(pair.a, b"big", BIG)
    put(pair.a, b"small", b"content")
    pair.a.mkdir(ROOT_INO, b"d", 0o755, ME)
    pair.a.symlink(ROOT_INO, b"l", b"target", ME)
    pair.one.sync()
    pair.two.sync()
    for row in pair.b.readdir(ROOT_INO)[2:]:
        pair.b.lookup(ROOT_INO, row.name)
        pair.b.remember(row.ino)
    for name in (b"big", b"small"):
        pair.b.read(number(pair.b, name), 0, len(BIG))
    return pair


def told(pair: Pair) -> Stale:
    pair.one.sync()
    pair.two.sync()
    assert pair.two.stale is not None
    return pair.two.stale


def test_a_write_is_seen_and_nothing_else_is_forgotten(pair: Pair) -> None:
    big, small = number(pair.b, b"big"), number(pair.b, b"small")
    pair.a.write(big, 5, b"changed")
    assert told(pair) == Stale(set(), {big}, set())
    assert pair.b.read(big, 0, 20) == BIG[:5] + b"changed" + BIG[12:20]
    before = pair.two.chain.loads
    assert pair.b.read(small, 0, 20) == b"content"
    pair.b.lookup(ROOT_INO, b"d")
    assert pair.two.chain.loads == before


def test_a_new_name_is_found_where_none_was(pair: Pair) -> None:
    with pytest.raises(NotFoundError):
        pair.b.lookup(ROOT_INO, b"new")
    put(pair.a, b"new", b"hello")
    assert told(pair) == Stale(set(), {ROOT_INO}, {(ROOT_INO, b"new")})
    assert pair.b.read(number(pair.b, b"new"), 0, 9) == b"hello"
    assert b"new" in {row.name for row in pair.b.readdir(ROOT_INO)}


def test_a_deletion_is_seen_through_an_open_file_too(pair: Pair) -> None:
    small = number(pair.b, b"small")
    pair.a.unlink(ROOT_INO, b"small")
    assert told(pair) == Stale(set(), {ROOT_INO, small}, {(ROOT_INO, b"small")})
    with pytest.raises(NotFoundError):
        pair.b.lookup(ROOT_INO, b"small")
    with pytest.raises(StaleError):
        pair.b.getattr(small)
    pair.b.forget(small)


def test_what_was_replaced_is_gone(pair: Pair) -> None:
    small = number(pair.b, b"small")
    put(pair.a, b"tmp", b"replaced")
    pair.a.rename(ROOT_INO, b"tmp", ROOT_INO, b"small")
    assert small in told(pair).pages
    assert pair.b.read(number(pair.b, b"small"), 0, 20) == b"replaced"
    with pytest.raises(StaleError):
        pair.b.getattr(small)


def test_of_a_link_the_attributes_are_enough(pair: Pair) -> None:
    link = number(pair.b, b"l")
    pair.a.setattr(link, Attributes(uid=5))
    assert told(pair) == Stale({link}, set(), set())
    assert pair.b.getattr(link).uid == 5


def test_a_copy_elsewhere_leaves_what_it_was_made_of_readable(pair: Pair) -> None:
    big = number(pair.b, b"big")
    target = put(pair.a, b"copy", b"")
    pair.a.copy_range(big, 0, target, 0, len(BIG))
    pair.a.write(big, 0, b"new")
    told(pair)
    assert pair.b.read(big, 0, len(BIG)) == b"new" + BIG[3:]
    assert pair.b.read(target, 0, len(BIG)) == BIG


def test_a_quota_set_elsewhere_counts_here(pair: Pair) -> None:
    pair.a.set_quota(1 << 30)
    told(pair)
    now = pair.b.statfs()
    assert now.total * now.bsize == 1 << 30


def test_what_the_kernel_does_not_know_it_is_not_told_of(pair: Pair) -> None:
    inner = pair.a.mkdir(number(pair.a, b"d"), b"inner", 0o755, ME).ino
    told(pair)
    put(pair.a, b"deep", b"x", inner)
    assert told(pair) == Stale(set(), set(), set())


def test_what_was_done_here_and_only_moved_by_a_merge_the_kernel_goes_on_to_believe(pair: Pair) -> None:
    """Names and pages of all that waits to be sent would be forgotten with each batch of others."""
    small = number(pair.b, b"small")
    pair.b.write(number(pair.b, b"big"), 5, b"changed")
    pair.b.rename(ROOT_INO, b"small", ROOT_INO, b"moved")
    mine, both = put(pair.b, b"mine", BIG), put(pair.b, b"both", b"of two")
    for ino in (mine, both):
        pair.b.remember(ino)
    put(pair.a, b"both", b"of one")
    pair.a.write(small, 0, b"CON")
    stale = told(pair)
    assert stale.pages >= {ROOT_INO, small}
    assert not stale.pages & {mine, number(pair.b, b"big")}
    assert {(ROOT_INO, b"both")} <= stale.entries
    assert not stale.entries & {(ROOT_INO, b"mine"), (ROOT_INO, b"small"), (ROOT_INO, b"moved")}


def test_without_it_old_content_would_be_shown(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Refresh, "forget", lambda *_: Stale(set(), set(), set()))
    big = number(pair.b, b"big")
    pair.a.write(big, 5, b"changed")
    told(pair)
    assert pair.b.read(big, 0, 20) == BIG[:20]


def test_nothing_touched_is_nothing_to_do() -> None:
    touched = Touched()
    assert not touched
    touched(True, b"", os.urandom(16))
    assert touched


# What is open on one device and deleted there


@pytest.fixture
def kept(pair: Pair) -> int:
    """A large file that the second device has deleted and has open still."""
    big = number(pair.b, b"big")
    pair.b.unlink(ROOT_INO, b"big")
    pair.two.sync()
    pair.one.sync()
    return big


def test_what_another_device_has_open_is_not_reaped(pair: Pair, kept: int) -> None:
    for vault in (pair.a, Vault(pair.one.chain, pair.one.clock)):
        while vault.reap():
            pass
        assert not vault.dirty_objects
    pair.meet()
    assert pair.b.read(kept, 0, len(BIG)) == BIG


def test_it_goes_when_it_is_closed(pair: Pair, kept: int) -> None:
    pair.b.forget(kept)
    pair.meet()
    assert pair.one.chain.object_count(1) == 0  # type: ignore[arg-type]


def test_a_device_that_never_comes_back_keeps_nothing_for_ever(pair: Pair, kept: int) -> None:
    pair.one.now += KEPT_FOR
    fresh = Replica(pair.one.server, "three")
    fresh.now = pair.one.now + 10
    fresh.settle_down()
    fresh.sync()
    with pytest.raises(StaleError):
        fresh.vault.getattr(kept)
    assert fresh.chain.object_count(1) == 0  # type: ignore[arg-type]


def test_after_a_crash_the_device_reaps_what_it_kept(pair: Pair, kept: int) -> None:
    pair.two.vault = pair.b = Vault(pair.two.chain, pair.two.clock)
    pair.two.settle_down()
    with pytest.raises(StaleError):
        pair.b.getattr(kept)


def test_a_block_that_was_cached_is_read_anew(pair: Pair) -> None:
    big = number(pair.b, b"big")
    pair.a.write(big, 0, b"n" * BLOCK)
    told(pair)
    assert pair.b.read(big, 0, BLOCK) == b"n" * BLOCK
