"""Threads that never run at the same time as the event loop, nor as each other: what they do is the same every time.

A call that is to run in a thread runs in one, so that whatever may not be done there fails as it does for real; but the
event loop stands still meanwhile. Only while the call itself waits for the event loop does that go on. When a call
happens, and how long it seems to take, is left to chance.
"""

from __future__ import annotations

import contextvars
import random
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import outcome
import trio

T = TypeVar("T")
Question = Callable[[], Awaitable[Any]]


class _Worker:
    """A thread, and whose turn it is: its own or the event loop's."""

    def __init__(self) -> None:
        self._go, self._stop = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stop.acquire()
        self._work: Callable[[], Any] = lambda: None
        self._said: outcome.Outcome[Any] | Question
        self._heard: outcome.Outcome[Any]
        threading.Thread(target=self._run, name="lockstep", daemon=True).start()

    def begin(self, work: Callable[[], Any]) -> outcome.Outcome[Any] | Question:
        """Do `work` until it is done or has a question."""
        self._work = work
        return self._turn()

    def answer(self, heard: outcome.Outcome[Any]) -> outcome.Outcome[Any] | Question:
        """Go on with the answer to its question."""
        self._heard = heard
        return self._turn()

    def ask(self, question: Question) -> Any:
        """In the thread itself."""
        self._said = question
        self._stop.release()
        self._go.acquire()
        return self._heard.unwrap()

    def _turn(self) -> outcome.Outcome[Any] | Question:
        self._go.release()
        self._stop.acquire()
        return self._said

    def _run(self) -> None:
        _here.worker = self
        while True:
            self._go.acquire()
            self._said = outcome.capture(self._work)
            self._work = lambda: None
            self._stop.release()


_here = threading.local()
_idle: list[_Worker] = []


class Lockstep:
    """To be handed in (`atedb.threads.hand_in`). longest: seconds that may pass before a call, and
    again after it; half of the times, none do."""

    def __init__(self, chance: random.Random, longest: float) -> None:
        self._chance = chance
        self._longest = longest
        self._questions: set[trio.CancelScope] = set()
        self._chores: list[Callable[[], None]] = []
        self._death: BaseException | None = None

    def promptly(self, chore: Callable[[], None]) -> None:
        """Have the event loop's own thread do this, before anything else happens. In any thread."""
        if getattr(_here, "worker", None) is None:
            chore()
        else:
            self._chores.append(chore)

    def kill(self, death: BaseException) -> None:
        """The process has died: calls that wait for the event loop end with this error, and so does each new one."""
        self._death = death
        for scope in self._questions:
            scope.cancel()

    async def run(self, call: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter | None, abandon: bool) -> T:
        """See `atedb.threads.run`. A call that is abandoned before its time has come does not happen."""
        del limiter  # where only one runs at a time, there are never too many
        with trio.CancelScope(shield=not abandon):
            await self._pause()
        worker = _idle.pop() if _idle else _Worker()
        said = worker.begin(partial(contextvars.copy_context().run, call, *args))
        self._do_chores()
        while not isinstance(said, outcome.Outcome):
            said = worker.answer(await self._answer(said))
            self._do_chores()
        _idle.append(worker)
        with trio.CancelScope(shield=True):
            await self._pause()
        result: T = said.unwrap()
        return result

    async def _pause(self) -> None:
        await trio.sleep(max(0.0, self._chance.uniform(-self._longest, self._longest)))

    def _do_chores(self) -> None:
        while self._chores:
            self._chores.pop(0)()

    async def _answer(self, question: Question) -> outcome.Outcome[Any]:
        heard: outcome.Outcome[Any] | None = None
        with trio.CancelScope(shield=True) as scope:
            self._questions.add(scope)
            if self._death is None:
                try:
                    heard = outcome.Value(await question())
                except Exception as error:
                    heard = outcome.Error(error)
        self._questions.discard(scope)
        if heard is None:
            assert self._death is not None
            heard = outcome.Error(self._death)
        return heard

    def ask(self, question: Callable[..., Awaitable[T]], *args: Any, token: trio.lowlevel.TrioToken) -> T:
        """See `atedb.threads.ask`."""
        del token  # there is one event loop only
        worker: _Worker = _here.worker
        answer: T = worker.ask(partial(question, *args))
        return answer
