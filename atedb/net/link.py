"""What keeps a replica in step with its server: connects, compares, follows, sends, and begins again for ever.

A replica is reached through `Local`. Its own batches that are not acknowledged yet are *pending*; they are sent in
order. Batches of others are handed to `Local.take`, which has to put what is pending on top of them. One's own have
their place among those that are followed, so that the order there is the order everywhere.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import Protocol

import trio

from atedb.chain.position import START, Position
from atedb.crypto.aead import random_bytes
from atedb.errors import (
    AteError,
    BusyError,
    DamagedError,
    NoSpaceError,
    QuotaError,
    ReadOnlyError,
    StaleError,
    StorageError,
    UnreachableError,
)
from atedb.net.client import ServerConnection
from atedb.net.errors import ConnectionLostError, RateError, UnavailableError, WrongServerError

log = logging.getLogger(__name__)

BACKOFF_MIN, BACKOFF_MAX = 0.2, 30.0
"""Seconds between two attempts to connect: twice as long after each that failed, and a random part of it less."""
GRACE = 2.0
"""How long somebody who needs the server waits for a connection that was lost to be there again."""
SEND_BYTES = 4 << 20
ANSWER_SECONDS = 30.0
SLOWEST = 32 << 10
"""Bytes a second that a connection carries at least: what is sent has so much longer until it must be answered."""
PING_SECONDS = 10.0
FIRST_SECONDS = 10.0
"""How long somebody waits for the first connection after the start, before the server counts as out of reach."""
_PASSES = (QuotaError, BusyError, RateError, NoSpaceError, UnavailableError)
"""What a server refuses a batch with that it may take later."""


class Local(Protocol):
    """The replica. All calls are made in the link's event loop, and never two that change something at a time."""

    @property
    def acked(self) -> Position:
        """The newest batch that is known to be on the server, here as well."""

    @property
    def ready(self) -> int:
        """The newest batch that may be sent: it is on stable storage here."""

    @property
    def rebases(self) -> int:
        """How often pending batches were written anew, after which they have other sequences."""

    def founding(self) -> tuple[bytes, bytes] | None:
        """Header and key slots to make the chain from, where the server may never have seen it; else None."""

    def meet(self, header: bytes, tail: Position) -> None:
        """What the server says that it has. Raises DamagedError (or a class of it) when that cannot be."""

    def pending(self, limit: int) -> list[bytes]:
        """Whole frames directly after `acked`, up to `ready`: at least one if there is one, and about `limit` bytes."""

    async def acknowledge(self, position: Position) -> None:
        """The server has this batch of ours. Raises DamagedError when it is not ours; older ones change nothing."""

    async def take(self, frames: Sequence[bytes]) -> None:
        """Slim frames from the server, directly after each other, the first directly after `acked` or before that.

        Raises DamagedError when they do not belong there, and UnreachableError when what is needed of the server to
        merge them could not be had: then nothing has changed, and they are handed over again.
        """


class LinkState(Enum):
    """How it is with the server."""

    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    STOPPED = "stopped"
    """The server showed what cannot be, so that it is not believed any more."""


class DefectError(AteError):
    """The program itself is wrong somewhere."""


Dial = Callable[[], AbstractAsyncContextManager[ServerConnection]]
Met = Callable[[ServerConnection], Awaitable[None]]


async def _nothing(_connection: ServerConnection) -> None:
    """Nothing more is to be said at the beginning."""


