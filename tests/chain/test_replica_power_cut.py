"""Power cuts at every step of a replica's ordinary life: what was durable is there, and so is all that was sent."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.frame import decode_frame
from atedb.errors import AteError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.conftest import crash
from tests.chain.cuts import Left, cut_at_every_step
from tests.chain.followed import Device, Server
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


def cut(folder: Path, step: int) -> Left:
    """That life, with the power cut at `step`."""
    pair = Pair(folder)
    crash(pair.one.chain)
    disk = FaultyDisk(folder / "one")
    one = Device.open(folder / "one", pair.server, disk)
    disk.cut_at = disk.steps + step
    promised: dict[str, str] = {}
    try:
        live(one, pair.two, promised)
    except PowerCut:
        crash(one.chain)
    pair.two.chain.close()
    return Left(disk, partial(judge, pair.server, len(pair.server.frames), promised))


def every_cut(folder: Path) -> list[str]:
    """Cut the power at every step in turn; what was found wrong."""
    return cut_at_every_step(folder, cut, least=50)


def judge(server: Server, sent: int, promised: dict[str, str], found: Path) -> str:
    """What is wrong with the store that was found. sent: as many batches the server had."""
    del server.frames[sent:]
    try:
        one = Device.open(found, server)
    except AteError as error:
        return f"it does not open: {error}"
    try:
        at_server = [server.position(n) for n in range(len(server.frames) + 1)]
        if one.replica.acked not in at_server:
            return "it believes of the server what the server never had"
        for sequence, frame in enumerate(server.frames, 1):
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
