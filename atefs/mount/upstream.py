"""The server's side of a mount: its link, the replica behind it, and what the recovery mode makes of both."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from atedb import threads
from atedb.chain.chain import Chain
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, UnreachableError
from atedb.net.client import ServerConnection, connect
from atedb.net.errors import ConnectionLostError
from atedb.net.fetching import Fetching
from atedb.net.link import Dial, Link, LinkState
from atedb.net.url import ServerUrl
from atefs.mount import servers
from atefs.mount.adapter import KernelAdapter
from atefs.mount.committer import Committer
from atefs.mount.locks import SharedLocks
from atefs.mount.options import RecoveryMode
from atefs.mount.replication import Replication
from atefs.mount.shared_slots import SharedSlots
from atefs.mount.waiting import Waiting
from atefs.vault.vault import Vault

log = logging.getLogger(__name__)

SYNC_SECONDS = 30.0
"""How long an fsync waits for the server's acknowledgement, in the modes that do."""
FIRST_SECONDS = 20.0
"""How long a mount that has nothing yet waits for a server that says nothing."""
PATIENCE = 60.0
"""How long an unmount waits for a server that takes nothing."""
NOTE_SECONDS = 5.0
"""How often it is written down which batches the server has acknowledged."""
CONNECT_SECONDS = 10.0