class _Target:
    """What somebody waits for. Several may wait for the same."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence


class Link:
    """One replica's link. error: why it is not online, or why the server takes nothing just now. tail: the newest batch
    that the server had when we last met. writable: whether it then let us append; until then, what
    is known from before.

    connection: the one that there is. dial: makes one. path: the chain's, there. changed: called when `state` has
    changed. met: awaited at the beginning of each connection; it may take long, if each answer has a bound. jitter: a
    number from 0 up to 1, random.
    """

    def __init__(
        self, dial: Dial, path: str, local: Local, *, changed: Callable[[], None] = lambda: None, met: Met = _nothing,
        jitter: Callable[[], float] = lambda: random_bytes(1)[0] / 256,
    ) -> None:  # fmt: skip
        self.state = LinkState.CONNECTING
        self.error: AteError | None = None
        self.tail = START
        self.writable = True
        self._dial = dial
        self._path = path
        self._local = local
        self._told = changed
        self._met = met
        self._jitter = jitter
        self.connection: ServerConnection | None = None
        self._lost = -math.inf
        self._turn = trio.Lock()
        self._news = trio.Event()
        self._targets: set[_Target] = set()
        self._acked = local.acked.sequence
        """As `local` has it, but for changes that are under way: `_targets` belong to this one."""

    # -- what others ask

    def wake(self) -> None:
        """There is something to be sent, or to be looked at again."""
        self._news.set()
        self._news = trio.Event()

    async def acknowledged(self, sequence: int, seconds: float, *, moving: bool = False) -> None:
        """Return when all of the replica's own batches up to `sequence` are on the server's stable storage.

        Raises UnreachableError: within GRACE when there is no connection to be had, and after so many seconds. moving:
        these count only while the server takes nothing; while it does, its answers have bounds that go by their size.
        """
        target = _Target(sequence)
        self._targets.add(target)
        try:
            with trio.move_on_after(seconds) as patience:
                while self._acked < target.sequence:
                    if moving:
                        given_up = min(patience.deadline, trio.current_time() + seconds)
                        patience.deadline = math.inf if self.error is None else given_up
                    await self.hope()
                return
        finally:
            self._targets.remove(target)
        raise UnreachableError(
            f"the server has not acknowledged within {seconds:.0f} s; what was written is safe on this machine, and is "
            f"sent when the server takes it{self._why()}"
        )

    async def reached(self, sequence: int) -> None:
        """Return when all that the server has up to `sequence` is here. Raises UnreachableError, as `acknowledged`."""
        while self._local.acked.sequence < sequence:
            await self.hope()
        await self.at_rest()

    async def at_rest(self) -> None:
        """Return when nothing is being taken in or acknowledged, and nothing is until the next wait."""
        async with self._turn:
            pass

    async def tried(self) -> None:
        """Return when the first attempt to connect has come to something, or to nothing."""
        while self.state is LinkState.CONNECTING:
            await self._news.wait()

    async def in_step(self, seconds: float) -> bool:
        """Wait until all that the server had when we met is here, one batch at least: whoever makes a chain sends its
        first one a moment later. False: there was no server, or nothing, for so many seconds."""
        with trio.move_on_after(seconds) as patience:
            while self.state is not LinkState.ONLINE or not self._local.acked.sequence:
                if self.state is LinkState.STOPPED:
                    return False
                before = self._local.acked
                await self._news.wait()
                if self._local.acked != before:
                    patience.deadline = trio.current_time() + seconds
            return True
        return False

    async def bodies(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Sealed bodies by (sequence, place). Raises UnreachableError, within a bound."""
        with trio.move_on_after(ANSWER_SECONDS):
            while self.connection is None:
                await self.hope()
            try:
                return await self.connection.bodies(wanted)
            except (ConnectionLostError, *_PASSES) as error:
                raise UnreachableError(
                    f"the content is on the server only, which could not be reached: {error}"
                ) from None
        raise UnreachableError(f"the content is on the server only, which has not answered for {ANSWER_SECONDS:.0f} s")

    async def hope(self) -> None:
        """Wait for news, as long as some may be expected soon. Raises UnreachableError."""
        given_up = self._lost + GRACE if self.state is LinkState.OFFLINE else math.inf
        if self.state is LinkState.STOPPED or trio.current_time() >= given_up:
            raise UnreachableError(
                f"the server cannot be reached; what was written is safe on this machine{self._why()}"
            )
        with trio.move_on_at(given_up):
            await self._news.wait()

    def _why(self) -> str:
        return f" ({self.error})" if self.error else ""

    # -- the task

    async def run(self) -> None:
        """Connect and keep in step, for ever; returns only when the server cannot be believed any more."""
        failures = 0
        while True:
            try:
                async with self._dial() as connection:
                    await self._serve(connection)
            except (DamagedError, ReadOnlyError, StorageError) as error:
                log.error("the link to the server has ended: %s", error)
                self._become(LinkState.STOPPED, error)
                return
            except AteError as error:
                failures = 0 if self.state is LinkState.ONLINE else failures + 1
                if self.error is None or str(error) != str(self.error):
                    log.info("no connection to the server: %s", error)
                self._become(LinkState.OFFLINE, error)
                slow = isinstance(error, WrongServerError)
            except Exception as error:  # whoever works on the replica must not lose it to a defect in here
                failures += 1
                log.exception("a defect ended the connection to the server, which is tried again")
                self._become(LinkState.OFFLINE, DefectError(f"a defect: {type(error).__name__}: {error}"))
                slow = True
            delay = BACKOFF_MAX if slow else min(BACKOFF_MAX, BACKOFF_MIN * 2.0 ** min(failures, 16))
            await trio.sleep(delay * (1 - self._jitter() / 2))

    def _become(self, state: LinkState, error: AteError | None) -> None:
        before, self.state, self.error = self.state, state, error
        if state is not before:
            self._lost = trio.current_time()
            self._told()
        self.wake()

    async def _serve(self, connection: ServerConnection) -> None:
        """One connection, to its end, which is an error always."""
        with _bound(ANSWER_SECONDS, "the server did not open the chain"):
            opened = await connection.open(self._path, create=self._local.founding())
        self._local.meet(opened.header, opened.tail)
        self.tail = opened.tail
        self.writable = opened.writable
        await self._met(connection)
        self.connection = connection
        try:
            failure = await self._parts(connection)
        finally:
            self.connection = None
        raise failure or ConnectionLostError("the connection to the server has ended")

    async def _parts(self, connection: ServerConnection) -> AteError | None:
        """What is done over a connection, all at once, until something fails; that."""
        failure: AteError | None = None
        async with trio.open_nursery() as nursery:

            async def part(task: Callable[[ServerConnection], Awaitable[None]]) -> None:
                nonlocal failure
                try:
                    await task(connection)
                except AteError as error:
                    failure = failure or error
                    nursery.cancel_scope.cancel()

            self._if_in_step()
            for task in (self._receive, self._send, self._listen):
                nursery.start_soon(part, task)
        return failure

    async def _listen(self, connection: ServerConnection) -> None:
        """Notice when nobody is there any more."""
        while True:
            with trio.move_on_after(PING_SECONDS):
                await connection.wait_lost()
                raise ConnectionLostError("the connection to the server has ended")
            with _bound(PING_SECONDS, "the server has been silent"):
                await connection.ping()

    async def _receive(self, connection: ServerConnection) -> None:
        async for news in connection.follow(self._local.acked.sequence + 1, slim=True):
            async with self._changing():
                if isinstance(news, Position):
                    await self._local.acknowledge(news)
                else:
                    await self._local.take(news)
            self._if_in_step()

    async def _send(self, connection: ServerConnection) -> None:
        refused = 0
        while True:
            news = self._news
            async with self._turn:
                frames = self._local.pending(SEND_BYTES)
            if not frames:
                await news.wait()
                continue
            seconds = ANSWER_SECONDS + sum(map(len, frames)) / SLOWEST
            try:
                with _bound(seconds, "the server has not acknowledged what was sent"):
                    position = await connection.append(frames)
            except StaleError as error:
                await self._overtaken(error.tail[0])
            except _PASSES as error:
                refused += 1
                log.log(logging.WARNING if refused == 1 else logging.DEBUG, "the server takes nothing now: %s", error)
                self._become(self.state, error)
                await trio.sleep(min(BACKOFF_MAX, 2.0 ** min(refused, 16)))
            else:
                refused = 0
                async with self._changing():
                    await self._local.acknowledge(position)
                self._if_in_step()

    async def _overtaken(self, tail: int) -> None:
        """Somebody else was first: wait until what they wrote has come and lies beneath what is pending."""
        reached, deadline = -1, 0.0
        while (acked := self._local.acked.sequence) < tail:
            if acked > reached:
                reached, deadline = acked, trio.current_time() + ANSWER_SECONDS
            with trio.move_on_at(deadline):
                await self._news.wait()
            if self._turn.locked():  # to put what is pending on top may take longer, and is not the server's fault
                await self.at_rest()
                deadline = trio.current_time() + ANSWER_SECONDS
            elif trio.current_time() >= deadline:
                raise ConnectionLostError(
                    f"the server refers to batches that it does not show for {ANSWER_SECONDS:.0f} s"
                )

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """One change of the replica at a time; whoever waits for pending batches follows them when they are moved.

        A merge makes few batches of many, so that these may have lower sequences than before.
        """
        async with self._turn:
            rebases = self._local.rebases
            try:
                yield
            finally:
                if self._local.rebases != rebases:
                    for target in self._targets:
                        if target.sequence > self._acked:
                            target.sequence = self._local.ready
                self._acked = self._local.acked.sequence
                self.wake()

    def _if_in_step(self) -> None:
        if self._local.acked.sequence >= self.tail.sequence and (self.state is not LinkState.ONLINE or self.error):
            self._become(LinkState.ONLINE, None)


class _bound:
    """`with _bound(seconds, what):` raises ConnectionLostError, which says what, when the time is up."""

    def __init__(self, seconds: float, what: str) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._seconds = seconds
        self._what = what

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *details: object) -> bool | None:
        swallowed = self._scope.__exit__(*details)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise ConnectionLostError(f"{self._what} for {self._seconds:.0f} s")
        return swallowed
