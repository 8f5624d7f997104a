"""The kernel's end of a connection, played by the test: a socket keeps messages apart just as /dev/fuse does."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import trio

from atefs.mount.direct.adapter import DirectAdapter
from atefs.mount.direct.protocol import IN_HEADER, INIT_IN, OUT_HEADER, Init, Opcode
from atefs.mount.direct.session import BUFFER, Session
from atefs.mount.locks import SharedLocks
from atefs.vault.vault import Vault
from tests.vault.memory_chain import MemoryChain

UID, GID, PID = 1000, 100, 4242
OFFERED = 0xFFFFFFFF


class Answer(NamedTuple):
    """error: an errno, 0 for none."""

    unique: int
    error: int
    payload: bytes


class FakeCommitter:
    """Counts; `room` and `sync` wait for what the test lets happen."""

    def __init__(self) -> None:
        self.full = False
        self.writers = self.touches = self.syncs = 0
        self.error: Exception | None = None
        self.quick = True
        self.go = trio.Event()

    def touch(self) -> None:
        self.touches += 1

    def check(self) -> None:
        if self.error:
            raise self.error

    def sync_now(self) -> bool:
        self.syncs += self.quick
        return self.quick

    async def sync(self) -> None:
        await self.go.wait()
        self.syncs += 1

    async def room(self) -> None:
        await self.go.wait()
        self.full = False


class Kernel:
    """Sends requests and reads answers, in whatever order they come."""

    def __init__(
        self, vault: Vault | None = None, locks: SharedLocks | None = None, *, shared: bool = False
    ) -> None:  # fmt: skip
        self.vault = vault or Vault.make(MemoryChain())
        self.committer = FakeCommitter()
        self.session = Session()
        self.adapter = DirectAdapter(self.vault, cast(Any, self.committer), self.session)
        if locks is not None:
            self.adapter.share_locks(locks)
        self.adapter.prepare(acl=True, acl_in_kernel=True, shared=shared)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs = theirs.detach()
        self.session.attach(self._theirs, Init.POSIX_ACL)
        self._unique = 0
        self._early: dict[int, Answer] = {}

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Kernel]:
        """While the session serves; INIT has been answered."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.session.serve)
            await self.ask(Opcode.INIT, 0, INIT_IN.pack(7, 45, 131072, OFFERED) + bytes(48))
            yield self
            self._ours.close()
        self.session.detach()
        os.close(self._theirs)  # which the session keeps taken to the end of its process

    def send(self, opcode: int, node: int, body: bytes = b"") -> int:
        """Send a request; its number."""
        self._unique += 2
        head = IN_HEADER.pack(IN_HEADER.size + len(body), opcode, self._unique, node, UID, GID, PID, 0, 0)
        self._ours.send(head + body)
        return self._unique

    def send_raw(self, data: bytes) -> int:
        """Send a request as it was noted; its number."""
        self._ours.send(data)
        return int(IN_HEADER.unpack_from(data)[2])

    async def answer(self, unique: int, seconds: float = 10) -> Answer:
        """The answer to a request."""
        with trio.fail_after(seconds):
            while unique not in self._early:
                await trio.lowlevel.wait_readable(self._ours)
                data = os.read(self._ours.fileno(), BUFFER)
                length, error, number = OUT_HEADER.unpack_from(data)
                assert length == len(data)
                self._early[number] = Answer(number, -error, data[OUT_HEADER.size :])
        return self._early.pop(unique)

    async def ask(self, opcode: int, node: int, body: bytes = b"") -> Answer:
        """A request and its answer."""
        return await self.answer(self.send(opcode, node, body))

    async def get(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        """What a request that succeeds answers."""
        answer = await self.ask(opcode, node, body)
        assert answer.error == 0, os.strerror(answer.error)
        return answer.payload

    def unanswered(self) -> list[int]:
        """The numbers of answers that nobody has asked for; there should be none."""
        return list(self._early)
