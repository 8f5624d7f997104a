"""Power cuts at every step of append, segment roll, checkpoint and manifest swap: a past state comes back."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane
from atedb.errors import AteError, NoSpaceError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.conftest import ROOT, crash
from tests.chain.cuts import Left, cut_at_every_step

torn = pytest.mark.expect_log("torn tail|manifest is made anew")

NAMES = [b"a", b"b", b"c", b"d"]
State = dict[bytes, bytes]


class Trace:
    """What a program did to a chain: the states it went through, and which of them it was told were durable."""

    def __init__(self) -> None:
        self.states: list[State] = [{}]
        self.promised = 0

    def run(self, chain: Chain, seed: int) -> None:
        """Commits, barriers, promises, checkpoints, large enough to roll the small segments of these tests."""
        rng = random.Random(seed)
        owed: dict[bytes, Change] = {}
        for round_ in range(18):
            state = dict(self.states[-1])
            changes = []
            for name in rng.sample(NAMES, rng.randint(1, 3)):
                key = chain.object_key(b"T", name)
                if name in state and rng.random() < 0.2:
                    del state[name]
                    changes.append(Change(key, Lane.META, b"", tombstone=True))
                else:
                    state[name] = rng.randbytes(rng.choice([40, 700, 5000]))
                    changes.append(Change(key, rng.choice(list(Lane)), state[name]))
            self.states.append(state)  # before the commit: a cut inside it may keep it
            owed.update((change.key, change) for change in changes)
            if rng.random() < 0.4 and chain.promise(changes):
                self.promised = len(self.states) - 1
                continue
            chain.commit(list(owed.values()))
            owed = {}
            if rng.random() < 0.5:
                chain.barrier()
                self.promised = len(self.states) - 1
            if round_ % 5 == 4:
                chain.checkpoint()
                self.promised = len(self.states) - 1


def read_all(chain: Chain) -> State:
    bodies = {name: chain.load(chain.object_key(b"T", name)) for name in NAMES}
    return {name: body for name, body in bodies.items() if body is not None}


def cut(folder: Path, step: int, *, lies: bool) -> Left | None:
    """Run the trace with the power cut at `step`; None when the trace ended before it."""
    world = folder / "world"
    world.mkdir()
    disk = FaultyDisk(world, lies=lies)
    chain = Chain.create(world / "store", ROOT, disk=disk, heads=world / "heads")
    disk.cut_at = disk.steps + step
    trace = Trace()
    try:
        trace.run(chain, seed=5)
        chain.close()
    except PowerCut:
        crash(chain)
        return Left(disk, partial(judge, trace))
    return None


def judge(trace: Trace, found: Path) -> str:
    """What is wrong with the chain that was found."""
    try:
        state = survive(found)
    except AteError as error:
        return f"{type(error).__name__}: {error}"
    return "" if state in trace.states[trace.promised :] else "not a state since the last promise"


def survive(found: Path) -> State:
    """The state that is found after the cut; the chain then takes one commit more and opens once more."""
    chain = Chain.open(found / "store", ROOT, heads=found / "heads")
    state = read_all(chain)
    chain.commit([Change(chain.object_key(b"T", b"later"), Lane.META, b"later")])
    chain.close()
    again = Chain.open(found / "store", ROOT, heads=found / "heads")
    assert again.load(again.object_key(b"T", b"later")) == b"later"
    assert read_all(again) == state
    again.close()
    return state


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 16 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 4 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_MOST", 8 << 10)


def every_cut(folder: Path, *, lies: bool = False, seeds: int = 2) -> list[str]:
    """Cut at every step in turn; what was found wrong."""
    return cut_at_every_step(folder, partial(cut, lies=lies), least=100, seeds=seeds)


@torn
@pytest.mark.usefixtures("small_segments")
def test_after_a_power_cut_at_any_step_the_chain_is_a_past_state_no_older_than_the_last_barrier(tmp_path: Path) -> None:
    assert every_cut(tmp_path) == []


@torn
@pytest.mark.usefixtures("small_segments")
def test_on_a_disk_that_lies_about_syncs_the_same_test_fails(tmp_path: Path) -> None:
    assert every_cut(tmp_path, lies=True, seeds=1) != []


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_step_loses_nothing_that_was_promised(
    tmp_path: Path, failure: int, expect_log: Callable[[str], None]
) -> None:
    if failure == errno.ENOSPC:
        expect_log("no room for a last checkpoint")
    expect_log("there is no journal from now on")
    step = 0
    while True:
        step += 1
        raised: type[AteError] | None = None
        world = tmp_path / f"fail{step}"
        world.mkdir()
        disk = FaultyDisk(world, failure=failure)
        chain = Chain.create(world / "store", ROOT, disk=disk, heads=world / "heads")
        disk.fail_at = disk.steps + step
        trace = Trace()
        try:
            trace.run(chain, seed=5)
            chain.close()
        except AteError as error:
            raised = type(error)
            crash(chain)
        if disk.steps < disk.fail_at:
            break
        if raised is None:  # what cannot be promised is committed, and a full disk needs no last checkpoint
            assert failure == errno.ENOSPC or chain._journal.failed
        else:
            assert (raised is NoSpaceError) == (failure == errno.ENOSPC)
        again = Chain.open(world / "store", ROOT, heads=world / "heads")
        assert read_all(again) in trace.states[trace.promised :]
        again.close()
        shutil.rmtree(world)
    assert step > 100
