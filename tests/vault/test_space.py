"""A full disk, a quota, a read-only chain: refused cleanly, and deleting still works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.errors import AteError, NoSpaceError, ReadOnlyError, StorageError
from atefs.errors import ExistsError, QuotaError
from atefs.vault import inodes
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, OBJECT_COST, PAGE, PATCHES_MAX, REGION_BLOCKS, XATTR_SIZE_MAX
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench
from tests.vault.memory_chain import MemoryChain

HEAD = 2048
"""Bytes of a batch besides its objects, at most."""


def chain_of(bench: Bench) -> MemoryChain:
    assert isinstance(bench.chain, MemoryChain)
    return bench.chain


def fill(bench: Bench, file: int) -> None:
    for index in range(100):
        bench.vault.write(file, index * BLOCK, os.urandom(BLOCK))


def test_writes_are_refused_when_they_could_not_be_committed(quick: Bench) -> None:
    file = quick.file()
    chain_of(quick).capacity = chain_of(quick).stored_bytes + 4 * BLOCK
    quick.committed()
    with pytest.raises(NoSpaceError):
        fill(quick, file)
    assert 0 < quick.vault.getattr(file).size < 4 * BLOCK
    quick.vault.commit()
    assert quick.vault.read(file, 0, 10) != bytes(10)


def test_a_full_disk_refuses_what_adds_and_allows_what_removes(quick: Bench) -> None:
    file, folder = quick.file(data=os.urandom(3 * BLOCK)), quick.folder()
    quick.committed()
    chain_of(quick).capacity = 0
    additions: list[Callable[[], object]] = [
        lambda: quick.vault.write(file, 0, b"x"),
        lambda: quick.vault.mknod(1, b"g", 0o644, 0, ME),
        lambda: quick.vault.mkdir(1, b"g", 0o755, ME),
        lambda: quick.vault.symlink(1, b"g", b"t", ME),
        lambda: quick.vault.link(file, 1, b"g"),
        lambda: quick.vault.setxattr(file, b"user.a", b"x"),
        lambda: quick.vault.setattr(file, Attributes(size=4 * BLOCK)),
    ]
    for addition in additions:
        with pytest.raises(NoSpaceError):
            addition()
    assert quick.vault.dirty_objects == 0
    quick.vault.setattr(file, Attributes(size=BLOCK))
    quick.vault.rename(1, b"f", folder, b"f")
    quick.vault.unlink(folder, b"f")
    quick.vault.rmdir(1, b"d")
    assert quick.vault.dirty_objects > 0


def test_space_is_found_again_without_a_restart(quick: Bench) -> None:
    file = quick.file()
    quick.committed()
    chain_of(quick).capacity = 0
    with pytest.raises(NoSpaceError):
        quick.vault.write(file, 0, b"x")
    chain_of(quick).capacity = 1 << 30
    assert quick.vault.write(file, 0, b"x") == 1


def test_a_quota_bounds_what_is_stored_and_says_so(bench: Bench) -> None:
    bench.vault.set_quota(1_000_000)
    file = bench.file()
    with pytest.raises(QuotaError):
        fill(bench, file)
    bench.committed()
    vault = bench.reopen()
    now = vault.statfs()
    assert now.total * now.bsize <= 1_000_000
    with pytest.raises(QuotaError):
        vault.write(file, 2**40, os.urandom(3 * BLOCK))
    vault.unlink(1, b"f")
    bench.settle_down()
    assert vault.write(bench.file(b"g"), 0, os.urandom(3 * BLOCK)) == 3 * BLOCK
    vault.set_quota(0)
    assert vault.write(vault.lookup(1, b"g").ino, 0, os.urandom(10 * BLOCK)) == 10 * BLOCK


def test_statfs_counts_what_waits_in_memory(quick: Bench) -> None:
    chain_of(quick).capacity = 100 << 20
    before = quick.vault.statfs()
    quick.file(data=os.urandom(10 << 20))
    waiting = quick.vault.statfs()
    assert (before.namemax, before.bsize) == (255, 4096)
    assert (before.free - waiting.free) * 4096 >= 10 << 20
    quick.committed()
    after = quick.vault.statfs()
    assert abs(after.free - waiting.free) * 4096 < 100_000
    assert abs(after.total - before.total) * 4096 < 100_000


def test_a_quota_refuses_at_the_call(quick: Bench) -> None:
    """Not at the commit: whatever adds something is refused with EDQUOT, and nothing of it is there."""
    file = quick.file(data=b"x" * 10_000)
    quick.file(b"full", os.urandom(10 * BLOCK))
    quick.committed()
    quick.vault.set_quota(chain_of(quick).live_bytes + OBJECT_COST)
    quick.committed()
    additions: list[Callable[[], object]] = [
        lambda: quick.vault.write(file, 0, bytes(BLOCK)),
        lambda: quick.vault.setattr(file, Attributes(size=2 * BLOCK)),
        lambda: quick.vault.mknod(1, b"n", 0o644, 0, ME),
        lambda: quick.vault.mkdir(1, b"d", 0o755, ME),
        lambda: quick.vault.symlink(1, b"s", b"t", ME),
        lambda: quick.vault.link(file, 1, b"l"),
        lambda: quick.vault.setxattr(file, b"user.a", bytes(2000)),
    ]
    for addition in additions:
        with pytest.raises(QuotaError) as refused:
            addition()
        assert refused.value.errno == errno.EDQUOT
    quick.committed()
    quick.vault.unlink(1, b"full")
    quick.settle_down()
    for addition in additions:
        addition()


def with_files(vault: Vault, count: int) -> list[int]:
    return [vault.mknod(1, b"%d" % number, 0o644, 0, ME).ino for number in range(count)]


def give_xattrs(vault: Vault, files: list[int]) -> None:
    for file in files:
        vault.setxattr(file, b"user.a", os.urandom(XATTR_SIZE_MAX))


def scatter(vault: Vault, size: int, rounds: int) -> None:
    """`size` bytes here and there in each of many blocks."""
    file = with_files(vault, 1)[0]
    for block in range(2 * REGION_BLOCKS):
        vault.write(file, block * BLOCK, os.urandom(BLOCK if block % 2 else 40_000))
    for number in range(rounds):
        vault.commit()
        for block in range(2 * REGION_BLOCKS):
            vault.write(file, block * BLOCK + number * 997, os.urandom(size))


def touch_patched(vault: Vault) -> None:
    scatter(vault, 10, PATCHES_MAX - 2)
    vault.commit()
    file = vault.lookup(1, b"0").ino
    vault.write(file, 0, b"x")
    vault.write(file, REGION_BLOCKS * BLOCK, b"x")


def chmod_all(vault: Vault, files: list[int]) -> None:
    give_xattrs(vault, files)
    vault.commit()
    for file in files:
        vault.setattr(file, Attributes(mode=0o600))


TAKING: dict[str, Callable[[Vault], object]] = {
    "new files": lambda vault: with_files(vault, 1000),
    "small files": lambda vault: [vault.write(file, 0, os.urandom(3000)) for file in with_files(vault, 300)],
    "a large file": lambda vault: vault.write(with_files(vault, 1)[0], 0, os.urandom(20 * BLOCK)),
    "extended attributes": lambda vault: give_xattrs(vault, with_files(vault, 50)),
    "new modes of what has extended attributes": lambda vault: chmod_all(vault, with_files(vault, 50)),
    "a byte of each block": lambda vault: scatter(vault, 1, 1),
    "pages": lambda vault: scatter(vault, PAGE, 8),
    "patch upon patch": lambda vault: scatter(vault, 10, PATCHES_MAX - 2),
    "two bytes in a well patched file": touch_patched,
    "symbolic links": lambda vault: [vault.symlink(1, b"%d" % n, os.urandom(4095), ME) for n in range(50)],
    "long names": lambda vault: [vault.mknod(1, b"%0255d" % n, 0o644, 0, ME) for n in range(200)],
}


@pytest.mark.parametrize("name", TAKING)
def test_a_commit_takes_no_more_than_was_counted(tmp_path: Path, name: str) -> None:
    """Or it would fail, on a nearly full disk, after the writes that it carries were accepted."""
    bench = Bench(tmp_path / "store")
    assert isinstance(bench.chain, Chain)
    TAKING[name](bench.vault)
    counted, before = bench.vault.dirty_bytes, bench.chain._log.end
    bench.vault.commit()
    assert bench.chain._log.end - before <= counted + HEAD
    bench.close()


def test_the_check_finds_what_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin: with extended attributes left out of the count, it fails."""
    monkeypatch.setattr(inodes, "_length", lambda _xattrs: 0)
    with pytest.raises(AssertionError):
        test_a_commit_takes_no_more_than_was_counted(tmp_path, "extended attributes")


