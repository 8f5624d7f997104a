"""How pyfuse3 waits for the kernel's next request, without paying trio for each.

pyfuse3 looks up everything it needs of trio under one module attribute, `pyfuse3.trio` (its own asyncio support
replaces it). A `RequestLoop` takes that place. In trio, waiting for a descriptor costs a trip through the scheduler and
epoll, and two tasks that hand each other a lock: some 40 us for a request whose work takes 10. Here one task keeps
reading as long as requests are there, and waits as `Waiting` does before it sleeps in trio.

Other tasks are never starved: at least every YIELD seconds the reader goes through trio's scheduler.

A handler that has to wait for something must call `pass_on` first, so that another task reads meanwhile.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from types import TracebackType

import trio

from atefs.mount.waiting import SPIN_MAX, YIELD, Poll, Waiting


class Baton:
    """The right to read requests, in the place of the lock that pyfuse3 takes for each.

    Unlike a lock it is not handed over when released: its last holder will be back in microseconds. Tasks parked here
    take it only when told that the holder waits for something else (`pass_on`).
    """

    def __init__(self) -> None:
        self._held = False
        self._parked: deque[trio.Event] = deque()

    async def __aenter__(self) -> None:
        while self._held:
            event = trio.Event()
            self._parked.append(event)
            try:
                await event.wait()
            finally:
                if event in self._parked:
                    self._parked.remove(event)
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False

    @property
    def parked(self) -> bool:
        """Whether another task is ready to read in our place."""
        return bool(self._parked)

    def pass_on(self) -> None:
        """Wake one parked task. It reads as soon as the caller suspends."""
        if self._parked:
            self._parked.popleft().set()


class _Workers:
    """The nursery of pyfuse3's reading tasks."""

    def __init__(self, loop: RequestLoop) -> None:
        self._loop = loop
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery

    async def __aenter__(self) -> _Workers:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, error, trace)

    def start_soon(self, function: Callable[..., Awaitable[None]], *args: object, name: str | None = None) -> None:
        self._nursery.start_soon(self._work, function, args, name=name)

    async def _work(self, function: Callable[..., Awaitable[None]], args: tuple[object, ...]) -> None:
        """One task. A request that its sender gave up between poll and read leaves nothing to read: read on."""
        try:
            while True:
                try:
                    return await function(self, *args[1:])
                except OSError as error:
                    if error.errno != errno.EAGAIN:
                        raise
        finally:
            # Whoever is parked must notice when the session has ended.
            self._loop.pass_on()


class RequestLoop(Waiting):
    """What pyfuse3 finds under the name `trio`, and where handlers say that they wait. spin: as for `Waiting`."""

    ClosedResourceError = trio.ClosedResourceError
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)

    def __init__(self, spin: float = SPIN_MAX) -> None:
        super().__init__(spin)
        self.lowlevel = self
        self._baton = Baton()
        self._yield_at = 0.0
        self._closed = False
        self.opening: Callable[[int], bool] = lambda _: True
        """Hears of each wait, with the descriptor, until it returns True."""

    def Lock(self) -> Baton:
        return self._baton

    def open_nursery(self) -> _Workers:
        return _Workers(self)

    def notify_closing(self, fd: int) -> None:
        """The session is to end: whoever waits for a request, asleep or not, is told so."""
        self._closed = True
        trio.lowlevel.notify_closing(fd)

    def pass_on(self) -> None:
        self._baton.pass_on()

    async def wait_readable(self, fd: int) -> None:
        """Return when the descriptor has a request, or has been closed."""
        poll = self._poll or self._watch(fd)
        if self._gate is not None:
            await self.opened()
        self.requests += 1
        now = perf_counter()
        if poll(0):
            if now < self._yield_at and self._baton.parked:
                return
            await self._yield()
            return
        if self._elsewhere or not self._baton.parked:
            await self._yield()
        if self._nap(poll, now):
            return
        if self._closed:
            raise trio.ClosedResourceError
        self.sleeps += 1
        await trio.lowlevel.wait_readable(fd)
        if self._gate is not None:
            await self.opened()
        self._yield_at = perf_counter() + YIELD

    def _watch(self, fd: int) -> Poll:
        poll = super()._watch(fd)
        if not self.opening(fd):
            self._poll = None
        return poll

    async def _yield(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._gate is not None:
            await self.opened()
        self._yield_at = perf_counter() + YIELD
