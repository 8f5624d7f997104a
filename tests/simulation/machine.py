"""A client of a simulated cluster: all that a mount consists of, but for the kernel, whose part its programs play."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio
from trio.testing import MockClock

from atedb.chain.blobcache import Wanted
from atedb.chain.chain import Chain
from atedb.chain.frame import decode_frame
from atedb.chain.replica import Replica
from atedb.chain.slim import sealed_body
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, NotResident, UnreachableError
from atedb.net.client import ServerConnection, connect_transport
from atedb.net.link import LinkState
from atedb.net.url import ServerUrl
from atedb.testing.disk import FaultyDisk
from atedb.testing.network import Network
from atefs.mount.committer import Committer
from atefs.mount.driver import sturdy
from atefs.mount.opening import terms_for
from atefs.mount.reaper import Reaper
from atefs.mount.upstream import CONNECT_SECONDS, Upstream
from atefs.mount.waiting import Waiting
from atefs.vault.vault import Vault
from tests.simulation.history import Machine, Step
from tests.simulation.kernel import Kernel
from tests.simulation.ledger import Ledger, Safety
from tests.simulation.process import Process
from tests.simulation.programs import (
    PROGRAMS,
    Call,
    all_texts,
    append,
    create,
    look,
    sync,
    texts,
    victims,
    write,
    write_held,
)
from tests.simulation.templates import KEY, NOW, PATH, ROOT_KEY, header_of

URL = ServerUrl.parse("ws://server/db" + PATH)
RETRY_SECONDS = 3.0
"""After which somebody mounts again what could not be mounted."""


class Client(Process):
    """One machine with its mount. frames: all that anybody has appended, for whoever judges."""

    def __init__(
        self, name: str, root: Path, network: Network, chance: random.Random, *, kind: Machine, ledger: Ledger,
        clock: MockClock, longest: float, frames: dict[bytes, bytes], note: Callable[[str, object], None],
    ) -> None:  # fmt: skip
        super().__init__(name, root, chance, longest=longest, note=note)
        self.mode = kind.mode
        self.steps: deque[tuple[float, Step]] = deque()
        self.busy = self.mounted = False
        self._network = network
        self._kind = kind
        self._ledger = ledger
        self._time = clock
        self._frames = frames
        self._stopwatch = 0.0
        self._whole = True
        self._more = trio.Event()
        self.chain: Chain | None = None

    def clock(self) -> int:
        """The machine's own, ns since 1970."""
        return NOW + int((self._time.current_time() + self._kind.skew) * 1e9)

    def stopwatch(self) -> float:
        """Time passes whenever somebody looks, on a machine with a slow disk."""
        self._stopwatch += 0.01 if self._kind.slow else 0.0
        return self._stopwatch

    def give(self, at: float, step: Step) -> None:
        """Something to do for a program, at a time."""
        self.steps.append((at, step))
        self._more.set()

    # -- a mount's life

    async def live(self, disk: FaultyDisk) -> None:
        """As `atefs.mount.driver.Driver`."""
        store = self.root / "store"
        chain = self.chain = Chain.open(
            store, ROOT_KEY, terms=terms_for(header_of(self.root), ROOT_KEY), heads=self.root / "heads", disk=disk,
            clock=self.clock, remote=True,
        )  # fmt: skip
        if chain.written:
            with self.omniscient():
                seen = all_texts(Vault(chain, self.clock))
            self._ledger.came_back(self.name, seen, whole=self._whole)
        upstream = self.upstream = Upstream(
            URL, self.mode, chain, ROOT_KEY, IDENTITY, dial=self._dial, device=self.name, clock=self.clock
        )
        async with trio.open_nursery() as outer:
            try:
                await upstream.begin(outer, lambda _done, _all: None)
            except UnreachableError:
                self.note(self.name, "could not be mounted")
                self._down = RETRY_SECONDS
            else:
                await self._mounted(chain, upstream, outer)
            outer.cancel_scope.cancel()
        chain.nowait = False
        chain.close()
        self.chain = None
        self.mounted = False

    async def _mounted(self, chain: Chain, upstream: Upstream, outer: trio.Nursery) -> None:
        vault = self.vault = Vault(chain, self.clock)
        chain.nowait = True
        loop = self._loop = Waiting(0)
        committer = self.committer = Committer(vault, chain, loop, _nothing, stopwatch=self.stopwatch)
        reaper = Reaper(vault, committer, loop)
        kernel = self.kernel = Kernel(vault)
        reaper.outdate = lambda inodes: kernel.outdate(inodes, (), ())
        for task in upstream.serve(vault, committer, loop, adapter=kernel):
            outer.start_soon(sturdy, task)
        async with trio.open_nursery() as inner:
            inner.start_soon(sturdy, committer.run)
            inner.start_soon(sturdy, reaper.run)
            inner.start_soon(self._programs)
            self.mounted = True
            await self.stopping.wait()
            inner.cancel_scope.cancel()
        await upstream.replication.hush()
        async with committer.alone():
            await committer.finish()
        try:
            await upstream.deliver()
        except AteError as error:
            self.note(self.name, f"not delivered: {type(error).__name__}")
        await upstream.finish()

    def died(self) -> None:
        """See Process."""
        self.mounted = False
        self._network.end(self.name)

    def bury(self) -> None:
        """See Process."""
        if self.chain is not None:
            with suppress(AteError):
                self.chain._release()
            self.chain = None

    def burn(self, down: float, fresh: Callable[[Path], None]) -> None:
        """The disk is lost, and so is what it alone had."""
        if self.up:
            self._whole = False
            if self.mounted and self.committer.clean and not self.upstream.replication.replica.pending_count:
                self._ledger.synced(self._ledger.of(self.name), Safety.ON_SERVER)
            self._ledger.burnt(self.name)
            self.lose_disk(down, fresh)

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[ServerConnection]:
        end = await self._network.dial(self.name)
        async with connect_transport(end, IDENTITY, KEY.fingerprint, timeout=CONNECT_SECONDS) as connection:
            yield connection

    # -- what programs do

    async def _programs(self) -> None:
        while True:
            while not self.steps:
                self._more = trio.Event()
                await self._more.wait()
            await trio.sleep_until(self.steps[0][0])
            _, step = self.steps.popleft()
            self.busy = True
            what = PROGRAMS[step.what]
            self._whole = self._whole or self.upstream.link.state is LinkState.ONLINE
            try:
                await (self._sync() if what is sync else self._perform(what, step))
                outcome = "done"
            except AteError as error:
                outcome = type(error).__name__
            finally:
                self.busy = False
            self.note(self.name, (what.__name__, step.first, step.second, outcome))

    async def _sync(self) -> None:
        """As a handler of fsync."""
        await self._loop.opened()
        written = self._ledger.of(self.name)
        try:
            if not self.committer.sync_now():
                await self.committer.sync()
        except UnreachableError:
            self._ledger.synced(written, Safety.HERE)
            raise
        self._ledger.synced(written, Safety.ON_SERVER if self.mode.waits else Safety.HERE)

    async def _perform(self, what: Callable[[Call], None], step: Step) -> None:
        """As the adapters do: what needs something that is not here is run again from its start when that has come."""
        call = Call(self.vault, self.kernel, self._ledger.text(), first=step.first, second=step.second)
        before: set[bytes] = set()
        ended: list[int] = []
        fetches = 0
        await self._loop.opened()
        try:
            while True:
                with self.omniscient():
                    if what is not look:
                        self.kernel.forget()
                    ended = victims(what, call)
                    for ino in ended:
                        before |= self._named(ino)
                try:
                    what(call)
                    break
                except NotResident as absent:
                    fetches += 1
                    assert fetches < 100, "it never has all that it needs"
                    await self._loop.in_thread(absent.fetch, abandon=True)
                await self._loop.opened()
        finally:
            if self.up:
                with self.omniscient():
                    for ino in ended:
                        before -= self._named(ino)
                self._ledger.deleted(self.name, before)
        self.committer.touch()
        if what in (create, write, append) or (what is write_held and ended and self.vault.getattr(ended[0]).nlink):
            self._ledger.written(self.name, call.text)

    def _named(self, ino: int) -> set[bytes]:
        try:
            return texts(self.vault, ino) if self.vault.getattr(ino).nlink else set()
        except AteError:
            return set()

    # -- for whoever judges

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to do, and nothing to send."""
        if not self.mounted or self.steps or self.busy or self.stopping.is_set():
            return False
        vault, replica = self.vault, self.upstream.replication.replica
        return (
            not vault.dirty_objects
            and not vault.dirty_bytes
            and not replica.pending_count
            and self.upstream.link.state is LinkState.ONLINE
        )

    def let_go(self) -> None:
        """Close all files, and forget all that was seen."""
        self.kernel.forget()
        references = self.vault._inodes.references
        for ino, count in list(references.items()):
            self.vault.forget(ino, count)

    @contextmanager
    def omniscient(self) -> Iterator[None]:
        """Inside, all content is at hand, without a network."""
        chain = self.chain
        assert chain is not None
        assert chain.absent is not None
        before = chain.nowait, chain.absent.fetch_bodies
        chain.nowait, chain.absent.fetch_bodies = False, self._from_archive
        try:
            yield
        finally:
            chain.nowait, chain.absent.fetch_bodies = before

    def _from_archive(self, wanted: Sequence[Wanted]) -> list[bytes]:
        assert self.chain is not None
        replica = Replica(self.chain)
        found = []
        for one in wanted:
            position = replica.position(one.sequence)
            assert position is not None
            frame = self._frames[position.hash]
            found.append(sealed_body(decode_frame(frame), frame, one.place))
        return found


IDENTITY = SigningKey(b"i" * 32)


async def _nothing() -> None:
    """There is no kernel that holds anything back."""
