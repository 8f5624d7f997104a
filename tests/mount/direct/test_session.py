"""The loop: every request gets one answer, whatever it is and whatever becomes of its handler."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.errors import Absent, NoSpaceError, NotResident
from atefs.mount.direct import session as module
from atefs.mount.direct.negotiation import WANTED, KernelTooOldError, negotiate
from atefs.mount.direct.protocol import (
    BODY,
    CREATE_IN,
    ENTRY,
    FORGET_IN,
    HANDLE_IN,
    IN_HEADER,
    INIT_IN,
    INIT_OUT,
    INTERRUPT_IN,
    READ_IN,
    WRITE_IN,
    Init,
    Opcode,
)  # fmt: skip
from atefs.vault.vault import Vault
from tests.mount.direct.kernel import Kernel

ROOT = 1
SYNCING = (Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.SYNCFS)


def write_in(offset: int, data: bytes, size: int | None = None) -> bytes:
    return WRITE_IN.pack(0, offset, len(data) if size is None else size, 0, 0, 0, 0) + data


def read_in(offset: int, size: int) -> bytes:
    return READ_IN.pack(0, offset, size, 0, 0, 0, 0)


async def made(kernel: Kernel, name: bytes) -> int:
    """The inode number of a new file."""
    body = CREATE_IN.pack(os.O_CREAT | os.O_RDWR, 0o644, 0o022, 0) + name + b"\0"
    return int(ENTRY.unpack_from(await kernel.get(Opcode.CREATE, ROOT, body))[0])


def test_a_file_is_made_written_found_and_read_back() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            assert await kernel.get(Opcode.WRITE, ino, write_in(3, b"content")) == b"\x07\0\0\0\0\0\0\0"
            assert await kernel.get(Opcode.READ, ino, read_in(0, 4096)) == b"\0\0\0content"
            found = await kernel.get(Opcode.LOOKUP, ROOT, b"name\0")
            assert ENTRY.unpack_from(found)[0] == ino
            assert await kernel.get(Opcode.RELEASE, ino, HANDLE_IN.pack(ino << 2 | 1) + bytes(16)) == b""
            assert kernel.committer.writers == 0
            assert kernel.committer.touches == 2

    trio.run(main)


def test_a_file_that_was_made_since_the_kernel_looked_is_not_taken_for_a_new_one() -> None:
    """The kernel cuts no file that it takes for new, nor does it check who may open it; told ESTALE, it looks anew."""

    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            for flags, error in ((os.O_TRUNC, errno.ESTALE), (os.O_EXCL, errno.EEXIST)):
                body = CREATE_IN.pack(os.O_CREAT | os.O_WRONLY | flags, 0o644, 0o022, 0) + b"name\0"
                assert (await kernel.ask(Opcode.CREATE, ROOT, body)).error == error
            found = await kernel.get(Opcode.LOOKUP, ROOT, b"name\0")
            assert ENTRY.unpack_from(found)[0] == ino
            assert kernel.committer.writers == 1

    trio.run(main)


def test_a_name_that_is_not_there_is_remembered_by_the_kernel() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            node, _, valid, *_ = ENTRY.unpack_from(await kernel.get(Opcode.LOOKUP, ROOT, b"nothing\0"))
            assert node == 0
            assert valid > 1000

    trio.run(main)


def test_an_unknown_opcode_is_answered_that_there_is_no_such_call() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            assert (await kernel.ask(4711, ROOT)).error == errno.ENOSYS

    trio.run(main)


@pytest.mark.expect_log("request .* of opcode 16 failed")
def test_a_malformed_request_is_refused_and_logged_and_the_mount_goes_on() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            assert (await kernel.ask(Opcode.WRITE, ino, b"short")).error == errno.EINVAL
            assert (await kernel.ask(Opcode.WRITE, ino, write_in(0, b"data", size=400))).error == errno.EINVAL
            assert await kernel.get(Opcode.READ, ino, read_in(0, 10)) == b""

    trio.run(main)


@pytest.mark.expect_log("request .* of opcode 3 failed")
def test_a_defect_costs_one_caller_eio_and_not_the_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            with monkeypatch.context() as patched:
                patched.setattr(Vault, "getattr", lambda *_: 1 // 0)
                assert (await kernel.ask(Opcode.GETATTR, ROOT, bytes(16))).error == errno.EIO
            assert (await kernel.ask(Opcode.GETATTR, ROOT, bytes(16))).error == 0

    trio.run(main)


def test_one_stuck_read_delays_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()

    def fetch() -> None:
        assert stuck.wait(20)

    def read(*_: object) -> bytes:
        if stuck.is_set():
            return b"at last"
        raise NotResident(fetch)

    monkeypatch.setattr(Vault, "read", read)

    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            waiting = kernel.send(Opcode.READ, ino, read_in(0, 10))
            for _ in range(50):
                await kernel.get(Opcode.LOOKUP, ROOT, b"name\0")
            assert not kernel.unanswered()
            stuck.set()
            assert (await kernel.answer(waiting)).payload == b"at last"

    trio.run(main)


def test_reads_that_wait_for_a_silent_server_delay_none_that_waits_for_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering = threading.Event()
    there: set[int] = set()

    def read(_vault: Vault, _ino: int, offset: int, _size: int) -> bytes:
        if offset and offset not in there:
            raise NotResident(lambda: there.add(offset))
        if not offset and not answering.is_set():
            raise Absent(lambda: bool(answering.wait(20)))  # type: ignore[arg-type]
        return b"at last"

    monkeypatch.setattr(Vault, "read", read)

    async def main() -> None:
        async with Kernel().served() as kernel:
            waiting = [kernel.send(Opcode.READ, ROOT, read_in(0, 10)) for _ in range(module.SLOW_MAX - 10)]
            for offset in range(1, 6):
                assert await kernel.get(Opcode.READ, ROOT, read_in(offset, 10)) == b"at last"
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert not kernel.unanswered()
            answering.set()
            for unique in waiting:
                assert (await kernel.answer(unique)).payload == b"at last"

    trio.run(main)


def test_a_fetch_that_never_helps_ends_in_reading_on_the_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def read(*_: object) -> bytes:
        if len(fetched) == 7:
            return b"seven"
        raise NotResident(lambda: fetched.append(threading.current_thread().name))

    monkeypatch.setattr(Vault, "read", read)

    async def main() -> None:
        async with Kernel().served() as kernel:
            assert await kernel.get(Opcode.READ, ROOT, read_in(0, 10)) == b"seven"

    trio.run(main)
    ours = threading.current_thread().name
    assert [name == ours for name in fetched] == [False] * module.FETCHES_MAX + [True] * 4


def test_a_writer_waits_for_room_while_others_are_answered() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            kernel.committer.full = True
            waiting = kernel.send(Opcode.WRITE, ino, write_in(0, b"data"))
            assert await kernel.get(Opcode.READ, ino, read_in(0, 10)) == b""
            kernel.committer.go.set()
            assert (await kernel.answer(waiting)).error == 0
            assert await kernel.get(Opcode.READ, ino, read_in(0, 10)) == b"data"

    trio.run(main)


@pytest.mark.parametrize("opcode", SYNCING)
def test_fsync_is_answered_on_the_spot_or_when_its_barrier_has_returned(opcode: Opcode) -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            await kernel.get(opcode, ROOT, bytes(16))
            assert kernel.committer.syncs == 1
            kernel.committer.quick = False
            waiting = kernel.send(opcode, ROOT, bytes(16))
            await kernel.get(Opcode.GETATTR, ROOT, bytes(16))
            assert not kernel.unanswered()
            kernel.committer.go.set()
            assert (await kernel.answer(waiting)).error == 0
            assert kernel.committer.syncs == 2

    trio.run(main)


def test_close_reports_a_commit_that_failed_to_whoever_wrote() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            kernel.committer.error = NoSpaceError("full")
            assert (await kernel.ask(Opcode.FLUSH, ROOT, HANDLE_IN.pack(3) + bytes(16))).error == errno.ENOSPC
            assert (await kernel.ask(Opcode.FLUSH, ROOT, HANDLE_IN.pack(2) + bytes(16))).error == 0

    trio.run(main)


def test_what_the_kernel_was_told_of_is_kept_until_it_forgets() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            await kernel.get(Opcode.LOOKUP, ROOT, b"name\0")
            await kernel.get(Opcode.UNLINK, ROOT, b"name\0")
            kernel.send(Opcode.FORGET, ino, FORGET_IN.pack(1))
            assert (await kernel.ask(Opcode.GETATTR, ino, bytes(16))).error == 0
            kernel.send(Opcode.FORGET, ino, FORGET_IN.pack(1))
            assert (await kernel.ask(Opcode.GETATTR, ino, bytes(16))).error == errno.ESTALE

    trio.run(main)


def test_an_answer_that_nobody_took_does_not_count_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Withdrawn:
        """As `os`, except that answers find that their request has gone."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def write(self, _fd: int, _data: bytes) -> int:
            raise FileNotFoundError(errno.ENOENT, "withdrawn")

    async def main() -> None:
        async with Kernel().served() as kernel:
            ino = await made(kernel, b"name")
            with monkeypatch.context() as patched:
                patched.setattr(module, "os", Withdrawn())
                kernel.send(Opcode.LOOKUP, ROOT, b"name\0")
                kernel.send(Opcode.LOOKUP, ROOT, b"name\0")
                await trio.testing.wait_all_tasks_blocked()
            await kernel.get(Opcode.UNLINK, ROOT, b"name\0")
            kernel.send(Opcode.FORGET, ino, FORGET_IN.pack(1))
            assert (await kernel.ask(Opcode.GETATTR, ino, bytes(16))).error == errno.ESTALE

    trio.run(main)


