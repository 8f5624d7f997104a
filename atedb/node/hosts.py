"""The chains that are open in a node: opened on demand, shared by all of their clients, closed when nobody is there."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from atedb.chain.disk import Disk, RealDisk
from atedb.chain.files import ChainFiles
from atedb.engine.interface import Engine
from atedb.errors import AteError, BusyError, ClosedError, LimitError, StoreExistsError
from atedb.node.host import ChainHost, Counters, Shared
from atedb.node.index import index_folder
from atedb.node.usage import Usage

log = logging.getLogger(__name__)

_ROUND = 1.0
"""Seconds between two looks at what is to be folded or closed."""


class NodeStats(NamedTuple):
    """Of all chains of a node since it started. stored: bytes of all chains, open or not."""

    open: int
    appends: int
    batches: int
    bytes: int
    stored: int


class _Entry:
    """A chain that somebody uses, or used a short while ago. users: those who wait for it to open are among them."""

    def __init__(self) -> None:
        self.host: ChainHost | None = None
        self.users = 0
        self.since = 0.0
        self.turn = trio.Lock()


class Hosts:
    """The chains of `engine`.

    folder: where the indexes of chains are kept; they can be made again. most_open: chains that are open at once.
    idle: seconds without a client after which one is closed.
    """

    def __init__(
        self, engine: Engine, folder: Path, *, disk: Disk | None = None, most_open: int = 1000, idle: float = 60.0,
        centralized: bool = False,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._folder = folder
        self._most_open = most_open
        self._idle = idle
        self._entries: dict[str, _Entry] = {}
        self._open = 0
        self._closed = False
        self._shared = Shared(disk or RealDisk(), Usage(), Counters(), centralized)
        self._counted = False
        self._counting = trio.Lock()

    @asynccontextmanager
    async def open(self, path: str, *, create: ChainFiles | None = None) -> AsyncIterator[ChainHost]:
        """`async with hosts.open("/you@example.com/vault") as host`: the chain at a path, kept open inside.

        create: make the chain if there is none yet. Raises StoreNotFoundError, StoreExistsError for another chain at
        this path, BusyError when too many chains are in use, DamagedError, LimitError for a path that is not one.
        """
        if not path.startswith("/"):
            raise LimitError(f"{path!r} is not the path of a chain: it begins with a slash")
        await self._count()
        entry = self._entries.setdefault(path, _Entry())
        entry.users += 1
        try:
            async with entry.turn:
                await self._prepare(path, entry, create)
            assert entry.host is not None
            yield entry.host
        finally:
            entry.users -= 1
            entry.since = trio.current_time()
            if not entry.users and (entry.host is None or entry.host.failed is not None):
                await self._discard(path, entry)

    async def _prepare(self, path: str, entry: _Entry, create: ChainFiles | None) -> None:
        """Have the chain of an entry open. The caller has the entry's turn."""
        if self._closed:
            raise ClosedError("the node is shutting down")
        if entry.host is not None and entry.host.failed is not None:
            failed, entry.host = entry.host, None  # nobody can write to it any more, and whoever reads it can come back
            self._open -= 1
            await self._close(failed)
        if entry.host is not None:
            if create is not None and (await entry.host.document("chain"))[0] != create.header:
                raise StoreExistsError(f"there is another chain at {path}; nothing was changed")
            return
        while self._open >= self._most_open:
            await self._make_room()
        self._open += 1
        try:
            entry.host = await self._open_host(path, create)
        finally:
            if entry.host is None:
                self._open -= 1

    async def _open_host(self, path: str, create: ChainFiles | None) -> ChainHost:
        batches = await self._engine.open(path[1:], create=create)
        try:
            return await ChainHost.open(path, batches, index_folder(self._folder, path), self._shared)
        except BaseException:
            await batches.aclose()
            raise

    async def _make_room(self) -> None:
        """Close the chain that has not been used for the longest time. Raises BusyError when all are in use."""
        unused = [(e.since, path) for path, e in self._entries.items() if not e.users and e.host is not None]
        if not unused:
            raise BusyError(f"{self._most_open} chains are in use; nothing was changed; try again later")
        path = min(unused)[1]
        await self._discard(path, self._entries[path])

    async def _discard(self, path: str, entry: _Entry) -> None:
        """Close the chain of an entry unless somebody has come to use it meanwhile."""
        with trio.CancelScope(shield=True):
            async with entry.turn:
                if entry.users:
                    return
                host, entry.host = entry.host, None
                if host is not None:
                    self._open -= 1
                    await self._close(host)
            if not entry.users and self._entries.get(path) is entry:
                del self._entries[path]

    async def _close(self, host: ChainHost) -> None:
        try:
            await host.aclose()
        except AteError as error:
            log.error("%s: closing it failed: %s", host.path, error)

    async def _count(self) -> None:
        """Find out once what the chains store that are not open."""
        async with self._counting:
            if self._counted:
                return
            for name in await self._engine.names():
                self._shared.usage.set(f"/{name}", await self._engine.stored(name))
            self._counted = True

    async def run(self) -> None:
        """Fold indexes, and close chains that nobody uses, until cancelled."""
        await self._count()
        while True:
            await trio.sleep(_ROUND)
            for path, entry in list(self._entries.items()):
                if entry.host is not None and not entry.users and trio.current_time() - entry.since >= self._idle:
                    await self._discard(path, entry)
                elif entry.host is not None:
                    try:
                        await entry.host.fold_if_due()
                        await entry.host.tidy_leases()
                    except AteError as error:
                        log.warning("%s: its upkeep failed: %s", path, error)

    def used(self, tenant: str) -> int:
        """Bytes that the chains below "/tenant/" store."""
        return self._shared.usage.used(tenant)

    def stats(self) -> NodeStats:
        """What there is."""
        counters = self._shared.counters
        return NodeStats(self._open, counters.appends, counters.batches, counters.bytes, self._shared.usage.total)

    async def aclose(self) -> None:
        """Close all chains. Whoever uses one gets ClosedError."""
        self._closed = True
        with trio.CancelScope(shield=True):
            for entry in list(self._entries.values()):
                async with entry.turn:
                    if entry.host is not None:
                        await self._close(entry.host)
