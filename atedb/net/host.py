"""What a connection needs of the node that it ends in: its chains, and who its clients are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from atedb.chain.files import ChainFiles
from atedb.chain.position import Position
from atedb.net.budget import ByteBudget
from atedb.net.errors import HeldError


class Access(NamedTuple):
    """What a client may do with a chain. quota: bytes that its tenant may store in all, or None."""

    quota: int | None
    may_create: bool
    may_write: bool


class Guest(Protocol):
    """A client whose identity is proven, as the node knows it."""

    @property
    def memory(self) -> ByteBudget:
        """What all connections of this tenant may have in memory together; a message of the largest size at least."""

    def authorize(self, path: str) -> Access:
        """Raises RefusedError, in the same words whether there is such a chain or not."""

    async def spend(self, cost: int) -> None:
        """Wait until the tenant may use `cost` bytes more of its rate. Raises RateError beyond a bound."""

    def used(self) -> int:
        """Bytes that the tenant's chains store."""

    async def inquire(self, data: bytes, conversation: bytes) -> bytes:
        """The reply to what is asked about accounts. conversation: the hash of the handshake. Raises AteError."""

    def close(self) -> None:
        """The connection has ended; called once."""


Authenticator = Callable[[bytes], Guest]
"""(Ed25519 public key, proven, or nothing for a visitor, who has none) -> who that is. Raises RefusedError, LimitError
(too many connections), StorageError."""


class Claim(NamedTuple):
    """What somebody would have: bytes `start` to `end`, both included. `TakeLease` explains the rest."""

    name: str
    owner: bytes
    start: int
    end: int
    exclusive: bool
    seconds: float
    token: int = 0


class Lease(Protocol):
    """What somebody has for so many seconds from now, unless it is renewed."""

    @property
    def token(self) -> int:
        """Higher than that of every lease before."""

    @property
    def seconds(self) -> float:
        """From now on."""


class LaneStats(Protocol):
    """Of one lane: live objects, and the bytes of live and of all events."""

    @property
    def objects(self) -> int: ...
    @property
    def live(self) -> int: ...
    @property
    def total(self) -> int: ...


class Stats(Protocol):
    """Of one chain, in numbers. stored: bytes of its segments."""

    @property
    def tail(self) -> Position: ...
    @property
    def stored(self) -> int: ...
    @property
    def meta(self) -> LaneStats: ...
    @property
    def blob(self) -> LaneStats: ...
    @property
    def devices(self) -> int: ...
    @property
    def followers(self) -> int: ...


class Chain(Protocol):
    """A chain that is open in the node; `atedb.node.host.ChainHost` says what each call does."""

    @property
    def tail(self) -> Position: ...

    @property
    def takes_proof(self) -> bool:
        """Whether a device that has proven its key is believed without its signatures."""

    async def append(
        self, client: object, frames: Sequence[bytes], *, quota: int | None = None, proven: bytes = b""
    ) -> Position:
        """Takes its place among the client's appends before it first waits."""

    def follow(
        self, first: int, *, limit: int, slim: bool, client: object
    ) -> AsyncGenerator[list[bytes] | Position, None]: ...
    async def bodies(self, wanted: Sequence[tuple[int, int]], *, limit: int) -> list[bytes]: ...
    async def document(self, name: str) -> tuple[bytes, int]: ...
    async def put_document(self, name: str, data: bytes, expected: int) -> int: ...
    async def take_lease(self, client: object, claim: Claim, told: Callable[[HeldError], None] | None) -> Lease:
        """told: called once if it has to be waited for; without, HeldError is raised then."""

    async def test_lease(self, claim: Claim) -> None: ...
    async def renew_leases(self, client: object, seconds: float) -> None: ...
    async def release_lease(self, client: object, name: str, owner: bytes, start: int, end: int) -> None: ...
    async def end_leases(self, client: object, owner: bytes) -> None: ...
    def leave(self, client: object) -> None: ...
    def stats(self) -> Stats: ...


class Chains(Protocol):
    """All chains of the node."""

    def open(self, path: str, *, create: ChainFiles | None = None) -> AbstractAsyncContextManager[Chain]:
        """The chain at a path, kept open inside of the block; made with `create` if there is none yet."""
