"""A machine of a simulated cluster: its disk, and a process that is started, killed, and started again."""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import trio

from atedb import threads
from atedb.testing.disk import FaultyDisk, PowerCut
from atedb.testing.lockstep import Lockstep

Note = Callable[[str, object], None]


class Process(ABC):
    """root: the folder that is its disk; another one after each power cut. stopping: set to have it end in order.

    up: whether it runs.
    """

    def __init__(self, name: str, root: Path, chance: random.Random, *, longest: float, note: Note) -> None:
        self.name = name
        self.root = root
        self.chance = chance
        self.longest = longest
        self.note = note
        self.lockstep = Lockstep(chance, longest)
        self.stopping = trio.Event()
        self.up = False
        self._disk: FaultyDisk | None = None
        self._power_goes = True
        self._generation = 0
        self._down = 0.0
        self._fresh: Callable[[Path], None] | None = None
        self._scope = trio.CancelScope()

    @abstractmethod
    async def live(self, disk: FaultyDisk) -> None:
        """From its start until it has ended in order, once `stopping` is set."""

    @abstractmethod
    def died(self) -> None:
        """It was killed just now: nothing that it still does may reach anybody else."""

    @abstractmethod
    def bury(self) -> None:
        """It has ended, in order or not: release what the system releases of a process that is gone."""

    async def run(self) -> None:
        """One life after the other, for ever."""
        while True:
            self.stopping = trio.Event()
            if self._disk is None:
                self._disk = FaultyDisk(self.root)
                self._disk.on_cut = self._on_cut
            disk = self._disk
            self.note(self.name, "starts")
            self.up = True
            self.lockstep = Lockstep(self.chance, self.longest)
            threads.hand_in(self.lockstep)
            with trio.CancelScope() as self._scope:
                try:
                    await self.live(disk)
                except BaseException as error:
                    if not disk.dead or isinstance(error, KeyboardInterrupt | trio.Cancelled):
                        raise
                    if isinstance(error, BaseExceptionGroup):  # whatever else it met in dying, nobody hears of
                        cancelled, _ = error.split(trio.Cancelled)
                        if cancelled is not None:
                            raise cancelled from None
            self.up = False
            self.bury()
            self.note(self.name, "dead" if disk.dead else "ended")
            if disk.dead:
                self._come_back(disk)
            await trio.sleep(self._down)
            self._down = 0.0

    def die(self, steps: int, down: float, *, power: bool) -> None:
        """After so many steps of its disk from now, 0 for at once. power: what was not synced may be lost."""
        disk = self._disk
        if disk is None or disk.dead or disk.cut_at or not self.up:
            return
        self._power_goes, self._down = power, down
        if steps:
            disk.cut_at = disk.steps + steps
        else:
            disk.cut()

    def spare(self) -> None:
        """What was to be its death does not happen."""
        if self._disk is not None:
            self._disk.cut_at = 0

    def stop(self, down: float) -> None:
        """End in order, and begin again after so many seconds."""
        if self.up and not (self._disk and self._disk.dead):
            self._down = down
            self.stopping.set()

    def lose_disk(self, down: float, fresh: Callable[[Path], None]) -> None:
        """Die, and begin again with a disk on which `fresh` has put everything."""
        if self.up and self._disk is not None and not self._disk.dead:
            self._fresh = fresh
            self._down = down
            self._disk.cut()

    def _on_cut(self) -> None:
        """In whatever thread uses the disk."""
        self.lockstep.promptly(self._end)

    def _end(self) -> None:
        self.up = False
        self.note(self.name, "power cut" if self._power_goes else "killed")
        self.lockstep.kill(PowerCut())
        self.died()
        self._scope.cancel()

    def _come_back(self, disk: FaultyDisk) -> None:
        fresh, self._fresh = self._fresh, None
        if fresh is None and not self._power_goes:
            disk.revive()
            return
        before = self.root
        self._generation += 1
        self.root = before.with_name(f"{self.name}.{self._generation}")
        self.root.mkdir()
        if fresh is not None:
            fresh(self.root)
        else:
            disk.survivors(self.root, self.chance)
        shutil.rmtree(before)
        self._disk = None
