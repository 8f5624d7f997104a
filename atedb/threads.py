"""Blocking calls beside the event loop: in threads, unless whoever started the loop has handed in something else.

What waits for a disk or a processor goes through here, so that a simulation decides when that happens, and in which
order (`atedb.testing.lockstep`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import trio

T = TypeVar("T")


class Threads(Protocol):
    """Where blocking calls run: what `run` and `ask` of this module do."""

    async def run(
        self, call: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None, abandon: bool
    ) -> T:  # fmt: skip
        """See `run`."""

    def ask(self, question: Callable[..., Awaitable[T]], *args: Any, token: trio.lowlevel.TrioToken) -> T:
        """See `ask`."""


class TrioThreads:
    """Real ones, trio's."""

    async def run(self, call: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None, abandon: bool) -> T:
        return await trio.to_thread.run_sync(call, *args, limiter=limiter, abandon_on_cancel=abandon)

    def ask(self, question: Callable[..., Awaitable[T]], *args: Any, token: trio.lowlevel.TrioToken) -> T:
        return trio.from_thread.run(question, *args, trio_token=token)


_REAL = TrioThreads()
_threads: ContextVar[Threads] = ContextVar("threads")


def hand_in(threads: Threads) -> None:
    """From here on, this task and those that it starts use `threads`."""
    _threads.set(threads)


async def run(
    call: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None = None, abandon: bool = False
) -> T:  # fmt: skip
    """Make a blocking call in a thread, and return or raise what it does.

    limiter: bounds how many there are at a time. abandon: leave the call behind when cancelled, instead of waiting for
    its end. As `trio.to_thread.run_sync`.
    """
    return await _threads.get(_REAL).run(call, *args, limiter=limiter, abandon=abandon)


def ask(question: Callable[..., Awaitable[T]], *args: Any, token: trio.lowlevel.TrioToken) -> T:
    """In a thread: have the event loop of `token` run `question`, and wait for what it returns or raises.

    As `trio.from_thread.run`, which raises trio.RunFinishedError where the loop has ended, and trio.Cancelled.
    """
    return _threads.get(_REAL).ask(question, *args, token=token)
