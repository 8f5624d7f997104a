"""A full disk, a quota, a read-only chain: refused cleanly, and deleting still works."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from atedb.errors import AteError, NoSpaceError, ReadOnlyError, StorageError
from atefs.errors import ExistsError, QuotaError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench
from tests.vault.memory_chain import MemoryChain


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
