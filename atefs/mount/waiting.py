"""Waiting for the kernel's next request: look again for a while before going to sleep.

On a quiet machine the waking of a sleeping process costs more than most requests. So whoever reads requests looks
again and again for as long as recent gaps suggest (at most SPIN_MAX), which adapts: where requests do not come, it
stops. Then it sleeps in poll(2) for at most BLOCK_MS, unless something else is under way; when nothing comes then, the
mount is idle, and its task sleeps in trio and costs nothing.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

import trio

from atedb import threads
from atedb.errors import Absent, NotResident

T = TypeVar("T")
Poll = Callable[[float], list[tuple[int, int]]]

SPIN_MAX = 100e-6
SPIN_MIN = 4e-6
BLOCK_MS = 1
YIELD = 1e-3
"""Seconds after which a reader of requests goes through trio's scheduler at the latest."""
FETCHERS = 32
"""Threads that wait for the server, and as many that wait for the disk. Those of commits are not among them."""


class Waiting:
    """What a request loop of any adapter is to the rest of the driver.

    spin: the longest time in seconds to look without sleeping; 0 switches that off, as it is where there is one
    processor only.
    """

    def __init__(self, spin: float = SPIN_MAX) -> None:
        self._poll: Poll | None = None
        self._spin_max = spin if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._spin = self._spin_max
        self._elsewhere = 0
        self._from_server, self._from_disk = trio.CapacityLimiter(FETCHERS), trio.CapacityLimiter(FETCHERS)
        self._gate: trio.Event | None = None
        self._chores: deque[Callable[[], None]] = deque()
        self.idle: Callable[[], bool] = lambda: False
        """Does a little of what may be of use later, in moments without requests; False: there is nothing to do."""
        self.sleeps = 0
        self.requests = 0

    def pending(self) -> bool:
        """Whether the kernel has another request ready now."""
        return self._poll is not None and bool(self._poll(0))

    def pass_on(self) -> None:
        """To be called by a request's task before it waits for anything."""

    def later(self, chore: Callable[[], None]) -> None:
        """Have something small done when no request is there: it then costs nobody any time."""
        self._chores.append(chore)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, no request is answered and nobody asks the vault anything: it is a thread's. Not to be nested."""
        gate = self._gate = trio.Event()
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    async def opened(self) -> None:
        """To be awaited after any other wait, by whoever asks the vault something: return when that is allowed."""
        while self._gate is not None:
            await self._gate.wait()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """While a thread works for us: its end arrives through trio, so do not sleep in poll(2)."""
        self._elsewhere += 1
        try:
            yield
        finally:
            self._elsewhere -= 1

    async def in_thread(
        self, function: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None, abandon: bool = False
    ) -> T:  # fmt: skip
        """Run a blocking call in a thread, while other requests are answered. limiter, abandon: see `threads.run`."""
        self.pass_on()
        with self.elsewhere():
            return await threads.run(function, limiter=limiter, abandon=abandon)

    async def fetch(self, missing: NotResident, *, abandon: bool = False) -> None:
        """Have a thread fetch what a request needs. Raises what fetching raises.

        There can be many, and what they ask may be silent for long: they have only each other to wait for.
        """
        limiter = self._from_server if isinstance(missing, Absent) else self._from_disk
        await self.in_thread(missing.fetch, limiter=limiter, abandon=abandon)

    def _watch(self, fd: int) -> Poll:
        """To be called once: make the descriptor non-blocking, since a request may be withdrawn before it is read."""
        os.set_blocking(fd, False)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._poll = poller.poll
        return poller.poll

    def _nap(self, poll: Poll, since: float) -> bool:
        """Do chores, spin, then sleep for a moment. True: a request came. since: when waiting for it began."""
        while self._chores:
            self._chores.popleft()()
            if poll(0):
                return True
        if self._elsewhere:
            return False
        while self.idle():
            if poll(0):
                return True
            since = perf_counter()
        if self._spin and self._spun(poll, since):
            return True
        if not poll(BLOCK_MS):
            return False
        if perf_counter() - since < self._spin_max:
            self._spin = self._spin_max
        return True

    def _spun(self, poll: Poll, start: float) -> bool:
        deadline = start + self._spin
        while perf_counter() < deadline:
            if poll(0):
                self._spin = min(self._spin * 1.5, self._spin_max)
                return True
        self._spin = self._spin * 0.7 if self._spin > SPIN_MIN else 0.0
        return False
