"""A client's end of a connection: one chain of one node, each call a request, every wait with a bound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from atedb.chain.position import Position
from atedb.crypto.signing import SigningKey
from atedb.errors import LimitError
from atedb.net.connection import ClientProtocol
from atedb.net.errors import ConnectionLostError
from atedb.net.following import Following
from atedb.net.host import Claim
from atedb.net.messages import (
    MAX_BODIES,
    MAX_FRAMES,
    MAX_MESSAGE,
    Append,
    Appended,
    Asking,
    BodiesAre,
    DocumentIs,
    Done,
    EndLeases,
    GetBodies,
    GetDocument,
    GetStats,
    Inquire,
    Open,
    Opened,
    Ping,
    Pong,
    Prove,
    PutDocument,
    ReleaseLease,
    RenewLease,
    Reply,
    StatsAre,
    TakeLease,
)
from atedb.net.requests import Requests
from atedb.net.transport import Transport
from atedb.net.url import ServerUrl
from atedb.net.websocket import open_transport


class OpenedChain(NamedTuple):
    """header: the document "chain". quota: bytes that the tenant may store, or None. writable: one may append."""

    header: bytes
    tail: Position
    quota: int | None
    writable: bool


class GivenLease(NamedTuple):
    """token: higher than that of any lease of this chain before. seconds: from when it was answered. sequence: of the
    chain's newest batch then."""

    token: int
    seconds: float
    sequence: int


