"""What the session does because others change the vault, too: it pauses, tells the kernel, and waits for a server."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest
import trio

from atedb.errors import Absent, UnreachableError
from atefs.errors import StaleError
from atefs.mount.direct.negotiation import NOTHING
from atefs.mount.direct.protocol import (
    FOPEN_KEEP_CACHE,
    INVAL_ENTRY,
    INVAL_INODE,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    OPEN_IN,
    OPEN_OUT,
    RENAME2_IN,
    RENAME_IN,
    WRITE_IN,
    Opcode,
)
from atefs.mount.direct.session import FETCHES_MAX, Session
from atefs.vault.inode import Caller
from atefs.vault.refresh import Stale, Touched
from atefs.vault.vault import Vault
from tests.mount.direct.kernel import Answer, Kernel
from tests.vault.memory_chain import MemoryChain

ROOT = 1


async def notice(kernel: Kernel) -> Answer:
    """The next notice: its kind is where an answer has its error."""
    return await kernel.answer(0)


def test_while_the_vault_is_closed_no_request_is_answered_and_all_are_afterwards() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            with kernel.session.closed():
                first = kernel.send(Opcode.GETATTR, ROOT)
                with pytest.raises(trio.TooSlowError):
                    await kernel.answer(first, 0.1)
                second = kernel.send(Opcode.GETATTR, ROOT)
            assert (await kernel.answer(first)).error == (await kernel.answer(second)).error == 0
            assert kernel.unanswered() == []

    trio.run(main)


def test_a_request_that_waited_is_not_tried_again_before_the_vault_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        kernel = Kernel()
        asked: list[bool] = []
        closed = False
        fetched = threading.Event()
        real = kernel.vault.getattr

        def getattr_(ino: int) -> object:
            asked.append(closed)
            if len(asked) == 1:
                raise Absent(lambda: bool(fetched.wait(10)))  # type: ignore[arg-type]
            return real(ino)

        monkeypatch.setattr(kernel.vault, "getattr", getattr_)
        async with kernel.served():
            unique = kernel.send(Opcode.GETATTR, ROOT)
            await trio.sleep(0.05)
            with kernel.session.closed():
                closed = True
                fetched.set()
                await trio.sleep(0.1)
                closed = False
            assert (await kernel.answer(unique)).error == 0
        assert asked == [False, False]

    trio.run(main)


def test_content_of_a_server_is_always_fetched_by_a_thread_however_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        kernel = Kernel()
        threads: list[int] = []
        real = kernel.vault.getattr

        def fetch() -> None:
            threads.append(threading.get_ident())
            if len(threads) > 3 * FETCHES_MAX:
                raise UnreachableError("gone")

        def getattr_(ino: int) -> object:
            if len(threads) < 2 * FETCHES_MAX:
                raise Absent(fetch)
            return real(ino)

        monkeypatch.setattr(kernel.vault, "getattr", getattr_)
        async with kernel.served():
            await kernel.get(Opcode.GETATTR, ROOT)
        assert len(threads) == 2 * FETCHES_MAX
        assert threading.get_ident() not in threads

    trio.run(main)


def test_the_kernel_is_told_of_attributes_and_content_before_names_for_which_it_may_wait_long() -> None:
    """Somebody in fsync of a folder has its lock, for as long as the server lets them wait."""

    async def main() -> None:
        async with Kernel().served() as kernel:
            kernel.adapter.outdate([5], [6], [(7, b"name")])
            told = await notice(kernel)
            assert (-told.error, INVAL_INODE.unpack(told.payload)) == (NOTIFY_INVAL_INODE, (5, -1, 0))
            told = await notice(kernel)
            assert (-told.error, INVAL_INODE.unpack(told.payload)) == (NOTIFY_INVAL_INODE, (6, 0, 0))
            told = await notice(kernel)
            assert -told.error == NOTIFY_INVAL_ENTRY
            folder, length, _ = INVAL_ENTRY.unpack_from(told.payload)
            assert (folder, length, told.payload[INVAL_ENTRY.size :]) == (7, 4, b"name\0")

    trio.run(main)


async def opened(kernel: Kernel, opcode: Opcode, ino: int) -> int:
    """The flags that the answer to an open has for the kernel."""
    _, flags, _ = OPEN_OUT.unpack(await kernel.get(opcode, ino, OPEN_IN.pack(os.O_NOATIME, 0)))
    return int(flags)


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.OPENDIR])
def test_whoever_opens_what_the_kernel_was_not_told_of_yet_sees_it_all_the_same(opcode: Opcode) -> None:
    async def main() -> None:
        vault = Vault.make(MemoryChain())
        file = vault.mknod(ROOT, b"file", stat.S_IFREG | 0o644, 0, Caller())
        number = file.ino if opcode == Opcode.OPEN else ROOT
        vault.remember(file.ino)
        vault.commit()
        async with Kernel(vault).served() as kernel:
            assert await opened(kernel, opcode, number) & FOPEN_KEEP_CACHE
            touched = Touched()
            touched.inodes.add(number)
            stale = vault.refresh(touched)
            assert not await opened(kernel, opcode, number) & FOPEN_KEEP_CACHE
            told = await notice(kernel)
            assert INVAL_INODE.unpack(told.payload) == (number, -1, 0)  # its size may be another one, too
            vault.told(stale, Stale(set(), {number}, set()))
            assert not await opened(kernel, opcode, number) & FOPEN_KEEP_CACHE  # it has changed again since
            await notice(kernel)
            vault.told(stale, Stale(set(), set(), set()))
            assert await opened(kernel, opcode, number) & FOPEN_KEEP_CACHE

    trio.run(main)


def test_whoever_opens_what_was_appended_elsewhere_than_the_kernel_thinks_sees_it_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        vault = Vault.make(MemoryChain())
        ino = vault.mknod(ROOT, b"file", stat.S_IFREG | 0o644, 0, Caller()).ino
        vault.write(ino, 0, b"0123456789")
        vault.remember(ino)
        kernel = Kernel(vault, shared=True)
        told: list[int] = []
        may_tell = threading.Semaphore(0)

        def changed(number: int) -> None:
            may_tell.acquire()
            told.append(number)

        monkeypatch.setattr(kernel.session, "changed", changed)
        async with kernel.served():
            assert await opened(kernel, Opcode.OPEN, ino) & FOPEN_KEEP_CACHE
            for _ in range(3):
                await kernel.get(Opcode.WRITE, ino, WRITE_IN.pack(0, 50, 3, 0, 0, os.O_APPEND, 0) + b"abc")
            assert vault.read(ino, 0, 100) == b"0123456789abcabcabc"
            for count in (0, 1):  # the second notice is for what was appended since the first one had begun
                assert len(told) == count
                assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0  # commits have need of it
                assert not await opened(kernel, Opcode.OPEN, ino) & FOPEN_KEEP_CACHE
                assert INVAL_INODE.unpack((await notice(kernel)).payload) == (ino, -1, 0)
                may_tell.release()
                with trio.fail_after(10):
                    while len(told) == count or (count and kernel.session.untold):
                        await trio.sleep(0)
            assert told == [ino, ino]
            assert await opened(kernel, Opcode.OPEN, ino) & FOPEN_KEEP_CACHE

    trio.run(main)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.UNLINK, b"file\0"),
        (Opcode.RMDIR, b"file\0"),
        (Opcode.RENAME, RENAME_IN.pack(ROOT) + b"file\0other\0"),
        (Opcode.RENAME2, RENAME2_IN.pack(ROOT, 0, 0) + b"other\0file\0"),
    ],
)
def test_what_the_kernel_may_take_for_another_file_is_not_moved_or_removed_before_it_has_looked_again(
    opcode: Opcode, body: bytes
) -> None:
    async def main() -> None:
        vault = Vault.make(MemoryChain())
        for name in (b"file", b"other"):
            vault.mknod(ROOT, name, stat.S_IFREG | 0o644, 0, Caller())
        vault.remember(ROOT)
        vault.commit()
        async with Kernel(vault).served() as kernel:
            touched = Touched()
            touched.entries.add((ROOT, b"file"))
            vault.refresh(touched)
            assert (await kernel.ask(opcode, ROOT, body)).error == errno.ESTALE
            assert (await kernel.ask(opcode, ROOT, body)).error == errno.ESTALE
            await kernel.get(Opcode.LOOKUP, ROOT, b"file\0")
            assert (await kernel.ask(opcode, ROOT, body)).error in {0, errno.ENOTDIR}

    trio.run(main)


def test_names_that_the_kernel_was_told_of_may_be_changed() -> None:
    vault = Vault.make(MemoryChain())
    stale = Stale(set(), set(), {(ROOT, b"file"), (ROOT, b"newer")})
    vault.outdated_names |= stale.entries
    vault.told(stale, Stale(set(), set(), {(ROOT, b"newer")}))
    vault.require_told(ROOT, b"file")
    with pytest.raises(StaleError):
        vault.require_told(ROOT, b"newer")


def test_a_notice_after_the_end_reaches_no_other_file() -> None:
    """A thread may have read the descriptor's number just before the connection was given up."""
    ours, theirs = os.pipe()
    os.close(ours)
    session = Session()
    session.attach(theirs, NOTHING)
    session.detach()
    opened = os.open(os.devnull, os.O_RDONLY)
    try:
        assert opened != theirs  # the number is not given to anybody else
        assert os.readlink(f"/proc/self/fd/{theirs}") == os.devnull
        session.renamed(1, b"name")
    finally:
        os.close(opened)
        os.close(theirs)
