"""Power cuts at every step of making a chain, appending, rolling and replacing: nothing acknowledged is lost."""

from __future__ import annotations

import errno
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from atedb.chain import log as log_module
from atedb.chain.disk import RealDisk
from atedb.chain.position import Position
from atedb.engine import filelog
from atedb.engine.filelog import FileLog
from atedb.engine.files import FileEngine
from atedb.errors import AteError, NoSpaceError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.cuts import Left, cut_at_every_step
from tests.engine.frames import Author

torn = pytest.mark.expect_log("torn tail|manifest is made anew")
NAME = "t/c"


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 16 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 4 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_MOST", 8 << 10)
    monkeypatch.setattr(filelog, "NOTE_BYTES", 6 << 10)


class Trace:
    """What clients sent to a chain, and what they were told."""

    def __init__(self) -> None:
        self.author = Author()
        self.frames: list[bytes] = []
        self.promised = 0
        self.token = 0
        self.documents = [b"", self.author.files.keys]
        self.known_document = 0

    async def run(self, engine: FileEngine, seed: int) -> None:
        """Appends of one and of several batches, alone and waiting together, and documents between them."""
        log = await engine.open(NAME, create=self.author.files)
        self.known_document = 1
        try:
            await self.work(log, random.Random(seed))
            await log.aclose()
        except (AteError, PowerCut):
            log._undo.close()  # as when the process is killed: nothing more is written
            raise

    async def work(self, log: FileLog, rng: random.Random) -> None:
        """The body of `run`."""
        token = self.token = await log.take()
        for round_ in range(9):
            waiting = []
            for _ in range(rng.choice([1, 1, 3])):
                expected = self.author.at
                batch = self.author.frames(rng.choice([1, 1, 2]), rng.choice([40, 700, 5000]))
                self.frames += batch
                waiting.append((batch, expected))
            errors: list[BaseException] = []
            async with trio.open_nursery() as nursery:
                for batch, expected in waiting:
                    nursery.start_soon(append, log, batch, expected, token, errors)
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
            if errors:
                raise next((error for error in errors if isinstance(error, PowerCut)), errors[0])
            self.promised = len(self.frames)
            if round_ % 4 == 3:
                data, generation = await log.document("keys")
                self.documents.append(data + b"!")
                await log.put_document("keys", data + b"!", generation, token)
                self.known_document = len(self.documents) - 1

    async def check(self, engine: FileEngine) -> None:
        """The chain is a past state, no older than what was promised, and takes what comes next."""
        log = await engine.open(NAME, create=self.author.files)
        try:
            found: list[bytes] = []
            while piece := await log.read(len(found) + 1, 30_000):
                found += piece
            assert found == self.frames[: len(found)], "not what was appended"
            assert len(found) >= self.promised, f"batch {self.promised} was acknowledged, {len(found)} are there"
            assert (await log.document("keys"))[0] in self.documents[self.known_document :]
            assert await log.take() > self.token, "an old fencing token is handed out again"
            await self.go_on(log, found)
        finally:
            await log.aclose()

    async def go_on(self, log: FileLog, found: list[bytes]) -> None:
        """One batch more, by somebody who knows what is there."""
        other = Author(self.author.header, seed=3)
        other.at = log.tail
        frame = other.frame(other.meta("later"))
        await log.append([frame], log.tail, await log.take())
        assert await log.read(len(found) + 1, 1) == [frame]


async def append(
    log: FileLog, frames: list[bytes], expected: Position, token: int, errors: list[BaseException]
) -> None:
    """Append, and keep what goes wrong; the order of what is told is the order of the appends."""
    try:
        await log.append(frames, expected, token)
    except (AteError, PowerCut) as error:
        errors.append(error)


def cut(folder: Path, step: int, *, lies: bool) -> Left | None:
    """Run the trace with the power cut at `step`; None when the trace ended before it."""
    world = folder / "world"
    world.mkdir()
    disk = FaultyDisk(world, lies=lies, cut_at=step)
    trace = Trace()
    try:
        trio.run(trace.run, FileEngine(disk, world / "chains"), 5)
    except PowerCut:
        return Left(disk, partial(judge, trace))
    return None


def judge(trace: Trace, found: Path) -> str:
    """What is wrong with the chain that was found."""
    try:
        trio.run(trace.check, FileEngine(RealDisk(), found / "chains"))
    except (AteError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def every_cut(folder: Path, *, lies: bool = False, seeds: int = 2) -> list[str]:
    """Cut at every step in turn; what was found wrong."""
    return cut_at_every_step(folder, partial(cut, lies=lies), least=100, seeds=seeds)


@torn
def test_after_a_power_cut_at_any_step_all_that_was_acknowledged_is_there(in_memory: Path) -> None:
    assert every_cut(in_memory) == []


@torn
@pytest.mark.expect_log("tail is not what was written")
def test_on_a_disk_that_lies_about_syncs_the_same_test_fails(in_memory: Path) -> None:
    assert every_cut(in_memory, lies=True, seeds=1) != []


@pytest.mark.expect_log("could not be noted")
@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_step_loses_nothing_that_was_acknowledged(in_memory: Path, failure: int) -> None:
    step = 0
    while True:
        step += 1
        world = in_memory / f"fail{step}"
        world.mkdir()
        disk = FaultyDisk(world, failure=failure, fail_at=step)
        trace = Trace()
        raised = None
        try:
            trio.run(trace.run, FileEngine(disk, world / "chains"), 5)
        except AteError as error:
            raised = error
        if disk.steps < step:
            break
        assert raised is None or isinstance(raised, NoSpaceError) == (failure == errno.ENOSPC)
        trio.run(trace.check, FileEngine(RealDisk(), world / "chains"))
        shutil.rmtree(world)
    assert step > 100
