"""Listings load inodes only for who is going to want their attributes."""

from __future__ import annotations

import stat

import pytest
import trio

from atefs.mount.direct import hints
from atefs.mount.direct.protocol import ATTR, DIRENT, ENTRY, OPEN_OUT, READ_IN, Opcode
from atefs.vault.inode import Caller
from atefs.vault.vault import Vault
from tests.mount.direct.kernel import Kernel
from tests.vault.memory_chain import MemoryChain

FILES = 20
ME = Caller(1000, 100)


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hints, "perf_counter", lambda: clock.now)
    return clock


def cold_kernel() -> tuple[Kernel, MemoryChain, list[int]]:
    """A mount of two full directories, of which nothing is in memory; their inode numbers."""
    chain = MemoryChain()
    vault = Vault.make(chain)
    folders = [vault.mkdir(1, name, 0o755, ME).ino for name in (b"a", b"b")]
    for folder in folders:
        for number in range(FILES):
            vault.mknod(folder, b"f%02d" % number, stat.S_IFREG | 0o644, 0, ME)
    vault.commit()
    return Kernel(Vault(chain)), chain, folders


async def listed(kernel: Kernel, folder: int) -> dict[bytes, int]:
    """The names that READDIRPLUS gives, with the inode number of the attributes that came with it; 0: none did."""
    handle, *_ = OPEN_OUT.unpack(await kernel.get(Opcode.OPENDIR, folder, bytes(8)))
    data = await kernel.get(Opcode.READDIRPLUS, folder, READ_IN.pack(handle, 0, 1 << 16, 0, 0, 0, 0))
    found, at = {}, 0
    while at < len(data):
        (node, *_) = ENTRY.unpack_from(data, at)
        at += ENTRY.size + ATTR.size
        ino, _, length, _ = DIRENT.unpack_from(data, at)
        at += DIRENT.size
        assert node in (0, ino)
        found[data[at : at + length]] = node
        at += length + (-length & 7)
    return {name: node for name, node in found.items() if name not in (b".", b"..")}


async def look_up(kernel: Kernel, folder: int, count: int) -> None:
    for number in range(count):
        await kernel.get(Opcode.LOOKUP, folder, b"f%02d\0" % number)


def test_who_only_lists_names_has_no_inode_loaded(clock: Clock) -> None:
    async def main() -> None:
        kernel, chain, (first, second) = cold_kernel()
        async with kernel.served():
            for folder in (first, second):
                await kernel.get(Opcode.GETATTR, folder, bytes(16))
                before = chain.loads
                found = await listed(kernel, folder)
                assert len(found) == FILES
                assert not any(found.values())
                assert chain.loads == before

    trio.run(main)


def test_once_listed_names_are_looked_up_listings_bring_attributes(clock: Clock) -> None:
    async def main() -> None:
        kernel, _, (first, second) = cold_kernel()
        async with kernel.served():
            await listed(kernel, first)
            await look_up(kernel, first, hints.ENOUGH)
            assert all((await listed(kernel, second)).values())

    trio.run(main)


def test_who_descends_into_folders_does_not_want_the_attributes_of_what_is_in_them(clock: Clock) -> None:
    """Whoever walks a tree looks up each folder, whether only names are wanted or more."""

    async def main() -> None:
        chain = MemoryChain()
        vault = Vault.make(chain)
        folders = [vault.mkdir(1, b"%02d" % number, 0o755, ME).ino for number in range(FILES)]
        vault.mknod(folders[0], b"file", stat.S_IFREG | 0o644, 0, ME)
        vault.commit()
        kernel = Kernel(Vault(chain))
        async with kernel.served():
            assert not any((await listed(kernel, 1)).values())
            for number in range(FILES):
                await kernel.get(Opcode.LOOKUP, 1, b"%02d\0" % number)
            assert await listed(kernel, folders[0]) == {b"file": 0}

    trio.run(main)


def test_that_is_believed_for_a_while_only(clock: Clock) -> None:
    async def main() -> None:
        kernel, _, (first, second) = cold_kernel()
        async with kernel.served():
            await listed(kernel, first)
            await look_up(kernel, first, hints.ENOUGH)
            clock.now += hints.BELIEVED
            assert not any((await listed(kernel, second)).values())

    trio.run(main)


def test_one_name_looked_up_is_no_reason(clock: Clock) -> None:
    async def main() -> None:
        kernel, _, (first, second) = cold_kernel()
        async with kernel.served():
            await listed(kernel, first)
            await look_up(kernel, first, hints.ENOUGH - 1)
            assert not any((await listed(kernel, second)).values())

    trio.run(main)


def test_attributes_that_are_in_memory_are_given_in_any_case(clock: Clock) -> None:
    async def main() -> None:
        kernel, _, (first, _) = cold_kernel()
        async with kernel.served():
            await look_up(kernel, first, 2)
            found = await listed(kernel, first)
            assert [name for name, node in sorted(found.items()) if node] == [b"f00", b"f01"]

    trio.run(main)


def test_what_is_remembered_of_listings_has_a_bound() -> None:
    kept = hints.StatHints()
    for directory in range(hints.LISTED_MAX + 10):
        kept.listed_plainly(directory)
    assert len(kept.plain) == hints.LISTED_MAX
    assert 9 not in kept.plain
