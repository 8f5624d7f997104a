"""Requests about locks: what the kernel asks, whom a lock belongs to, and when it ends. There is one mount here."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from atedb.errors import UnreachableError
from atedb.net.locks import LAST
from atefs.mount.direct import adapter as adapter_module
from atefs.mount.direct import session as session_module
from atefs.mount.direct.protocol import (
    CREATE_IN,
    ENTRY,
    FLUSH_IN,
    INTERRUPT_IN,
    LK_FLOCK,
    LK_IN,
    LK_OUT,
    OPEN_IN,
    OPEN_OUT,
    RELEASE_FLOCK_UNLOCK,
    RELEASE_IN,
    Init,
    Opcode,
)
from atefs.mount.locks import SharedLocks
from tests.mount.direct.kernel import PID, Kernel
from tests.vault.memory_chain import MemoryChain

ROOT = 1
P, Q = 0xA000, 0xB000
FREE, READ, WRITE = fcntl.F_UNLCK, fcntl.F_RDLCK, fcntl.F_WRLCK


class NoLink:
    """No server, ever: what is locked is locked on this machine."""

    connection = None

    async def hope(self) -> None:
        await trio.lowlevel.checkpoint()
        raise UnreachableError("nobody there")


async def nothing(*_: object) -> None:
    """There is nothing to settle or to follow."""


def run(test: Callable[[Kernel, int], Awaitable[None]]) -> None:
    """With a file in a mount whose locks come to us."""

    async def main() -> None:
        locks = SharedLocks(cast(Any, MemoryChain()), cast(Any, NoLink()), nothing, nothing, alone=True)
        async with Kernel(locks=locks).served() as kernel:
            body = CREATE_IN.pack(os.O_CREAT | os.O_RDWR, 0o644, 0, 0) + b"name\0"
            await test(kernel, int(ENTRY.unpack_from(await kernel.get(Opcode.CREATE, ROOT, body))[0]))
            assert set(kernel.unanswered()) <= {0}  # notices

    trio.run(main)


def asked(
    owner: int, kind: int, start: int = 0, end: int = LAST, *, handle: int = 0, flock: bool = False
) -> bytes:  # fmt: skip
    return LK_IN.pack(handle, owner, start, end, kind, PID, LK_FLOCK * flock, 0)


async def opened(kernel: Kernel, ino: int) -> int:
    """The handle of a new open file."""
    handle, _, _ = OPEN_OUT.unpack(await kernel.get(Opcode.OPEN, ino, OPEN_IN.pack(os.O_RDWR, 0)))
    return int(handle)


async def error(kernel: Kernel, ino: int, body: bytes) -> int:
    return (await kernel.ask(Opcode.SETLK, ino, body)).error


alone = pytest.mark.expect_log("on this machine only")
"""For tests that lock something."""


@alone
def test_ranges_are_locked_told_and_unlocked() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        assert await error(kernel, ino, asked(P, WRITE, 10, 19)) == 0
        assert await error(kernel, ino, asked(Q, READ, 0, 10)) == errno.EAGAIN
        told = LK_OUT.unpack(await kernel.get(Opcode.GETLK, ino, asked(Q, READ, 0, 15)))
        assert told == (10, 19, WRITE, PID)
        assert LK_OUT.unpack(await kernel.get(Opcode.GETLK, ino, asked(P, READ, 0, 15)))[2] == FREE
        assert await error(kernel, ino, asked(P, FREE, 10, 14)) == 0
        assert await error(kernel, ino, asked(P, FREE, 10, 14)) == 0
        assert await error(kernel, ino, asked(Q, WRITE, 10, 14)) == 0
        assert await error(kernel, ino, asked(Q, WRITE, 10, 14, flock=True)) == 0
        assert await error(kernel, ino, asked(P, READ, flock=True)) == errno.EAGAIN
        assert await error(kernel, ino, asked(P, 7)) == errno.EINVAL
        assert await error(kernel, ino, asked(P, READ, 5, 4)) == errno.EINVAL

    run(test)


@alone
def test_a_lock_that_is_waited_for_is_given_or_given_up_at_a_signal() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        assert await error(kernel, ino, asked(P, WRITE)) == 0
        first, second = (kernel.send(Opcode.SETLKW, ino, asked(owner, WRITE)) for owner in (Q, Q + 1))
        kernel.send(Opcode.INTERRUPT, 0, INTERRUPT_IN.pack(first))
        assert (await kernel.answer(first)).error == errno.EINTR
        assert await error(kernel, ino, asked(P, FREE)) == 0
        assert (await kernel.answer(second)).error == 0
        assert await error(kernel, ino, asked(Q, WRITE)) == errno.EAGAIN
        assert await error(kernel, ino, asked(Q + 1, FREE)) == 0
        assert await error(kernel, ino, asked(Q, WRITE)) == 0

    run(test)


@alone
def test_however_many_wait_other_requests_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SLOW_MAX", 8)

    async def test(kernel: Kernel, ino: int) -> None:
        assert await error(kernel, ino, asked(P, WRITE, flock=True)) == 0
        waiting = [kernel.send(Opcode.SETLKW, ino, asked(Q + n, READ, flock=True)) for n in range(40)]
        await kernel.get(Opcode.LOOKUP, ROOT, b"name\0")
        assert await error(kernel, ino, asked(P, FREE, flock=True)) == 0
        for unique in waiting:
            assert (await kernel.answer(unique)).error == 0

    run(test)


@alone
def test_a_process_that_closes_the_file_has_no_posix_lock_any_more_whichever_descriptor_it_was_set_by() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        one, other = await opened(kernel, ino), await opened(kernel, ino)
        assert await error(kernel, ino, asked(P, WRITE, 0, 9, handle=one)) == 0
        assert await error(kernel, ino, asked(P, WRITE, handle=one, flock=True)) == 0
        assert (await kernel.ask(Opcode.FLUSH, ino, FLUSH_IN.pack(other, 0, P))).error == 0
        assert await error(kernel, ino, asked(Q, WRITE, 0, 9)) == 0
        assert await error(kernel, ino, asked(Q, READ, flock=True)) == errno.EAGAIN
        assert (await kernel.ask(Opcode.RELEASE, ino, RELEASE_IN.pack(other, 0, 0, 0))).error == 0
        assert await error(kernel, ino, asked(P, WRITE, 0, 9)) == errno.EAGAIN

    run(test)


@alone
def test_a_commit_that_failed_is_told_at_the_close_and_the_lock_ends_all_the_same() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        handle = await opened(kernel, ino)
        assert await error(kernel, ino, asked(P, WRITE, handle=handle)) == 0
        kernel.committer.error = OSError(errno.ENOSPC, "full")
        for _ in range(2):  # with a lock, and without
            assert (await kernel.ask(Opcode.FLUSH, ino, FLUSH_IN.pack(handle, 0, P))).error == errno.ENOSPC
        assert await error(kernel, ino, asked(Q, WRITE)) == 0

    run(test)


@alone
def test_an_open_file_that_ends_has_no_locks_any_more() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        one, other = await opened(kernel, ino), await opened(kernel, ino)
        assert one != other
        assert await error(kernel, ino, asked(P, WRITE, 0, 9, handle=one)) == 0  # an open-file-description lock
        assert await error(kernel, ino, asked(P, WRITE, handle=one, flock=True)) == 0
        assert (await kernel.ask(Opcode.RELEASE, ino, RELEASE_IN.pack(other, 0, 0, 0))).error == 0
        assert await error(kernel, ino, asked(Q, WRITE, 0, 9)) == errno.EAGAIN
        ends = RELEASE_IN.pack(one, 0, RELEASE_FLOCK_UNLOCK, P)
        assert (await kernel.ask(Opcode.RELEASE, ino, ends)).error == 0
        assert await error(kernel, ino, asked(Q, WRITE, 0, 9)) == 0
        assert await error(kernel, ino, asked(Q, WRITE, flock=True)) == 0

    run(test)


@alone
def test_a_lock_set_after_a_close_survives_the_end_of_the_open_file_that_was_closed() -> None:
    async def test(kernel: Kernel, ino: int) -> None:
        one, other = await opened(kernel, ino), await opened(kernel, ino)
        assert await error(kernel, ino, asked(P, WRITE, handle=one)) == 0
        assert (await kernel.ask(Opcode.FLUSH, ino, FLUSH_IN.pack(one, 0, P))).error == 0
        assert await error(kernel, ino, asked(P, WRITE, handle=other)) == 0
        assert (await kernel.ask(Opcode.RELEASE, ino, RELEASE_IN.pack(one, 0, 0, 0))).error == 0
        assert await error(kernel, ino, asked(Q, WRITE)) == errno.EAGAIN

    run(test)


@pytest.mark.parametrize("shared", [False, True])
def test_the_kernel_is_asked_for_locks_only_where_others_mount_the_vault_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    wanted = Init.POSIX_LOCKS | Init.FLOCK_LOCKS
    locks = SharedLocks(cast(Any, MemoryChain()), cast(Any, NoLink()), nothing, nothing, alone=True)

    async def main() -> None:
        kernel = Kernel(locks=locks if shared else None)
        monkeypatch.setattr(adapter_module, "connect", lambda *_: kernel._theirs)
        kernel.adapter.attach(tmp_path, frozenset())
        assert kernel.session._wanted & wanted == (wanted if shared else Init(0))
        assert (Opcode.SETLK in kernel.session._handlers) is shared
        async with kernel.served():
            pass

    trio.run(main)
