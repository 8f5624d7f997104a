"""A node's end of a connection: one client, from the first byte to the last."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager

import trio

from atedb.chain.files import ChainFiles
from atedb.crypto.kem import KemKey
from atedb.errors import AteError, BusyError, InvalidError, StoreNotFoundError
from atedb.net.connection import ServerProtocol
from atedb.net.errors import ConnectionLostError, ProtocolError, RefusedError, UnavailableError
from atedb.net.failures import failed
from atedb.net.host import Access, Authenticator, Chain, Chains, Guest
from atedb.net.messages import Answer, Goodbye, Inquire, Open, Opened, Ping, Pong, Reply, Request
from atedb.net.pump import Pump
from atedb.net.serving import Serving, told
from atedb.net.transport import Transport

HANDSHAKE_SECONDS = 10.0
"""From the first byte until the client has proven who it is."""
SILENCE_SECONDS = 60.0
"""After so long without a word from the client, the connection is lost."""
MEMORY_SECONDS = 10.0
"""How long a large message waits for room in its tenant's memory."""
OPEN_SECONDS = 30.0
STOP_SECONDS = 15.0
"""How long requests under way may take when the node is being stopped."""
SLOWEST = 8 << 10
"""Bytes a second that a large message arrives with at least, after `SLACK_SECONDS`."""
SLACK_SECONDS = 30.0
_GOODBYE_SECONDS = 2.0
_WATCH_SECONDS = 5.0
_MAX_URGENT = 128
"""Small answers that wait to be taken, before nothing more is heard."""

_log = logging.getLogger(__name__)


