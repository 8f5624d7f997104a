"""Files without a name: gone when nobody uses them, kept when they get one, whatever happens in between."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

import pytest

from atedb.chain.event import Lane
from atedb.errors import AteError, NoSpaceError, ReadOnlyError
from atefs.errors import NotDirectoryError, NotFoundError, StaleError
from atefs.vault import codec
from atefs.vault.inode import Caller
from atefs.vault.limits import BLOCK, INLINE_MAX, REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench, times
from tests.vault.memory_chain import MemoryChain

REGION = BLOCK * REGION_BLOCKS
SIZES = pytest.mark.parametrize("offset", [0, INLINE_MAX, 2 * REGION], ids=["inline", "one region", "many regions"])


def tmpfile(bench: Bench, offset: int = 0, data: bytes = b"data") -> int:
    """A file without a name that is open and has `data` at `offset`."""
    ino = bench.vault.tmpfile(1, 0o666, ME).ino
    bench.vault.remember(ino)
    bench.vault.write(ino, offset, data)
    return ino


def orphans(bench: Bench) -> set[int]:
    """The inodes that the chain lists for the next mount to reap."""
    rows = bench.chain.members(codec.orphans_group(bench.chain))
    return {codec.decode_orphan(value) for value in rows.values()}


def is_gone(vault: Vault, ino: int) -> bool:
    try:
        vault.getattr(ino)
    except StaleError:
        return True
    return False


def test_it_is_a_regular_file_of_its_maker_without_a_name(bench: Bench) -> None:
    before = times(bench.vault.getattr(1))
    inode = bench.vault.tmpfile(1, 0o666, ME)
    assert (inode.mode, inode.uid, inode.gid, inode.nlink) == (stat.S_IFREG | 0o644, 1000, 100, 0)
    root = bench.vault.getattr(1)
    assert (len(bench.vault.readdir(1)), root.size, root.nlink, times(root)) == (2, 0, 2, before)


def test_it_takes_after_a_set_group_directory(bench: Bench) -> None:
    folder = bench.vault.mkdir(1, b"d", 0o2755, Caller(0, 55, 0o022)).ino
    assert bench.vault.tmpfile(folder, 0o666, ME).gid == 55


def test_it_needs_a_directory_that_can_take_names(bench: Bench) -> None:
    file, folder = bench.file(), bench.folder()
    bench.vault.remember(folder)
    bench.vault.rmdir(1, b"d")
    refusals: list[tuple[type[AteError], Callable[[], object]]] = [
        (NotDirectoryError, lambda: bench.vault.tmpfile(file, 0o600, ME)),
        (NotFoundError, lambda: bench.vault.tmpfile(folder, 0o600, ME)),
        (StaleError, lambda: bench.vault.tmpfile(999, 0o600, ME)),
    ]
    for kind, call in refusals:
        with pytest.raises(kind):
            call()


def test_it_is_refused_on_a_full_disk_and_in_a_read_only_vault(quick: Bench) -> None:
    assert isinstance(quick.chain, MemoryChain)
    quick.committed()
    quick.chain.capacity = 0
    with pytest.raises(NoSpaceError):
        quick.vault.tmpfile(1, 0o600, ME)
    with pytest.raises(ReadOnlyError):
        Vault(quick.chain, read_only=True).tmpfile(1, 0o600, ME)


def test_nothing_is_written_for_one_that_is_forgotten_before_a_commit(bench: Bench) -> None:
    bench.committed()
    ino = tmpfile(bench)
    bench.vault.forget(ino)
    assert is_gone(bench.vault, ino)
    assert [change.key for change in bench.committed()] == [codec.numbers_key(bench.chain, bench.chain.device)]


@SIZES
def test_one_that_was_committed_goes_with_all_it_has_when_it_is_forgotten(bench: Bench, offset: int) -> None:
    ino = tmpfile(bench, offset)
    bench.committed()
    assert orphans(bench) == {ino}
    bench.vault.reap()
    assert bench.vault.read(ino, offset, 9) == b"data", "the reaper must leave what is in use"
    bench.vault.forget(ino)
    bench.settle_down()
    assert is_gone(bench.vault, ino)
    assert (orphans(bench), bench.chain.object_count(Lane.BLOB)) == (set(), 0)


@SIZES
def test_after_a_crash_it_is_reaped(bench: Bench, offset: int) -> None:
    ino = tmpfile(bench, offset)
    bench.committed()
    bench.reopen(rebuild=True)
    bench.settle_down()
    assert is_gone(bench.vault, ino)
    assert (orphans(bench), bench.chain.object_count(Lane.BLOB)) == (set(), 0)


@pytest.mark.parametrize("committed_before", [True, False])
@SIZES
def test_one_that_was_linked_has_its_name_after_a_crash_and_is_not_reaped(
    bench: Bench, offset: int, committed_before: bool
) -> None:
    ino = tmpfile(bench, offset)
    if committed_before:
        bench.committed()
    linked = bench.vault.link(ino, 1, b"name")
    assert (linked.ino, linked.nlink) == (ino, 1)
    bench.committed()
    for rebuild in (False, True):
        vault = bench.reopen(rebuild=rebuild)
        assert orphans(bench) == set()
        bench.settle_down()
        assert vault.lookup(1, b"name").ino == ino
        assert (vault.getattr(ino).nlink, vault.read(ino, offset, 9)) == (1, b"data")


def test_a_crash_between_the_commit_and_the_link_leaves_neither_name_nor_file(bench: Bench) -> None:
    ino = tmpfile(bench)
    bench.committed()
    bench.vault.link(ino, 1, b"name")
    vault = bench.reopen(rebuild=True)
    bench.settle_down()
    with pytest.raises(NotFoundError):
        vault.lookup(1, b"name")
    assert is_gone(vault, ino)


def test_one_that_is_linked_while_its_first_commit_fails_is_not_reaped(quick: Bench) -> None:
    ino = tmpfile(quick)
    frozen = quick.vault.freeze()
    assert frozen is not None
    quick.vault.link(ino, 1, b"name")
    quick.vault.thaw(frozen)
    quick.vault.commit()
    vault = quick.reopen()
    assert orphans(quick) == set()
    quick.settle_down()
    assert vault.lookup(1, b"name").ino == ino


def test_one_that_was_linked_lives_on_when_it_is_closed_and_goes_with_its_last_name(bench: Bench) -> None:
    ino = tmpfile(bench)
    bench.committed()
    bench.vault.link(ino, 1, b"name")
    bench.vault.forget(ino)
    assert bench.vault.read(ino, 0, 9) == b"data"
    bench.committed()
    bench.vault.unlink(1, b"name")
    bench.settle_down()
    assert is_gone(bench.vault, ino)
    assert orphans(bench) == set()


def test_one_that_was_linked_and_unlinked_while_open_is_nameless_again(bench: Bench) -> None:
    ino = tmpfile(bench)
    bench.vault.link(ino, 1, b"name")
    bench.committed()
    bench.vault.unlink(1, b"name")
    bench.committed()
    assert orphans(bench) == {ino}
    assert bench.vault.read(ino, 0, 9) == b"data"
    bench.vault.forget(ino)
    bench.settle_down()
    assert is_gone(bench.vault, ino)


def test_a_refused_link_leaves_it_without_a_name(bench: Bench) -> None:
    bench.file(b"taken")
    ino = tmpfile(bench)
    with pytest.raises(AteError) as refused:
        bench.vault.link(ino, 1, b"taken")
    assert refused.value.errno == errno.EEXIST
    bench.vault.forget(ino)
    assert is_gone(bench.vault, ino)


def test_a_link_that_forgets_the_list_of_orphans_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin: the name alone does not take the file off the list."""
    ino = tmpfile(bench)
    bench.committed()
    monkeypatch.setattr(bench.vault._inodes, "named", lambda inode: bench.vault._inodes.nameless.discard(inode.ino))
    bench.vault.link(ino, 1, b"name")
    bench.committed()
    bench.reopen(rebuild=True)
    assert orphans(bench) == {ino}