def test_what_is_deleted_before_it_was_committed_counts_nothing(quick: Bench) -> None:
    vault = quick.vault
    quick.folder(b"other")
    quick.committed()
    file = vault.mknod(1, b"a", 0o644, 0, ME).ino
    vault.setxattr(file, b"user.a", os.urandom(1000))
    for block in (0, 1, REGION_BLOCKS, 5 * REGION_BLOCKS):
        vault.write(file, block * BLOCK, os.urandom(9000))
    vault.unlink(1, b"a")
    assert vault.dirty_bytes <= OBJECT_COST, "the folder that it was in"


CHANGES: dict[str, Callable[[Vault, int], object]] = {
    "write": lambda vault, file: vault.write(file, 0, b"x"),
    "empty write": lambda vault, file: vault.write(file, 0, b""),
    "setattr": lambda vault, file: vault.setattr(file, Attributes(mode=0)),
    "mknod": lambda vault, _: vault.mknod(1, b"g", 0o644, 0, ME),
    "mkdir": lambda vault, _: vault.mkdir(1, b"g", 0o755, ME),
    "symlink": lambda vault, _: vault.symlink(1, b"g", b"t", ME),
    "link": lambda vault, file: vault.link(file, 1, b"g"),
    "unlink": lambda vault, _: vault.unlink(1, b"f"),
    "rmdir": lambda vault, _: vault.rmdir(1, b"d"),
    "rename": lambda vault, _: vault.rename(1, b"f", 1, b"g"),
    "setxattr": lambda vault, file: vault.setxattr(file, b"user.a", b""),
    "removexattr": lambda vault, file: vault.removexattr(file, b"user.a"),
    "set_quota": lambda vault, _: vault.set_quota(5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_changes_in_a_read_only_vault(quick: Bench, name: str) -> None:
    file = quick.file(data=b"data")
    quick.folder()
    quick.committed()
    vault = Vault(quick.chain, quick.clock, read_only=True)
    with pytest.raises(ReadOnlyError):
        CHANGES[name](vault, file)
    assert vault.read(file, 0, 9) == b"data"
    assert vault.freeze() is None


def test_a_failed_chain_is_read_only_and_says_why(quick: Bench) -> None:
    file = quick.file(data=b"data")
    quick.committed()
    chain_of(quick).failed = StorageError("the disk is broken")
    with pytest.raises(ReadOnlyError, match="the disk is broken"):
        quick.vault.write(file, 0, b"x")
    assert quick.vault.read(file, 0, 9) == b"data"


def test_a_second_vault_is_not_made_over_a_first(bench: Bench) -> None:
    with pytest.raises(ExistsError):
        Vault.make(bench.chain)


def test_a_chain_without_a_vault_and_one_of_a_newer_format_are_refused_by_name(quick: Bench) -> None:
    with pytest.raises(AteError, match="holds no vault"):
        Vault(MemoryChain())
    key = quick.chain.object_key(b"S")
    lane, body = chain_of(quick).objects[key]
    chain_of(quick).objects[key] = (lane, body[:2] + b"\x63" + body[3:])
    with pytest.raises(AteError, match="format 99"):
        Vault(quick.chain)