async def serve_connection(
    transport: Transport,
    key: KemKey,
    authenticate: Authenticator,
    chains: Chains,
    *,
    stopping: trio.Event | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> None:
    """Serve one client until it leaves, fails, or is silent for too long; closes the transport.

    key: the server's. authenticate: called once the client has proven its key, before it is told anything. stopping:
    when it is set, requests under way are finished and answered, then the client is told goodbye. clock: ns since
    1970. Raises nothing but errors of this program itself. Cancelled, it leaves nothing behind.
    """
    session = _Session(transport, key, chains, stopping if stopping is not None else trio.Event())
    try:
        with trio.move_on_after(HANDSHAKE_SECONDS):
            await session.shake()
        guest = await session.admit(authenticate, clock)
        if guest is None:
            return
        try:
            await session.run(guest)
        finally:
            guest.close()
    except (ConnectionLostError, ProtocolError) as error:
        _log.debug("a connection ended in its handshake: %s", error)
    finally:
        await transport.aclose()


class _Session:
    def __init__(self, transport: Transport, key: KemKey, chains: Chains, stopping: trio.Event) -> None:
        self._transport = transport
        self._chains = chains
        self._stopping = stopping
        self._protocol = ServerProtocol(key)
        self._pump = Pump(transport, self._protocol)
        self._heard = trio.current_time()
        self._reserved = 0
        self._due = 0.0
        self._reading = trio.CancelScope()

    async def shake(self) -> None:
        """Up to the client's proof, or until it is clear that there will be none. Raises what ends the connection."""
        while not (self._protocol.introduced or self._protocol.refused):
            self._protocol.receive(await self._transport.receive())
            await self._pump.flush()

    async def admit(self, authenticate: Authenticator, clock: Callable[[], int]) -> Guest | None:
        """Who the client is, if it is let in. The welcome is sent by `run`."""
        if not self._protocol.introduced:
            return None
        try:
            guest = authenticate(self._protocol.identity or b"")
        except AteError as error:
            answer = failed(1, error)
            if answer.code == "unavailable":
                _log.warning("nobody can be let in: %s", error)
            self._protocol.refuse(answer)
            await self._pump.flush()
            return None
        self._protocol.welcome(clock())
        return guest

    async def run(self, guest: Guest) -> None:
        """From the welcome to the end."""
        self._heard = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                for work in (self._pump.run, self._watch):
                    nursery.start_soon(self._until_lost, work, nursery.cancel_scope)
                nursery.start_soon(self._stop)
                await self._until_lost(lambda: self._life(guest), nursery.cancel_scope)
        finally:
            guest.memory.give(self._reserved)

    async def _until_lost(self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        """Run one of the session's tasks; when it ends, the session does."""
        try:
            await work()
        except ConnectionLostError as error:
            _log.debug("a connection ended: %s", error)
        except AteError as error:
            await self._say_goodbye(error)
        scope.cancel()

    async def _say_goodbye(self, error: AteError) -> None:
        answer = failed(1, error)
        self._protocol.send(Goodbye(1, answer.code, answer.text))
        self._pump.wake()
        with trio.move_on_after(_GOODBYE_SECONDS):
            await self._pump.room(1)

    async def _stop(self) -> None:
        await self._stopping.wait()
        self._reading.cancel()

    @contextmanager
    def _unless_stopping(self) -> Iterator[None]:
        """What is inside ends when the node is being stopped."""
        with trio.CancelScope() as self._reading:
            if self._stopping.is_set():
                self._reading.cancel()
            yield

    async def _watch(self) -> None:
        """End a connection that is silent, or whose large message does not get on."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            now = trio.current_time()
            if now > self._heard + SILENCE_SECONDS:
                raise ConnectionLostError(f"the client has been silent for {SILENCE_SECONDS:.0f} seconds")
            if self._reserved and now > self._due:
                raise ConnectionLostError("a large message comes too slowly")

    async def _life(self, guest: Guest) -> None:
        """Open a chain, and serve it until the client leaves (ConnectionLostError) or the node is being stopped."""
        async with AsyncExitStack() as stack:
            opened: tuple[Chain, Access] | None = None
            with self._unless_stopping():
                opened = await self._open(guest, stack)
            if opened is not None:
                await self._serve(guest, *opened)
        await self._say_goodbye(UnavailableError("the server is being stopped"))

    async def _serve(self, guest: Guest, chain: Chain, access: Access) -> None:
        failure: AteError | None = None
        try:
            async with trio.open_nursery() as tasks:
                serving = Serving(
                    chain, access, guest, send=self._send, pump=self._pump, tasks=tasks,
                    statement=self._protocol.device_statement,
                )  # fmt: skip
                try:
                    with self._unless_stopping():
                        while True:
                            request, size, reserved = await self._next(guest)
                            await serving.take(request, size, reserved)
                    with trio.move_on_after(STOP_SECONDS):
                        await serving.finish()
                except AteError as error:
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            chain.leave(serving)
        if failure is not None:
            raise failure

    async def _open(self, guest: Guest, stack: AsyncExitStack) -> tuple[Chain, Access]:
        """The chain that the client asks for; it may try again after an error."""
        while True:
            request, _, reserved = await self._next(guest)
            try:
                if isinstance(request, Inquire):
                    await guest.spend(len(request.data))
                    reply = await guest.inquire(request.data, self._protocol.conversation)
                    self._send(Reply(request.id, reply))
                elif isinstance(request, Open):
                    return await self._enter(request, guest, stack)
                else:
                    raise InvalidError("no chain is open yet")
            except AteError as error:
                self._send(told(request.id, error))
            finally:
                guest.memory.give(reserved)

    async def _enter(self, request: Open, guest: Guest, stack: AsyncExitStack) -> tuple[Chain, Access]:
        access = guest.authorize(request.path)
        create = ChainFiles(*request.create) if request.create is not None else None
        chain: Chain | None = None
        with trio.move_on_after(OPEN_SECONDS):
            try:
                allowed = create if access.may_create else None
                chain = await stack.enter_async_context(self._chains.open(request.path, create=allowed))
            except StoreNotFoundError:
                if create is not None:
                    raise RefusedError("this identity may not make chains here") from None
                raise
        if chain is None:
            raise BusyError("the server has not opened the chain in time; try again")
        header, _ = await chain.document("chain")
        if access.may_write:
            self._protocol.allow_large()
        self._send(Opened(request.id, header, *chain.tail, access.quota, access.may_write, chain.takes_proof))
        return chain, access

    def _send(self, answer: Answer) -> None:
        self._protocol.send(answer)
        self._pump.wake()

    async def _next(self, guest: Guest) -> tuple[Request, int, int]:
        """The client's next request but pings, its size, and what it holds of the guest's memory."""
        while True:
            await self._pump.calm(_MAX_URGENT)
            data = await self._transport.receive()
            self._heard = trio.current_time()
            requests = self._protocol.receive(data)
            if self._protocol.incoming and not self._reserved:
                await self._reserve(guest, self._protocol.incoming)
            for request in requests:
                if isinstance(request, Ping):
                    self._send(Pong(request.id))
                    continue
                reserved = 0
                if request.bulk:
                    reserved, self._reserved = self._reserved, 0
                return request, max(len(data), reserved), reserved

    async def _reserve(self, guest: Guest, size: int) -> None:
        with trio.move_on_after(MEMORY_SECONDS) as bound:
            await guest.memory.take(size)
            self._reserved = size
        if bound.cancelled_caught:
            raise BusyError("this tenant's other connections take all of the memory that it may use; try again")
        self._due = trio.current_time() + SLACK_SECONDS + size / SLOWEST
        self._heard = trio.current_time()
