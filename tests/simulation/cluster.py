"""One history of a whole cluster in one event loop, and what has to hold when all is mended."""

from __future__ import annotations

import atexit
import logging
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import trio
from trio.testing import MockClock

from atedb.chain.verify import verify_log
from atedb.testing.chance import determined
from atedb.testing.network import Network, Reach
from atefs.mount.options import RecoveryMode
from atefs.vault.check import Survey
from atefs.vault.conflicts import list_conflicts
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault
from tests.simulation.history import FATES, GAPS, MOST_MACHINES, Fate, History, Machine, Step
from tests.simulation.ledger import Ledger
from tests.simulation.machine import Client
from tests.simulation.node import NAME, Server
from tests.simulation.programs import (
    PROGRAMS,
    all_texts,
    create,
    link,
    make_folder,
    places,
    runs,
    write,
)
from tests.simulation.templates import NOW, ROOT_KEY, join, make_first, small_bounds

LONGEST = 0.015
"""Seconds that a message, or a call in a thread, takes at most."""
SETTLE_SECONDS = 900.0
"""Within which all machines have to be in step once all is mended."""
REST_SECONDS, QUIET = 0.8, 2
"""They are in step when they have been so for as long, and so often."""
RARELY = 0.1
"""How often what takes long is done in the end."""
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
BEFORE = (create, create, make_folder, create, make_folder, link, write)
"""The programs that have run before a history begins: some files, a folder, a second name."""

Trace = list[tuple[float, str, object]]


class BrokenPromise(AssertionError):
    """Something that has to hold did not."""


class Start(NamedTuple):
    """What histories begin with: in `folder`, a folder for each machine, and the same in memory.

    frames: of the chain there is, by hash. ledger: what is in it.
    """

    folder: Path
    files: dict[str, dict[Path, bytes]]
    frames: dict[bytes, bytes]
    ledger: Ledger


def simulate(history: History) -> Trace:
    """Run a history; what happened, in order. Raises BrokenPromise."""
    start = _start()
    with _folder() as folder, determined(history.seed) as chance, small_bounds():
        cluster = Cluster(folder, chance, history.machines, dict(start.frames))
        cluster.ledger.begin_with(start.ledger)
        for name in cluster.names:
            _put_back(start.files[name], folder / name)
        return cluster.run(history.steps)


@cache
def _start() -> Start:
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=MEMORY))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with determined(0) as chance, small_bounds():
        machines = [Machine(RecoveryMode.ASYNC, 0, False)] * MOST_MACHINES
        cluster = Cluster(folder, chance, machines, {})
        first, *others = [folder / name for name in cluster.names if name != NAME]
        make_first(first)
        (folder / NAME).mkdir()
        for other in others:
            join(other, first)
        steps = [Step(0, 6, PROGRAMS.index(what), place, place) for place, what in enumerate(BEFORE)]
        cluster.run(steps)
    return Start(folder, {name: _files(folder / name) for name in cluster.names}, cluster.server.frames, cluster.ledger)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _put_back(files: dict[Path, bytes], folder: Path) -> None:
    for parent in {path.parent for path in files}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        (folder / path).write_bytes(data)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=MEMORY) as folder:
        yield Path(folder)