class ServerConnection:
    """Made by `connect`. May be used by several tasks at once.

    Every call may raise ConnectionLostError: what was asked for may have been done then. A call that is cancelled may
    be carried out all the same. Errors of the node come back as the classes that the node raised: StaleError with
    `tail`, QuotaError, RefusedError and so on; UnavailableError where it does not say what is wrong.

    fingerprint: of the server's key, which has been proven: what to remember on first use. time: the server's clock
    when the connection was made, ns since 1970. takes_proof: of the chain that is open, see `prove`.
    """

    def __init__(self, requests: Requests, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.time = requests.time
        self.takes_proof = False
        self._requests = requests

    async def open(self, path: str, *, create: tuple[bytes, bytes] | None = None) -> OpenedChain:
        """Which chain all other calls are about; once in a connection.

        create: header and key slots (the documents "chain" and "keys"), to make the chain if there is none. Where
        there is one with this very header it is opened, so that it can be tried again. Raises StoreNotFoundError,
        StoreExistsError for a chain with another header, RefusedError. It may be tried again after an error.
        """
        answer = await self._requests.ask(Opened, lambda number: Open(number, path, create), large=True)
        self.takes_proof = answer.proof
        return OpenedChain(answer.header, answer.tail, answer.quota, answer.writable)

    async def prove(self, device: bytes, sign: Callable[[bytes], bytes]) -> None:
        """Show that one has the key of a device of the chain: it spares the server its signatures, where `takes_proof`.

        sign: makes the device's signature. Raises InvalidError.
        """
        signature = sign(self._requests.device_statement)
        await self._requests.ask(Done, lambda number: Prove(number, device, signature))

    async def document(self, name: str) -> tuple[bytes, int]:
        """A small named file of the chain ("chain", "keys") and its generation; (b"", 0) when there is none."""
        answer = await self._requests.ask(DocumentIs, lambda number: GetDocument(number, name))
        return answer.data, answer.generation

    async def put_document(self, name: str, data: bytes, expected: int) -> int:
        """Replace a document; its new generation. Raises StaleDocumentError unless `expected` is the one there."""
        answer = await self._requests.ask(Done, lambda number: PutDocument(number, name, expected, data), large=True)
        return answer.generation

    async def append(self, frames: Sequence[bytes]) -> Position:
        """Add full frames after the chain's newest; durable on the server on return, with the new tail.

        At most 4,096 frames, of 256 MiB in all. Calls may follow each other without waiting; they are carried out in
        the order in which they were made. Raises StaleError (somebody else was first), InvalidError, QuotaError,
        RateError, BusyError, LimitError.
        """
        if sum(map(len, frames)) + 8 * len(frames) + 64 > MAX_MESSAGE or not 0 < len(frames) <= MAX_FRAMES:
            raise LimitError(f"{len(frames)} batches are too many, or too large, for one message; nothing was sent")
        answer = await self._requests.ask(Appended, lambda number: Append(number, list(frames)), large=True)
        return Position(answer.sequence, answer.hash)

    def follow(self, first: int, *, slim: bool = True) -> Following:
        """All batches from sequence `first` on. slim: without the bodies of the blob lane. One at a time."""
        return self._requests.follow(first, slim)

    async def bodies(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Sealed bodies by (sequence, place), in this order, however many. Raises InvalidError for one not there."""
        found: list[bytes] = []
        while len(found) < len(wanted):
            part = list(wanted[len(found) : len(found) + MAX_BODIES])
            answer = await self._requests.ask(BodiesAre, partial(_get_bodies, part))
            if len(answer.bodies) > len(part):
                raise self._requests.broken("it sends more than it was asked for")
            found += answer.bodies
        return found

    async def take_lease(
        self, claim: Claim, *, wait: bool = False, late: Callable[[], None] = lambda: None
    ) -> GivenLease:  # fmt: skip
        """Have what is claimed, as `messages.TakeLease` explains. Raises HeldError while somebody else has it.

        wait: for however long it takes, instead. late: called when it was given although the call was cancelled.
        Raises FencedError when what was had with the claim's token has ended, DeadlockError, NoLocksError.
        """
        asking = Asking.WAIT if wait else Asking.TRY
        answer = await self._requests.ask_for_lease(partial(_take_lease, claim, asking), lambda _: late(), patient=wait)
        return GivenLease(answer.token, answer.seconds, answer.sequence)

    async def test_lease(self, claim: Claim) -> None:
        """Raise HeldError if somebody else has what would be claimed."""
        await self._requests.ask_for_lease(partial(_take_lease, claim, Asking.TEST), lambda _: None, patient=False)

    async def renew_leases(self, seconds: float) -> None:
        """Keep all leases of this connection. Raises FencedError, once, when some of them have ended."""
        await self._requests.ask(Done, lambda number: RenewLease(number, seconds))

    async def release_lease(self, name: str, owner: bytes, start: int, end: int) -> None:
        """End what an owner has of bytes `start` to `end`. Nothing happens if it has nothing there."""
        await self._requests.ask(Done, lambda number: ReleaseLease(number, name, owner, start, end))

    async def end_leases(self, owner: bytes) -> None:
        """End what owners whose bytes begin with `owner` (1 to 64) have, and wait for, over other connections."""
        await self._requests.ask(Done, lambda number: EndLeases(number, owner))

    async def inquire(self, data: bytes) -> bytes:
        """Ask about accounts; `atedb.account.messages` has what. Only before a chain is open."""
        return (await self._requests.ask(Reply, lambda number: Inquire(number, data))).data

    @property
    def conversation(self) -> bytes:
        """The hash of the handshake: what is signed with it is of no use in another conversation."""
        return self._requests.conversation

    async def stats(self) -> StatsAre:
        """What the node knows of the chain, in numbers."""
        return await self._requests.ask(StatsAre, GetStats)

    async def ping(self) -> float:
        """Seconds until the server answered."""
        start = trio.current_time()
        await self._requests.ask(Pong, Ping)
        return trio.current_time() - start

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._requests.why is not None

    async def wait_lost(self) -> None:
        """Return when the connection has ended."""
        await self._requests.ended.wait()


def _take_lease(claim: Claim, asking: Asking, number: int) -> TakeLease:
    return TakeLease(
        number, claim.name, claim.owner, claim.start, claim.end, claim.exclusive, claim.seconds, asking, claim.token
    )


def _get_bodies(wanted: list[tuple[int, int]], number: int) -> GetBodies:
    return GetBodies(number, wanted)


@asynccontextmanager
async def connect(
    url: ServerUrl, identity: SigningKey | None, pin: bytes | None, *, timeout: float = 10.0,
    authorities: Path | None = None,
) -> AsyncIterator[ServerConnection]:  # fmt: skip
    """A connection to the server of `url`, on which no chain is open yet; it ends with the block.

    identity: who we are; None for a visitor, who may only inquire. pin: the fingerprint of the server's key, or None to
    take any (then keep `fingerprint`, which has been proven). timeout: seconds for the transport, and again until the
    server has let the client in. authorities: a file with certificates (PEM), besides the system's, that may vouch for
    that of a `wss` server. Raises ConnectionLostError, WrongServerError, RefusedError and what else the server refuses
    with, UnsupportedError (no common version), ProtocolError; inside the block, only what the block itself raises.
    """
    async with (
        open_transport(url, timeout=timeout, authorities=authorities) as transport,
        connect_transport(transport, identity, pin, timeout=timeout) as connection,
    ):
        yield connection


@asynccontextmanager
async def connect_transport(
    transport: Transport, identity: SigningKey | None, pin: bytes | None, *, timeout: float = 10.0
) -> AsyncIterator[ServerConnection]:
    """As `connect`, over a transport that is there already; it is closed with the block."""
    protocol = ClientProtocol(identity, pin)
    requests = Requests(transport, protocol)
    failure: BaseException | None = None
    try:
        with trio.move_on_after(timeout) as bound:
            await requests.shake()
        if bound.cancelled_caught:
            raise ConnectionLostError(f"the server has not let us in for {timeout:.0f} seconds")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(requests.run)
            try:
                yield ServerConnection(requests, protocol.fingerprint)
            except trio.Cancelled:
                raise
            except BaseException as error:
                # Kept, and raised outside of the nursery: that it has one is nobody's business.
                failure = error
            requests.end(ConnectionLostError("it was closed here"))
    finally:
        await transport.aclose()
    if failure is not None:
        raise failure
