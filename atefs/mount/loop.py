"""How pyfuse3 waits for the kernel's next request, without paying trio for each.

pyfuse3 looks up everything it needs of trio under one module attribute, `pyfuse3.trio` (its own asyncio support
replaces it). A `RequestLoop` takes that place. In trio, waiting for a descriptor costs a trip through the scheduler and
epoll, and two tasks that hand each other a lock: some 40 us for a request whose work takes 10. Here one task keeps
reading as long as requests are there, and looks three times before it sleeps in trio:

1. polls: the next request is often queued already;
2. polls again and again for as long as recent gaps suggest (`_spin`, at most SPIN_MAX), which saves the waking of a
   sleeping process, the dearest part on a quiet machine. It adapts: where requests do not come, it stops;
3. sleeps in poll(2) for at most BLOCK_MS, unless something else is under way. When nothing comes then, the mount is
   idle: the task sleeps in trio and costs nothing.

Other tasks are never starved: at least every YIELD seconds the reader goes through trio's scheduler.

A handler that has to wait for something must call `pass_on` first, so that another task reads meanwhile.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import TypeVar

import trio

T = TypeVar("T")

SPIN_MAX = 100e-6
SPIN_MIN = 4e-6
BLOCK_MS = 1
YIELD = 1e-3


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


class RequestLoop:
    """What pyfuse3 finds under the name `trio`, and where handlers say that they wait.

    spin: the longest time in seconds to poll without sleeping; 0 switches that off, as it is where there is one
    processor only.
    """

    ClosedResourceError = trio.ClosedResourceError
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)

    def __init__(self, spin: float = SPIN_MAX) -> None:
        self.lowlevel = self
        self._baton = Baton()
        self._poll: Callable[[float], list[tuple[int, int]]] | None = None
        self._spin_max = spin if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._spin = self._spin_max
        self._yield_at = 0.0
        self._elsewhere = 0
        self._closed = False
        self.sleeps = 0
        self.requests = 0

    def Lock(self) -> Baton:
        return self._baton

    def open_nursery(self) -> _Workers:
        return _Workers(self)

    def notify_closing(self, fd: int) -> None:
        """The session is to end: whoever waits for a request, asleep or not, is told so."""
        self._closed = True
        trio.lowlevel.notify_closing(fd)

    def pass_on(self) -> None:
        """To be called by a handler before it waits for anything."""
        self._baton.pass_on()

    def pending(self) -> bool:
        """Whether the kernel has another request ready now."""
        return self._poll is not None and bool(self._poll(0))

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """While a thread works for us: its end arrives through trio, so do not sleep in poll(2)."""
        self._elsewhere += 1
        try:
            yield
        finally:
            self._elsewhere -= 1

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a blocking call in a thread, while other requests are answered."""
        self._baton.pass_on()
        with self.elsewhere():
            return await trio.to_thread.run_sync(function)

    async def wait_readable(self, fd: int) -> None:
        """Return when the descriptor has a request, or has been closed."""
        poll = self._poll or self._watch(fd)
        self.requests += 1
        now = perf_counter()
        if poll(0):
            if now < self._yield_at and self._baton.parked:
                return
            await self._yield()
            return
        if self._elsewhere or not self._baton.parked:
            await self._yield()
        if not self._elsewhere:
            if self._spin and self._spun(poll, now):
                return
            if poll(BLOCK_MS):
                if perf_counter() - now < self._spin_max:
                    self._spin = self._spin_max
                return
        if self._closed:
            raise trio.ClosedResourceError
        self.sleeps += 1
        await trio.lowlevel.wait_readable(fd)
        self._yield_at = perf_counter() + YIELD

    def _spun(self, poll: Callable[[float], list[tuple[int, int]]], start: float) -> bool:
        """Poll for as long as it has been paying. True: a request came."""
        deadline = start + self._spin
        while perf_counter() < deadline:
            if poll(0):
                self._spin = min(self._spin * 1.5, self._spin_max)
                return True
        self._spin = self._spin * 0.7 if self._spin > SPIN_MIN else 0.0
        return False

    async def _yield(self) -> None:
        await trio.lowlevel.checkpoint()
        self._yield_at = perf_counter() + YIELD

    def _watch(self, fd: int) -> Callable[[float], list[tuple[int, int]]]:
        """The first wait: make the descriptor non-blocking, since a request may be withdrawn before it is read."""
        os.set_blocking(fd, False)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        return poller.poll