class Cluster:
    """A server and machines, each in its folder below `folder`."""

    def __init__(
        self, folder: Path, chance: random.Random, kinds: list[Machine], frames: dict[bytes, bytes]
    ) -> None:  # fmt: skip
        self.trace: Trace = []
        self.ledger = Ledger()
        self._folder = folder
        self._chance = chance
        self._time = MockClock(autojump_threshold=0)
        self.network = Network(chance, LONGEST, self.note)
        self.server = Server(
            folder / NAME, self.network, chance,
            clock=lambda: NOW + int(self._time.current_time() * 1e9), longest=LONGEST, note=self.note,
        )  # fmt: skip
        self.server.frames = frames
        self.machines = [
            Client(
                f"m{number}", folder / f"m{number}", self.network, chance, kind=kind, ledger=self.ledger,
                clock=self._time, longest=LONGEST, frames=frames, note=self.note,
            )
            for number, kind in enumerate(kinds)
        ]  # fmt: skip
        self.names = [NAME, *(machine.name for machine in self.machines)]

    def note(self, who: str, what: object) -> None:
        """Something happened."""
        self.trace.append((round(self._time.current_time(), 6), who, what))

    def run(self, steps: list[Step]) -> Trace:
        """From the start to the last check. Raises BrokenPromise."""
        with _logs(self.note, self._folder) as errors:
            trio.run(self._main, steps, clock=self._time)
        if errors:
            raise BrokenPromise(f"the programs logged errors: {errors}")
        return self.trace

    async def _main(self, steps: list[Step]) -> None:
        async with trio.open_nursery() as nursery:
            for process in (self.server, *self.machines):
                nursery.start_soon(process.run)
            try:
                await self._happen(steps)
                await self._settle()
                self._check()
                if self._chance.random() < RARELY:
                    await self._end()
            finally:
                nursery.cancel_scope.cancel()
                for process in (self.server, *self.machines):
                    process.bury()

    # -- what happens

    async def _happen(self, steps: list[Step]) -> None:
        start = trio.current_time() + 1.0
        fates: deque[tuple[float, Step]] = deque()
        for step in steps:
            start += GAPS[step.gap]
            if step.what < len(PROGRAMS):
                self.machines[step.who % len(self.machines)].give(start, step)
            else:
                fates.append((start, step))
        for at, step in fates:
            await trio.sleep_until(at)
            self._befall(FATES[step.what - len(PROGRAMS)], step)
        await trio.sleep_until(start)

    def _befall(self, fate: Fate, step: Step) -> None:
        machine = self.machines[step.who % len(self.machines)]
        steps, down = step.first % 40, GAPS[step.second % len(GAPS)]
        self.note("fate", (fate.name, machine.name, steps, down))
        if fate is Fate.CUT:
            self.network.cut_after(machine.name, step.first % 12)
        elif fate is Fate.SILENCE:
            self.network.set_reach(machine.name, Reach.SILENT)
        elif fate is Fate.OFFLINE:
            self.network.set_reach(machine.name, Reach.REFUSED)
        elif fate is Fate.MEND:
            self.network.set_reach(machine.name, Reach.OPEN)
        elif fate in (Fate.POWER, Fate.KILL):
            machine.die(steps, down, power=fate is Fate.POWER)
        elif fate is Fate.UNMOUNT:
            machine.stop(down)
        elif fate is Fate.BURN:
            machine.burn(down, partial(join, first=self._folder_of_first()))
        elif fate in (Fate.SERVER_POWER, Fate.SERVER_KILL):
            self.server.die(steps, down, power=fate is Fate.SERVER_POWER)
        elif fate is Fate.SERVER_STOP:
            self.server.stop(down)

    def _folder_of_first(self) -> Path:
        return _start().folder / "m0"

    async def _settle(self) -> None:
        """Mend everything, and wait until all are in step and stay so; then let go of all files, and wait again."""
        self.note("fate", "all is mended")
        self.server.spare()
        for machine in self.machines:
            machine.spare()
            self.network.set_reach(machine.name, Reach.OPEN)
        await self._rest()
        for machine in self.machines:
            with machine.omniscient():
                wrong = machine.kernel.wrong()
                machine.let_go()
            if wrong:
                raise BrokenPromise(f"{machine.name}'s kernel was not told: {wrong}")
        await self._rest()

    async def _rest(self) -> None:
        deadline = trio.current_time() + SETTLE_SECONDS
        quiet = 0
        before: object = None
        while quiet < QUIET:
            await trio.sleep(REST_SECONDS)
            if trio.current_time() > deadline:
                raise BrokenPromise(f"they do not come to rest: {self._states()}")
            here = {machine.upstream.replication.acked for machine in self.machines if machine.settled}
            still = all(machine.settled for machine in self.machines) and here == {self.server.tail} == {before}
            quiet = quiet + 1 if still else 0
            before = self.server.tail

    def _states(self) -> dict[str, object]:
        states: dict[str, object] = {NAME: (self.server.up, self.server.tail)}
        for machine in self.machines:
            upstream = getattr(machine, "upstream", None)
            vault = getattr(machine, "vault", None)
            states[machine.name] = (
                machine.mode.value, machine.up, len(machine.steps), machine.busy,
                upstream and upstream.status(), vault and (vault.dirty_objects, vault.dirty_bytes),
                machine.chain and machine.chain.failed,
            )  # fmt: skip
        return states

    # -- what has to hold

    def _check(self) -> None:
        """All are equal, sound, and have what they must."""
        problems = list(self.ledger.lost)
        trees = {}
        for machine in self.machines:
            assert machine.chain is not None
            with machine.omniscient():
                problems += [f"{machine.name}: fsck: {problem}" for problem in Survey(machine.chain).run()]
                trees[machine.name] = tree(machine.vault)
                fresh = tree(Vault(machine.chain)) if machine is self.machines[0] else trees[machine.name]
            if fresh != trees[machine.name]:
                problems.append(f"{machine.name} answers from memory: {difference(trees[machine.name], fresh)}")
        name, first = next(iter(trees.items()))
        for other, seen in trees.items():
            if seen != first:
                problems.append(f"{name} and {other} differ: {difference(first, seen)}")
        problems += self._check_content(self.machines[0])
        report = verify_log(self.server.store, ROOT_KEY if self._chance.random() < RARELY else None, data=True)
        problems += [f"server: {damage}" for damage in report.damage]
        if problems:
            raise BrokenPromise("\n".join(problems))

    def _check_content(self, machine: Client) -> list[str]:
        with machine.omniscient():
            seen = all_texts(machine.vault)
            listed = {(conflict.parent, conflict.name) for conflict in list_conflicts(machine.vault)}
            beside = {place[:2] for place in places(machine.vault) if b".conflict-" in place[1]}
        problems = [f"lost: {text.decode()}" for text in self.ledger.missing(seen)]
        return problems + [f"a conflict is not listed: {place}" for place in sorted(beside - listed)]

    async def _end(self) -> None:
        """All of it ends in order."""
        for machine in self.machines:
            machine.stop(float("inf"))
        with trio.fail_after(120):
            while any(machine.chain is not None for machine in self.machines):
                await trio.sleep(0.5)
        self.server.stop(float("inf"))
        with trio.fail_after(120):
            while self.server.up:
                await trio.sleep(0.5)


