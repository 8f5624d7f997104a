"""Power cuts at every step of a replica's ordinary life: what was durable is there, and so is all that was sent."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.frame import decode_frame
from atedb.errors import AteError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.conftest import crash
from tests.chain.followed import Device
from tests.chain.paired import Pair


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 6 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 1 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_MOST", 2 << 10)


def live(one: Device, two: Device, promised: dict[str, str]) -> None:
    """Receive, commit, send, checkpoint. Each name is written by one of the two only; `promised` is durable."""
    for round_ in range(3):
        for i in range(2):
            two.put(**{f"two{i}": f"{round_}" + "x" * 700})
        two.put_blob("blob", bytes(500 + round_))
        two.sync()
        one.fetch()
        mine = {f"one{i}": f"{round_}" + "y" * 600 for i in range(2)}
        for name, body in mine.items():
            one.put(**{name: body})
        if round_ % 2:
            one.chain.checkpoint()
        one.chain.barrier()
        promised.update(mine)
        one.send()
        one.put(last=str(round_))
    one.chain.close()


def every_cut(folder: Path) -> list[str]:
    """Cut the power at every step in turn; what was found wrong."""
    wrong = []
    step = 0
    while True:
        step += 1
        world = folder / f"cut{step}"
        world.mkdir()
        pair = Pair(world)
        crash(pair.one.chain)
        disk = FaultyDisk(world / "one")
        one = Device.open(world / "one", pair.server, disk)
        disk.cut_at = disk.steps + step
        promised: dict[str, str] = {}
        was_cut = False
        try:
            live(one, pair.two, promised)
        except PowerCut:
            was_cut = True
            crash(one.chain)
        sent = len(pair.server.frames)
        for seed in range(2):
            found = world / f"found{seed}"
            found.mkdir()
            disk.survivors(found, random.Random(seed))
            del pair.server.frames[sent:]
            problem = judge(found, pair, promised)
            if problem:
                wrong.append(f"step {step} ({disk.trace[-1]}), seed {seed}: {problem}")
        pair.two.chain.close()
        shutil.rmtree(world)
        if not was_cut:
            break
    assert step > 50
    return wrong


def judge(found: Path, pair: Pair, promised: dict[str, str]) -> str:
    """What is wrong with the store that was found."""
    try:
        one = Device.open(found, pair.server)
    except AteError as error:
        return f"it does not open: {error}"
    try:
        at_server = [pair.server.position(n) for n in range(len(pair.server.frames) + 1)]
        if one.replica.acked not in at_server:
            return "it believes of the server what the server never had"
        for sequence, frame in enumerate(pair.server.frames, 1):
            ours = decode_frame(frame).head.device == one.chain.device
            if ours and one.replica.position(sequence) != at_server[sequence]:
                return f"batch {sequence} was sent, and is not here"
        one.sync()
        state = one.state()
    except (AteError, AssertionError) as error:
        return f"it cannot go on: {error}"
    finally:
        crash(one.chain)
    lost = [name for name, body in promised.items() if state.get(name, "")[:1] < body[:1]]
    return f"lost: {lost}" if lost else ""


torn = pytest.mark.expect_log("torn tail")


@torn
@pytest.mark.usefixtures("small_segments")
def test_a_power_cut_at_any_step_loses_nothing_durable_and_forks_nothing(in_memory: Path) -> None:
    assert every_cut(in_memory) == []


@torn
@pytest.mark.usefixtures("small_segments")
def test_when_batches_are_sent_before_they_are_durable_it_does(
    in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "barrier", unsafe)
    assert every_cut(in_memory) != []


def unsafe(chain: Chain) -> int:
    """A barrier that is none."""
    chain.durable = chain.written
    return chain.durable