def test_an_interrupt_has_no_answer_of_its_own() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            kernel.send(Opcode.INTERRUPT, 0, bytes(8))
            await kernel.get(Opcode.GETATTR, ROOT, bytes(16))
            assert not kernel.unanswered()

    trio.run(main)


def test_a_request_that_waits_ends_when_its_process_gets_a_signal() -> None:
    async def main() -> None:
        async with Kernel().served() as kernel:
            kernel.committer.quick = False
            waiting = kernel.send(Opcode.FSYNC, ROOT, bytes(16))
            await kernel.get(Opcode.GETATTR, ROOT, bytes(16))
            kernel.send(Opcode.INTERRUPT, 0, INTERRUPT_IN.pack(waiting))
            assert (await kernel.answer(waiting)).error == errno.EINTR
            assert kernel.committer.syncs == 0

    trio.run(main)


def test_serving_ends_with_the_connection_and_when_it_is_told_to() -> None:
    async def main() -> None:
        async with Kernel().served():
            pass
        async with Kernel().served() as kernel:
            kernel.adapter.stop()

    trio.run(main)


@settings(max_examples=150)
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from([code for code in Opcode if code not in (Opcode.INIT, *SYNCING)]),
            st.integers(0, 4), st.binary(max_size=160),
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_no_request_however_wrong_ends_the_session(requests: list[tuple[Opcode, int, bytes]]) -> None:
    silent = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)

    async def main() -> None:
        async with Kernel().served() as kernel:
            for opcode, node, body in requests:
                unique = kernel.send(opcode, node, body)
                if opcode not in silent:
                    await kernel.answer(unique)
            await kernel.get(Opcode.STATFS, ROOT)

    module.log.disabled = True
    try:
        trio.run(main)
    finally:
        module.log.disabled = False


def test_only_what_the_kernel_offers_is_taken() -> None:
    def init(major: int, minor: int, offered: int) -> bytes:
        return IN_HEADER.pack(0, Opcode.INIT, 1, 0, 0, 0, 0, 0, 0) + INIT_IN.pack(major, minor, 131072, offered)

    offered = Init.WRITEBACK_CACHE | Init.ASYNC_READ | Init.POSIX_ACL | 1 << 1
    answer, agreed = negotiate(init(7, 31, offered), Init(0))
    assert agreed == offered & WANTED
    assert negotiate(init(7, 31, offered), Init.POSIX_ACL)[1] == agreed | Init.POSIX_ACL
    assert INIT_OUT.unpack(answer)[:4] == (7, 31, 131072, agreed)
    assert negotiate(init(8, 0, offered), Init(0))[1] == 0
    with pytest.raises(KernelTooOldError, match=r"7\.30"):
        negotiate(init(7, 30, offered), Init(0))
    assert len(init(7, 31, 0)) == BODY + INIT_IN.size
