"""The server's table of leases and mounts' ends of it in one run, with links that the test makes and cuts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import trio
from trio.testing import MockClock

from atedb.errors import AteError, UnreachableError
from atedb.net.client import GivenLease
from atedb.net.errors import ConnectionLostError, HeldError, RateError
from atedb.net.host import Claim
from atedb.net.locks import LAST, Lock
from atedb.node.leases import Leases
from atefs.mount.locks import SharedLocks
from tests.vault.memory_chain import MemoryChain

FILE = 7
P, Q = 0xA000, 0xB000
"""Owners, as a kernel numbers them: each machine may have the same numbers."""
GRACE = 2.0


class Documents:
    """What the server has on its disk."""

    def __init__(self) -> None:
        self.data, self.generation = b"", 0

    async def document(self, _name: str) -> tuple[bytes, int]:
        return self.data, self.generation

    async def put_document(self, _name: str, data: bytes, _expected: int, _fence: int) -> int:
        self.data, self.generation = data, self.generation + 1
        return self.generation


class Server:
    """Leases, a number of batches, and whether it answers. refusal: what it answers everything with. refused: names of
    which it gives nobody anything just now."""

    def __init__(self) -> None:
        self.refusal: AteError | None = None
        self.refused: set[str] = set()
        self.documents = Documents()
        self.fence = 0
        self.sequence = 10
        self.answering = trio.Event()
        self.answering.set()

    @property
    def silent(self) -> bool:
        return not self.answering.is_set()

    @silent.setter
    def silent(self, silent: bool) -> None:
        if silent:
            self.answering = trio.Event()
        else:
            self.answering.set()

    async def start(self) -> None:
        """Begin, or begin again."""
        self.fence += 1
        self.leases = Leases(cast(Any, self.documents), self.fence)
        await self.leases.load()


class Connection:
    """As ServerConnection, without anything in between. delay: before answers arrive. asked: how many requests came."""

    def __init__(self, server: Server, delay: float = 0.0) -> None:
        self.server = server
        self.ended = trio.Event()
        self.delay = delay
        self.asked = 0

    @property
    def lost(self) -> bool:
        return self.ended.is_set()

    async def _ask(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do it while the connection lasts."""
        self.asked += 1
        outcome: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self.ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self.server.answering.wait()
            try:
                if self.server.refusal is not None:
                    raise self.server.refusal
                outcome = [await work(), None]
            except Exception as error:
                outcome = [None, error]
            nursery.cancel_scope.cancel()
        if not outcome:
            raise ConnectionLostError("it was cut")
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    async def take_lease(
        self, claim: Claim, *, wait: bool = False, late: Callable[[], None] = lambda: None
    ) -> GivenLease:  # fmt: skip
        async def take() -> Any:
            if claim.name in self.server.refused:
                raise RateError("slower")
            return await self.server.leases.take(self, claim, (lambda _: None) if wait else None)

        given = await self._ask(take)
        try:
            await trio.sleep(self.delay)
        except trio.Cancelled:
            late()
            raise
        if self.lost:
            raise ConnectionLostError("it was cut before the answer came")
        return GivenLease(given.token, given.seconds, self.server.sequence)

    async def test_lease(self, claim: Claim) -> None:
        await self._ask(lambda: self.server.leases.test(claim))
        await trio.sleep(self.delay)
        if self.lost:
            raise ConnectionLostError("it was cut before the answer came")

    async def renew_leases(self, seconds: float) -> None:
        await self._ask(lambda: self.server.leases.renew(self, seconds))

    async def release_lease(self, name: str, owner: bytes, start: int, end: int) -> None:
        await self._ask(lambda: self.server.leases.release(self, name, owner, start, end))

    async def end_leases(self, owner: bytes) -> None:
        async def end() -> None:
            self.server.leases.end(self, owner)

        await self._ask(end)


class Mount:
    """One machine: its locks, and the link, which the test makes and cuts. steps: what was done, in order.

    settling, settled_at: how long it takes, and until when, that all is on the server. unsettled: what that ends with.
    """

    def __init__(self, server: Server, keys: MemoryChain, *, alone: bool = True, device: bytes = b"") -> None:
        self.server = server
        self.connection: Connection | None = None
        self.steps: list[str] = []
        self.settling = self.settled_at = 0.0
        self.unsettled: AteError | None = None
        self.following = 0.0
        self._news = trio.Event()
        self._lost_at = 0.0
        self.locks = SharedLocks(
            cast(Any, keys), cast(Any, self), self._settle, self._follow, alone=alone, device=device
        )

    async def _settle(self) -> None:
        await trio.sleep(max(self.settling, self.settled_at - trio.current_time()))
        if self.unsettled is not None:
            raise self.unsettled
        self.steps.append("settled")
        self.server.sequence += 1

    async def _follow(self, sequence: int) -> None:
        await trio.sleep(self.following)
        self.steps.append(f"followed {sequence}")

    async def hope(self) -> None:
        given_up = self._lost_at + GRACE
        if trio.current_time() >= given_up:
            raise UnreachableError("nobody there")
        with trio.move_on_at(given_up):
            await self._news.wait()

    async def connect(self, delay: float = 0.0) -> Connection:
        connection = Connection(self.server, delay)
        await self.locks.regain(cast(Any, connection))
        self.connection = connection
        self._news.set()
        self._news = trio.Event()
        return connection

    def cut(self) -> None:
        assert self.connection is not None
        self.connection.ended.set()
        self.server.leases.leave(self.connection)
        self.connection = None
        self._lost_at = trio.current_time()

    async def try_lock(self, owner: int, lock: Lock, ino: int = FILE) -> bool:
        """Whether it could be had at once."""
        try:
            await self.locks.lock(ino, owner, lock, wait=False)
        except HeldError:
            return False
        return True

    async def unlock(self, owner: int, start: int = 0, end: int = LAST, *, flock: bool = False) -> None:
        done = self.locks.unlock(FILE, owner, start, end, flock=flock)
        if done is not None:
            await done()


def exclusive(start: int = 0, end: int = LAST, *, flock: bool = False) -> Lock:
    return Lock(start, end, True, 1, flock)


def shared(start: int = 0, end: int = LAST, *, flock: bool = False) -> Lock:
    return Lock(start, end, False, 1, flock)


def run(test: Callable[[Mount, Mount, Server], Awaitable[None]], *, alone: bool = True) -> None:
    """Two mounts with links to one server; time passes only when all wait."""

    async def main() -> None:
        server, keys = Server(), MemoryChain()
        await server.start()
        a, b = Mount(server, keys, alone=alone), Mount(server, keys, alone=alone)
        async with trio.open_nursery() as nursery:
            for mount in (a, b):
                await mount.connect()
                nursery.start_soon(mount.locks.run)
            await test(a, b, server)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0.01))
