"""Two ends joined by hand, and a node made of nothing but a list: what the tests of this folder share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import trio
from trio.testing import MockClock

from atedb.chain.files import ChainFiles
from atedb.chain.position import START, Position
from atedb.crypto.hashing import digest
from atedb.crypto.kem import KemKey
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, InvalidError, StaleDocumentError, StaleError, StoreNotFoundError
from atedb.net.budget import ByteBudget
from atedb.net.client import ServerConnection, connect_transport
from atedb.net.connection import ClientProtocol, ServerProtocol
from atedb.net.errors import HeldError, RefusedError
from atedb.net.host import Access, Claim
from atedb.net.session import serve_connection
from atedb.testing.links import Link

KEY = KemKey.generate()
"""The server's."""
IDENTITY = SigningKey(b"i" * 32)
STRANGER = SigningKey(b"s" * 32)
PATH = "/you@example.com/vault"
FILES = ChainFiles(b"header", b"slots")


def run(test: Callable[[], Awaitable[None]], *, clock: trio.abc.Clock | None = None) -> None:
    """Run an asynchronous test, with a clock that skips every wait unless another one is given."""
    trio.run(test, clock=clock or MockClock(autojump_threshold=0.001))


def deliver(client: ClientProtocol, server: ServerProtocol) -> tuple[list[object], list[object]]:
    """Carry everything across, in both directions, until both are quiet: what the server heard, and the client."""
    heard: tuple[list[object], list[object]] = ([], [])
    quiet = False
    while not quiet:
        quiet = True
        while (data := client.next_to_send()) is not None:
            quiet = False
            heard[0].extend(server.receive(data))
        while (data := server.next_to_send()) is not None:
            quiet = False
            heard[1].extend(client.receive(data))
    return heard


def joined(pin: bytes | None = KEY.fingerprint) -> tuple[ClientProtocol, ServerProtocol]:
    """A client and a server that have let each other in."""
    client, server = ClientProtocol(IDENTITY, pin), ServerProtocol(KEY)
    deliver(client, server)
    server.welcome(17)
    deliver(client, server)
    assert client.ready
    assert server.ready
    return client, server


class ListLease(NamedTuple):
    """A lease of `ListChain`."""

    token: int
    seconds: float


class ListLane(NamedTuple):
    """A lane of `ListChain`."""

    objects: int = 0
    live: int = 0
    total: int = 0


class ListStats(NamedTuple):
    """What `ListChain` knows of itself."""

    tail: Position
    stored: int
    meta: ListLane = ListLane()
    blob: ListLane = ListLane()
    devices: int = 1
    followers: int = 0