def tree(vault: Vault) -> dict[bytes, tuple[Any, ...]]:
    """Everything that can be seen: by path, what it is."""
    seen: dict[bytes, tuple[Any, ...]] = {}
    waiting = [(b"", ROOT_INO)]
    while waiting:
        path, ino = waiting.pop()
        inode = vault.getattr(ino)
        what: object = inode.parent if inode.is_dir else None
        if inode.is_link:
            what = vault.readlink(ino)
        elif inode.is_file:
            what = [(at, sha256(vault.read(ino, at, end - at)).digest()) for at, end in runs(vault, ino)]
        seen[path or b"/"] = (
            ino, inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.blocks, inode.mtime, inode.ctime,
            inode.btime, tuple(sorted((inode.xattrs or {}).items())), what,
        )  # fmt: skip
        if inode.is_dir:
            waiting += [(path + b"/" + row.name, row.ino) for row in vault.readdir(ino)[2:]]
    return seen


def difference(one: dict[bytes, Any], other: dict[bytes, Any]) -> list[Any]:
    paths = sorted(one.keys() | other.keys())
    return [(path, one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)]


class _Collector(logging.Handler):
    def __init__(self, note: Any, folder: Path) -> None:
        super().__init__(logging.WARNING)
        self.note = note
        self.folder = str(folder)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = f" {record.exc_info[1]!r}" if record.exc_info else ""
        text = f"{record.levelname} {record.name}: {record.getMessage()}{error}".replace(self.folder, "")
        self.note("log", text)
        if record.levelno >= logging.ERROR and "PowerCut" not in text:  # what a process says when it is dead
            self.errors.append(text)


@contextmanager
def _logs(note: Any, folder: Path) -> Iterator[list[str]]:
    """Inside, what the programs log is noted; those lines that are errors."""
    collector = _Collector(note, folder)
    names = ("atedb", "atefs")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        logger.addHandler(collector)
    try:
        yield collector.errors
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.setLevel(level)
            logger.removeHandler(collector)