class Upstream:
    """Made with an open chain; `link.run` and what `serve` returns are tasks of the driver's.

    identity: by which the server knows us. dial: makes a connection; over the network to `url` if None. device: what
    conflicts that are made here are called after; the machine's name if None. clock: ns since 1970.
    """

    def __init__(
        self, url: ServerUrl, mode: RecoveryMode, chain: Chain, root: bytes, identity: SigningKey,
        *, dial: Dial | None = None, device: str | None = None, clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self.url = url
        self._identity = identity
        self._slots = SharedSlots(chain.store, root)
        self.replication = Replication(chain, device or _device_name(), clock)
        self.link = Link(dial or self._dial, url.path, self.replication, changed=self._changed, met=self._met)
        self.link.writable = servers.may_write(chain.store)
        self._fetching = Fetching(self.link.bodies)
        self._mode = mode
        self._chain = chain
        self._mounted: tuple[Vault, Committer] | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._shares_locks = False
        self.locks = SharedLocks(
            chain, self.link, self._settle, self._follow, alone=mode is RecoveryMode.ASYNC, device=chain.device
        )

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[ServerConnection]:
        known = self.url.pin or servers.known_servers().get(self.url.server)
        async with connect(
            self.url, self._identity, known, timeout=CONNECT_SECONDS, authorities=servers.authorities()
        ) as connection:
            servers.pin(self.url.server, connection.fingerprint)
            yield connection

    async def _met(self, connection: ServerConnection) -> None:
        servers.note_rights(self._chain.store, writable=self.link.writable)
        if connection.takes_proof and self._chain.device:
            await connection.prove(self._chain.device, self._chain.sign)
        await self._slots.agree(connection)
        await self.locks.regain(connection)

    # -- the life of a mount

    async def begin(self, nursery: trio.Nursery, progress: Callable[[int, int], None]) -> None:
        """Start the link. A replica that is still empty is filled first: without a server, nothing could be mounted.

        progress: called with batches here and in all. Raises UnreachableError, and what made the link stop.
        """
        self._token = trio.lowlevel.current_trio_token()
        assert self._chain.absent is not None
        self._chain.absent.fetch_bodies = self._bodies
        nursery.start_soon(self.link.run)
        if self._chain.written:
            if self._mode.needs_server or not self.replication.acked.sequence:
                await self.link.tried()  # so that it can be used, or is on the server, when it is said to be mounted
                await self.replication.at_rest()
            return
        async with trio.open_nursery() as watching:
            watching.start_soon(self._show, progress)
            there = await self.link.in_step(FIRST_SECONDS)
            watching.cancel_scope.cancel()
        if not there:
            reason = self.link.error
            if reason is not None and self.link.state is LinkState.STOPPED:
                raise reason
            lacking = "has nothing of it" if self.link.state is LinkState.ONLINE else "cannot be reached"
            raise UnreachableError(
                f"nothing of the vault is on this machine yet, and {self.url.server} {lacking}"
                f"{f' ({reason})' if reason else ''}; nothing was mounted; try again later"
            )

    async def _show(self, progress: Callable[[int, int], None]) -> None:
        while True:
            progress(self.replication.acked.sequence, max(1, self.link.tail.sequence))
            await trio.sleep(0.2)

    def serve(
        self, vault: Vault, committer: Committer, loop: Waiting, *, adapter: KernelAdapter
    ) -> list[Callable[[], Awaitable[None]]]:
        """The vault is about to answer requests: keep it in step from now on. What is to run for ever beside it."""
        self._mounted = vault, committer
        committer.committed = self.link.wake
        if self._mode.waits:
            committer.upstream = self._acknowledged
        self.replication.serve(vault, committer, loop)
        self._changed()
        tasks: list[Callable[[], Awaitable[None]]] = [
            lambda: self.replication.tell_kernel(adapter, loop),
            lambda: self.replication.remind_kernel(adapter, loop),
            lambda: self._note(committer, loop),
        ]
        self._shares_locks = adapter.share_locks(self.locks)
        if self._shares_locks:
            tasks.append(self.locks.run)
        return tasks

    def _changed(self) -> None:
        """The link's state has changed."""
        if self._mounted is None:
            return
        vault, committer = self._mounted
        state = self.link.state
        committer.eager = state is LinkState.ONLINE
        if state is LinkState.STOPPED:
            assert self._chain.remote is not None
            self._chain.remote.save(self._chain.durable)
            vault.forbid(f"its server is not believed any more: {self.link.error}")
        elif not self.link.writable:
            vault.forbid(f"{self.url.server} lets us read it, and not change it")
        elif self._mode.needs_server and state is not LinkState.ONLINE:
            vault.forbid(f"there is no connection to {self.url.server}")
        else:
            vault.forbid("")

    async def _note(self, committer: Committer, loop: Waiting) -> None:
        """Write down now and then, for ever, what the server has: one that loses it later is found out.

        And tell it when the keys that open the vault were changed here.
        """
        noted = self.replication.acked
        while True:
            await trio.sleep(NOTE_SECONDS)
            if self.link.connection is not None and self._slots.changed:
                with contextlib.suppress(ConnectionLostError):
                    await self._slots.agree(self.link.connection)
            acked = self.replication.acked
            if acked == noted or self._chain.failed is not None:
                continue
            try:
                async with committer.alone():
                    await loop.in_thread(self._write_down)
                noted = acked
                committer.look()
            except AteError as error:
                log.warning("what the server has could not be written down, and is later: %s", error)

    def _write_down(self) -> None:
        """What the server has, once it is durable here. It is what tells a server that has lost it after a restart."""
        assert self._chain.remote is not None
        self._chain.barrier()
        self._chain.remote.save(self._chain.durable)

    async def finish(self) -> None:
        """The vault is unmounted: what the server has is written down. Raises AteError."""
        if self._chain.failed is None:
            await threads.run(self._write_down)

    async def _acknowledged(self, sequence: int) -> None:
        self.link.wake()
        await self.link.acknowledged(sequence, SYNC_SECONDS)

    async def _settle(self) -> None:
        """Return when all that was done here is on the server, as long as it takes something. Raises AteError."""
        assert self._mounted is not None
        committer = self._mounted[1]
        if not committer.clean:
            await committer.share()
        if self._chain.written > self.replication.acked.sequence:
            self.link.wake()
            await self.link.acknowledged(self.replication.ready, SYNC_SECONDS, moving=True)

    async def _follow(self, sequence: int) -> None:
        """Return when all that the server had up to `sequence` is here, and the kernel knows. Raises AteError."""
        await self.link.reached(sequence)
        await self.replication.told()

    async def deliver(self, tell: Callable[[int, int], Awaitable[None]] | None = None) -> None:
        """Return when all that is on stable storage here is on the server, too.

        Gives up when the server takes nothing for PATIENCE seconds. tell: called now and then with the batches and the
        bytes that are left. Raises UnreachableError.
        """
        replica = self.replication.replica
        left = replica.pending_count
        while left:
            if tell is not None:
                await self.link.at_rest()
                await tell(left, replica.pending_bytes)
            try:
                self.link.wake()
                await self.link.acknowledged(self.replication.ready, PATIENCE)
            except AteError:
                if replica.pending_count >= left:
                    raise
            left = replica.pending_count

    # -- what others ask

    def _bodies(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Sealed bodies from the server. For worker threads; blocks for a bounded time. Raises UnreachableError."""
        assert self._token is not None
        try:
            return threads.ask(self._fetching.bodies, wanted, token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise UnreachableError("the mount is ending") from None

    def status(self) -> dict[str, object]:
        """For `atefs status`."""
        replica = self.replication.replica
        return {
            "url": str(self.url),
            "recovery_mode": str(self._mode),
            "state": self.link.state.value,
            "error": str(self.link.error) if self.link.error else None,
            "acknowledged": replica.acked.sequence,
            "pending_batches": replica.pending_count,
            "pending_bytes": replica.pending_bytes,
            "locks": self.locks.status() if self._shares_locks else None,
        }


def _device_name() -> str:
    """What people call this machine, for the names of conflicts."""
    return socket.gethostname().partition(".")[0] or "device"