@dataclass
class ListChain:
    """A chain of any bytes. hold: appends wait for it. fail: what an append raises. order: appends as they came.

    held: leases that somebody else has, with what tells of their end. ended: whose leases were. left: clients that have
    gone.
    """

    frames: list[bytes] = field(default_factory=list)
    hold: trio.Event | None = None
    fail: AteError | None = None
    order: list[bytes] = field(default_factory=list)
    quotas: list[int | None] = field(default_factory=list)
    proven: list[bytes] = field(default_factory=list)
    takes_proof: bool = False
    documents: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    tokens: int = 0
    held: dict[str, trio.Event] = field(default_factory=dict)
    ended: list[bytes] = field(default_factory=list)
    left: int = 0
    body: bytes = b"body"

    def __post_init__(self) -> None:
        self.news = trio.Event()
        self.following = 0

    @property
    def tail(self) -> Position:
        return Position(len(self.frames), digest(self.frames[-1])) if self.frames else START

    async def append(
        self, client: object, frames: Sequence[bytes], *, quota: int | None = None, proven: bytes = b""
    ) -> Position:
        self.proven.append(proven)
        self.order += frames
        self.quotas.append(quota)
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        if self.fail is not None:
            raise self.fail
        if frames[0] == b"stale":
            raise StaleError(self.tail)
        self.frames += frames
        self.news.set()
        self.news = trio.Event()
        return self.tail

    async def follow(
        self, first: int, *, limit: int, slim: bool, client: object
    ) -> AsyncGenerator[list[bytes] | Position, None]:
        self.following += 1
        try:
            while True:
                frames = self.frames[first - 1 : first + 2]
                if frames:
                    first += len(frames)
                    yield frames
                else:
                    await self.news.wait()
        finally:
            self.following -= 1

    async def bodies(self, wanted: Sequence[tuple[int, int]], *, limit: int) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        if any(place > 1000 for _, place in wanted):
            raise InvalidError("there is no such event")
        return [self.body + bytes([place & 255]) for _, place in wanted[:100]]

    async def document(self, name: str) -> tuple[bytes, int]:
        await trio.lowlevel.checkpoint()
        return self.documents.get(name, (b"", 0))

    async def put_document(self, name: str, data: bytes, expected: int) -> int:
        await trio.lowlevel.checkpoint()
        if self.documents.get(name, (b"", 0))[1] != expected:
            raise StaleDocumentError("it was replaced in /srv/data/keys")
        self.documents[name] = (data, expected + 1)
        return expected + 1

    async def take_lease(
        self, client: object, claim: Claim, told: Callable[[HeldError], None] | None = None
    ) -> ListLease:  # fmt: skip
        await trio.lowlevel.checkpoint()
        if claim.name in self.held:
            held = HeldError(0, 9, exclusive=True)
            if told is None:
                raise held
            told(held)
            await self.held[claim.name].wait()
        self.tokens += 1
        return ListLease(self.tokens, claim.seconds)

    async def test_lease(self, claim: Claim) -> None:
        await trio.lowlevel.checkpoint()
        if claim.name in self.held:
            raise HeldError(0, 9, exclusive=True)

    async def renew_leases(self, client: object, seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    async def release_lease(self, client: object, name: str, owner: bytes, start: int, end: int) -> None:
        await trio.lowlevel.checkpoint()
        self.held.pop(name, trio.Event()).set()

    async def end_leases(self, client: object, owner: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.ended.append(owner)

    def leave(self, client: object) -> None:
        self.left += 1

    def stats(self) -> ListStats:
        return ListStats(self.tail, sum(map(len, self.frames)))


@dataclass
class Node:
    """Chains in memory, and one tenant: whoever has IDENTITY. open_now: connections that have a chain open."""

    chains: dict[str, ListChain] = field(default_factory=dict)
    access: Access = field(default_factory=lambda: Access(1 << 30, True, True))
    memory: ByteBudget = field(default_factory=lambda: ByteBudget(320 << 20))
    spent: list[int] = field(default_factory=list)
    spend_error: AteError | None = None
    guests: int = 0
    closed: int = 0
    open_now: int = 0

    def authenticate(self, identity: bytes) -> Node:
        if identity != IDENTITY.public:
            raise RefusedError("this identity is not let in here")
        self.guests += 1
        return self

    def authorize(self, path: str) -> Access:
        if not path.startswith("/you@example.com/"):
            raise RefusedError("there is no chain here that this identity may open")
        return self.access

    async def spend(self, cost: int) -> None:
        self.spent.append(cost)
        await trio.lowlevel.checkpoint()
        if self.spend_error is not None:
            raise self.spend_error

    async def inquire(self, data: bytes, conversation: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data + conversation

    def used(self) -> int:
        return 12345

    def close(self) -> None:
        self.closed += 1

    @asynccontextmanager
    async def open(self, path: str, *, create: ChainFiles | None = None) -> AsyncIterator[ListChain]:
        await trio.lowlevel.checkpoint()
        if path not in self.chains:
            if create is None:
                raise StoreNotFoundError(f"there is no chain in /srv/data{path}")
            self.chains[path] = ListChain(documents={"chain": (create.header, 1), "keys": (create.keys, 1)})
        self.open_now += 1
        try:
            yield self.chains[path]
        finally:
            self.open_now -= 1


@asynccontextmanager
async def serving(node: Node, link: Link, stopping: trio.Event | None = None) -> AsyncIterator[trio.CancelScope]:
    """A session of `node` at the link's other end, ended with the block."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def session() -> None:
            with scope:
                await serve_connection(link.server, KEY, node.authenticate, node, stopping=stopping, clock=lambda: 17)

        nursery.start_soon(session)
        yield scope
        scope.cancel()


@asynccontextmanager
async def connected(
    node: Node, link: Link | None = None, *, opened: bool = True, stopping: trio.Event | None = None
) -> AsyncIterator[ServerConnection]:
    """A connection to `node` over a link in memory. opened: with a chain, made if there is none."""
    link = link or Link()
    async with (
        serving(node, link, stopping),
        connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection,
    ):
        if opened:
            await connection.open(PATH, create=FILES)
        yield connection
