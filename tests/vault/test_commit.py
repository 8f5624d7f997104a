"""One commit in flight: what is read meanwhile, and what is left when it fails or the machine does."""

from __future__ import annotations

import os

import pytest

from atedb.chain.event import Lane
from atedb.errors import NoSpaceError
from atefs.errors import CommitInFlightError, NotFoundError, StaleError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK
from tests.vault.conftest import ME, Bench, tally


def test_a_second_freeze_waits_for_the_first(bench: Bench) -> None:
    bench.file()
    frozen = bench.vault.freeze()
    assert frozen is not None
    bench.file(b"g")
    with pytest.raises(CommitInFlightError):
        bench.vault.freeze()
    bench.vault.thaw(frozen)
    assert bench.vault.freeze() is not None


def test_reads_see_what_is_in_flight_and_what_is_newer(bench: Bench) -> None:
    vault = bench.vault
    folder, data = bench.folder(), os.urandom(3 * BLOCK)
    file = bench.file(b"f", data, folder)
    bench.file(b"gone", b"x", folder)
    bench.committed()
    vault.write(file, 5000, b"first")
    vault.unlink(folder, b"gone")
    bench.file(b"in flight", b"y", folder)
    frozen = vault.freeze()
    assert frozen is not None
    vault.write(file, 5005, b"second")
    vault.setattr(file, Attributes(size=2 * BLOCK))
    bench.file(b"newer", b"z", folder)
    vault.unlink(folder, b"in flight")
    wanted = data[:5000] + b"firstsecond" + data[5011 : 2 * BLOCK]
    for _ in range(2):
        assert vault.read(file, 0, 3 * BLOCK) == wanted
        assert sorted(entry.name for entry in vault.readdir(folder)) == [b".", b"..", b"f", b"newer"]
        with pytest.raises(NotFoundError):
            vault.lookup(folder, b"gone")
        bench.chain.commit(frozen.changes) if vault._objects.in_flight else None
        vault.settled(frozen)
    bench.committed()
    vault = bench.reopen(rebuild=True)
    assert vault.read(file, 0, 3 * BLOCK) == wanted
    assert sorted(entry.name for entry in vault.readdir(folder)) == [b".", b"..", b"f", b"newer"]


def test_a_failed_commit_loses_nothing_and_goes_out_with_the_next(bench: Bench) -> None:
    vault, data = bench.vault, os.urandom(2 * BLOCK)
    kept, changed = bench.file(b"kept", data), bench.file(b"changed", data)
    bench.file(b"deleted", data)
    frozen = vault.freeze()
    assert frozen is not None
    in_flight = frozen.bytes
    vault.write(changed, 10, b"newer")
    vault.unlink(1, b"deleted")
    vault.thaw(frozen)
    assert vault.dirty_bytes > in_flight
    assert vault.read(kept, 0, len(data)) == data
    bench.committed()
    assert vault.dirty_bytes == vault.dirty_objects == 0
    vault = bench.reopen(rebuild=True)
    assert vault.read(kept, 0, len(data)) == data
    assert vault.read(changed, 0, len(data)) == data[:10] + b"newer" + data[15:]
    assert sorted(entry.name for entry in vault.readdir(1)[2:]) == [b"changed", b"kept"]


def test_without_thaw_the_failed_commit_would_be_lost(quick: Bench) -> None:
    quick.file(b"kept", b"data")
    frozen = quick.vault.freeze()
    assert frozen is not None
    quick.vault.settled(frozen)  # a lie: it never reached the chain
    quick.committed()
    with pytest.raises(NotFoundError):
        quick.reopen().lookup(1, b"kept")


def test_a_crash_leaves_the_last_settled_state(bench: Bench) -> None:
    file = bench.file(data=b"one")
    bench.committed()
    bench.vault.write(file, 0, b"two")
    bench.vault.mknod(1, b"g", 0o644, 0, ME)
    assert bench.vault.freeze() is not None
    vault = bench.reopen()
    assert vault.read(file, 0, 9) == b"one"
    assert [entry.name for entry in vault.readdir(1)[2:]] == [b"f"]


def test_a_commit_that_fails_inline_is_kept_for_the_next(quick: Bench) -> None:
    quick.chain.capacity = 10_000  # type: ignore[union-attr]
    data = os.urandom(6000)
    file = quick.file(data=data)
    quick.chain.capacity = 100  # type: ignore[union-attr]
    with pytest.raises(NoSpaceError):
        quick.vault.commit()
    assert quick.vault.read(file, 0, 9000) == data
    assert quick.vault.dirty_bytes > 6000
    quick.chain.capacity = 1 << 30  # type: ignore[union-attr]
    assert quick.vault.commit()
    assert quick.vault.commit() == 0
    assert quick.reopen().read(file, 0, 9000) == data


def test_a_thawed_patch_and_the_rewrite_of_its_block_agree(bench: Bench) -> None:
    data = os.urandom(BLOCK)
    file = bench.file(data=data)
    bench.committed()
    bench.vault.write(file, 4096, b"p" * 4096)
    frozen = bench.vault.freeze()
    assert frozen is not None
    bench.vault.thaw(frozen)
    bench.vault.write(file, 0, b"w" * BLOCK)
    bench.committed()
    bench.vault.write(file, 100, b"q")
    bench.committed()
    wanted = b"w" * 100 + b"q" + b"w" * (BLOCK - 101)
    assert bench.vault.read(file, 0, BLOCK) == bench.reopen(rebuild=True).read(file, 0, BLOCK) == wanted


def test_an_unlinked_file_in_use_lives_until_it_is_forgotten(bench: Bench) -> None:
    vault, data = bench.vault, os.urandom(2 * BLOCK)
    file = bench.file(data=data)
    vault.remember(file, 3)
    bench.committed()
    vault.unlink(1, b"f")
    assert tally(bench.committed()) == {"meta": 2, "-meta": 1}
    vault.write(file, 0, b"still")
    bench.committed()
    assert not vault.reap()
    vault.forget(file, 2)
    assert vault.read(file, 0, 2 * BLOCK) == b"still" + data[5:]
    vault.forget(file, 1)
    with pytest.raises(StaleError):
        vault.getattr(file)
    assert tally(bench.committed()) == {"-meta": 1, "-blob": 3}


def test_what_a_crash_leaves_without_a_name_is_reaped_at_the_next_opening(bench: Bench) -> None:
    data = os.urandom(2 * BLOCK)
    for number in range(5):
        file = bench.file(b"%d" % number, data)
        bench.vault.remember(file)
        bench.vault.unlink(1, b"%d" % number)
    bench.committed()
    before = bench.chain.object_count(Lane.BLOB)
    vault = bench.reopen(rebuild=True)
    assert vault.getattr(file).nlink == 0
    bench.settle_down()
    assert (before, bench.chain.object_count(Lane.BLOB)) == (10, 0)
    with pytest.raises(StaleError):
        bench.reopen().getattr(file)
