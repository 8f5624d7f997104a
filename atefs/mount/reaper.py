"""Deferred deletion, worked off in small steps between requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

import trio

from atedb.errors import AteError, NotResident
from atefs.mount.committer import Committer
from atefs.mount.waiting import Waiting
from atefs.vault.vault import Vault

log = logging.getLogger(__name__)

STEP = 256
"""Events per step: a few milliseconds, so that a request waits no longer for its turn."""
PAUSE = 0.05
"""Seconds between being told and starting, so that a burst of deletions is one piece of work."""


class Reaper:
    """Calls `vault.reap` as long as there is something to delete."""

    def __init__(self, vault: Vault, committer: Committer, loop: Waiting) -> None:
        self._vault = vault
        self._committer = committer
        self._loop = loop
        self._told = trio.Event()
        self._told.set()
        vault.when_left(self.tell)
        self._shrunk: set[int] = set()
        self.outdate: Callable[[Iterable[int]], None] = lambda _inodes: None
        """Has the kernel forget attributes: of files that take less room than it was told. Called in a thread."""

    def tell(self) -> None:
        """Something was deleted or let go of."""
        self._told.set()

    async def run(self) -> None:
        """Reap what an earlier run left, then whatever is told, for ever."""
        while True:
            await self._told.wait()
            await trio.sleep(PAUSE)
            self._told = trio.Event()
            try:
                while await self._step():
                    await self._committer.room()
                    await trio.sleep(0)
            except AteError as error:
                log.warning("deletion is put off: %s", error)
            if self._shrunk:
                shrunk, self._shrunk = self._shrunk, set()
                await self._loop.in_thread(partial(self.outdate, shrunk), abandon=True)

    async def _step(self) -> bool:
        while True:
            await self._loop.opened()
            try:
                more = self._vault.reap(STEP, self._shrunk.add)
            except NotResident as absent:
                await self._loop.in_thread(absent.fetch)
            else:
                self._committer.touch()
                return more
