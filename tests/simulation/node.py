"""The server of a simulated cluster: the node's own parts, over a disk that loses power and a network in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from atedb import threads
from atedb.chain.files import ChainFiles
from atedb.chain.frame import decode_frame
from atedb.chain.position import Position
from atedb.engine.filelog import FileLog
from atedb.engine.files import FileEngine
from atedb.net.session import serve_connection
from atedb.node.config import Config
from atedb.node.data_folder import CHAINS, INDEX
from atedb.node.guests import Guests
from atedb.node.host import ChainHost
from atedb.node.hosts import Hosts
from atedb.node.reception import Reception
from atedb.node.tenants import Tenants
from atedb.testing.disk import FaultyDisk
from atedb.testing.links import LinkEnd
from atedb.testing.network import Network
from tests.simulation.process import Process
from tests.simulation.templates import KEY, PATH

NAME = "server"


class Archive:
    """A chain as the node has it, and beside it every frame that was ever appended, by its hash."""

    def __init__(self, host: ChainHost, frames: dict[bytes, bytes]) -> None:
        self._host = host
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    async def append(self, client: object, frames: Sequence[bytes], **how: Any) -> Position:
        for frame in frames:
            self._frames[decode_frame(frame).hash] = frame
        return await self._host.append(client, frames, **how)


class Archived:
    """The node's chains, each with its archive."""

    def __init__(self, hosts: Hosts, frames: dict[bytes, bytes]) -> None:
        self._hosts = hosts
        self._frames = frames

    @asynccontextmanager
    async def open(self, path: str, *, create: ChainFiles | None = None) -> AsyncIterator[Any]:
        async with self._hosts.open(path, create=create) as host:
            yield Archive(host, self._frames)


class Server(Process):
    """frames: all that clients have ever appended."""

    def __init__(
        self, root: Path, network: Network, chance: random.Random, *, clock: Callable[[], int], longest: float,
        note: Callable[[str, object], None],
    ) -> None:  # fmt: skip
        super().__init__(NAME, root, chance, longest=longest, note=note)
        self.frames: dict[bytes, bytes] = {}
        self._network = network
        self._clock = clock
        self._hosts: Hosts | None = None

    @property
    def tail(self) -> Position | None:
        """The newest batch, while the chain is open."""
        entry = self._hosts._entries.get(PATH) if self._hosts is not None else None
        return entry.host.tail if entry is not None and entry.host is not None else None

    @property
    def store(self) -> Path:
        return self.root / CHAINS / (PATH[1:] + ".chain")

    async def live(self, disk: FaultyDisk) -> None:
        """See Process."""
        hosts = self._hosts = Hosts(FileEngine(disk, self.root / CHAINS), self.root / INDEX, disk=disk)
        guests = Guests(Tenants(self.root), Config(self.root), hosts, Reception(self.root, bytes(32), hosts.used))
        chains = Archived(hosts, self.frames)
        stopping = self.stopping
        async with trio.open_nursery() as services, trio.open_nursery() as clients:

            async def attend(end: LinkEnd) -> None:
                threads.hand_in(self.lockstep)  # it was started by whoever connects
                await serve_connection(
                    end, KEY, lambda identity: guests.admit(identity, lambda: None), chains,
                    stopping=stopping, clock=self._clock,
                )  # fmt: skip

            services.start_soon(hosts.run)
            self._network.listener = lambda end: clients.start_soon(attend, end)
            await stopping.wait()
            self._network.listener = None
            services.cancel_scope.cancel()
        await hosts.aclose()

    def died(self) -> None:
        """See Process."""
        self._network.end_server()

    def bury(self) -> None:
        """See Process."""
        if self._hosts is None:
            return
        for entry in self._hosts._entries.values():
            if entry.host is not None:
                entry.host._index.close()
                cast(FileLog, entry.host._log)._undo.close()
        self._hosts = None
