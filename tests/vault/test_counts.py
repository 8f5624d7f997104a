"""What one operation costs the chain: exact numbers of changes, loads and questions to the disk."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from atefs.errors import NotFoundError
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from atefs.vault.rename import EXCHANGE
from tests.vault.conftest import ME, Bench, tally


def ready(bench: Bench) -> None:
    """Get the first inode numbers reserved, so that their object does not appear in what follows."""
    bench.file(b"first")
    bench.committed()


def test_a_small_file_is_one_inode_and_one_entry_besides_its_directory(bench: Bench) -> None:
    ready(bench)
    file = bench.file(data=b"d" * 4096)
    bench.vault.setattr(file, Attributes(mode=0o600, mtime=5))
    assert tally(bench.committed()) == {"meta": 3}


def test_a_thousand_files_share_their_directory_event(bench: Bench) -> None:
    ready(bench)
    for number in range(1000):
        bench.file(b"%d" % number, b"data")
    assert tally(bench.committed()) == {"meta": 2001}


def test_what_is_made_and_deleted_between_commits_costs_its_directory_only(bench: Bench) -> None:
    ready(bench)
    bench.file(data=os.urandom(3 * BLOCK))
    bench.vault.unlink(1, b"f")
    assert tally(bench.committed()) == {"meta": 1}
    assert bench.vault.dirty_bytes == 0


def test_each_operation_takes_its_number_of_events(bench: Bench) -> None:
    ready(bench)
    vault = bench.vault
    file, folder, other = bench.file(data=os.urandom(3 * BLOCK)), bench.folder(), bench.folder(b"e")
    bench.committed()

    def cost(operation: Callable[..., object], *arguments: object) -> dict[str, int]:
        operation(*arguments)
        return tally(bench.committed())

    assert cost(vault.setattr, file, Attributes(mode=0o600)) == {"meta": 1}
    assert cost(vault.setattr, file, Attributes(atime=1, mtime=1)) == {"meta": 1}
    assert cost(vault.setxattr, file, b"user.a", b"x") == {"meta": 1}
    assert cost(vault.write, file, 3 * BLOCK, b"a" * 4096) == {"meta": 1, "blob": 1}
    assert cost(vault.write, file, 3 * BLOCK + 4096, b"a" * 4096) == {"meta": 1, "blob": 1}
    assert cost(vault.write, file, 0, b"a" * 4096) == {"meta": 1, "blob": 1}
    assert cost(vault.write, file, BLOCK * REGION_BLOCKS, b"a") == {"meta": 2, "blob": 1}
    assert cost(vault.rename, 1, b"f", 1, b"g") == {"meta": 3, "-meta": 1}
    assert cost(vault.rename, 1, b"g", folder, b"g") == {"meta": 4, "-meta": 1}
    assert cost(vault.rename, folder, b"g", 1, b"first", EXCHANGE) == {"meta": 6}
    assert cost(vault.link, file, folder, b"h") == {"meta": 3}
    assert cost(vault.unlink, folder, b"h") == {"meta": 2, "-meta": 1}
    assert cost(vault.mkdir, other, b"sub", 0o755, ME) == {"meta": 3}
    assert cost(vault.rmdir, other, b"sub") == {"meta": 1, "-meta": 2}
    assert cost(vault.symlink, 1, b"l", b"x", ME) == {"meta": 3}
    assert cost(vault.unlink, 1, b"l") == {"meta": 1, "-meta": 2}
    assert cost(vault.setattr, file, Attributes(size=BLOCK)) == {"meta": 1, "-blob": 4}


def test_deleting_a_file_of_one_region_is_one_step(bench: Bench) -> None:
    ready(bench)
    bench.file(data=os.urandom(5 * BLOCK))
    bench.committed()
    bench.vault.unlink(1, b"f")
    assert tally(bench.committed()) == {"meta": 1, "-meta": 2, "-blob": 5}


def test_inode_numbers_are_reserved_many_at_a_time(quick: Bench) -> None:
    quick.file(b"first")
    assert tally(quick.committed()) == {"meta": 4}
    quick.vault._numbers._next = quick.vault._numbers._limit - 1
    quick.file(b"last of the range")
    assert tally(quick.committed()) == {"meta": 3}
    quick.file(b"first of the next")
    assert tally(quick.committed()) == {"meta": 4}


def test_a_cold_lookup_is_two_loads_and_a_warm_one_none(quick: Bench) -> None:
    quick.file(data=b"x" * 4096)
    quick.committed()
    vault = quick.reopen()
    chain = quick.chain
    before = chain.loads  # type: ignore[union-attr]
    file = vault.lookup(1, b"f").ino
    assert chain.loads - before == 2  # type: ignore[union-attr]
    assert vault.read(file, 0, 4096) == b"x" * 4096
    vault.lookup(1, b"f")
    vault.setattr(file, Attributes(mode=0o600))
    assert chain.loads - before == 2  # type: ignore[union-attr]


def test_a_missing_name_is_asked_for_once(quick: Bench) -> None:
    vault = quick.reopen()
    vault.getattr(1)
    before = quick.chain.loads  # type: ignore[union-attr]
    for _ in range(5):
        with pytest.raises(NotFoundError):
            vault.lookup(1, b"nothing")
    vault.mknod(1, b"nothing", 0o644, 0, ME)
    assert quick.chain.loads - before == 1  # type: ignore[union-attr]


def test_the_disk_is_not_asked_for_its_space_on_each_write(quick: Bench) -> None:
    file = quick.file()
    before = quick.chain.free_calls  # type: ignore[union-attr]
    for index in range(1000):
        quick.vault.write(file, index * 4096, b"x" * 4096)
    assert quick.chain.free_calls - before == 0  # type: ignore[union-attr]
    quick.committed()
    before = quick.chain.free_calls  # type: ignore[union-attr]
    quick.vault.write(file, 0, b"x")
    assert quick.chain.free_calls - before == 1  # type: ignore[union-attr]
