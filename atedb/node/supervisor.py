"""Services that are started again when they fail, later each time, and what is known of them.

A service is an async callable that takes `task_status`, calls `task_status.started()` when it does its work, and then
goes on until it is cancelled. To return is to fail.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Mapping
from typing import Protocol

import msgspec
import trio

log = logging.getLogger(__name__)

FIRST_DELAY = 0.1
LAST_DELAY = 30.0
STEADY = 60.0
"""Seconds a service has to have worked for its failures to be forgotten."""


class Service(Protocol):
    """One of the things that a node does."""

    def __call__(self, *, task_status: trio.TaskStatus[None]) -> Awaitable[None]:
        """Runs until it is cancelled."""


class ServiceState(msgspec.Struct):
    """What is known of a service.

    running: it does its work. restarts: since the node was started. error: the class of the last failure, and where in
    the program it came from, innermost last, a line each; no message, because messages name files and people.
    """

    running: bool = False
    restarts: int = 0
    error: str = ""


class ServiceEndedError(Exception):
    """A service returned, which it does not do when all is well."""


class Supervisor:
    """Runs services until it is cancelled. states: what is known of each, by name."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = dict(services)
        self.states: Mapping[str, ServiceState] = {name: ServiceState() for name in self._services}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start all services in order, call `task_status.started()`, and keep them running.

        What a service raises before it works for the first time is raised here: a start that fails is for people to
        put right.
        """
        async with trio.open_nursery() as nursery:
            for name in self._services:
                await nursery.start(self._keep, name)
            task_status.started()

    async def _keep(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        state, delay, first = self.states[name], FIRST_DELAY, True
        while True:
            began = trio.current_time()
            try:
                await self._once(name, state, task_status if first else trio.TASK_STATUS_IGNORED)
            except Exception as error:
                if first and not state.running:
                    raise
                first = state.running = False
                state.error = _origin(error)
                if trio.current_time() - began >= STEADY:
                    delay = FIRST_DELAY
                log.exception("the service %s failed; it is started again in %.1f s", name, delay)
            await trio.sleep(delay)
            delay = min(LAST_DELAY, 2 * delay)
            state.restarts += 1

    async def _once(self, name: str, state: ServiceState, upwards: trio.TaskStatus[None]) -> None:
        """Run a service until it fails."""

        class Started(trio.TaskStatus[None]):
            def started(self, value: None = None) -> None:
                state.running = True
                upwards.started()

        await self._services[name](task_status=Started())
        raise ServiceEndedError(f"the service {name} ended by itself")


def _origin(error: BaseException) -> str:
    """Class and place of an error; of a group, of its first one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}" for frame in frames[-20:]]
    return "\n".join([type(error).__name__, *places])
