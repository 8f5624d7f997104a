"""A power cut at any step of anything that is done to a vault: what comes back is one of its past states."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.chain.batch import Batch
from atedb.chain.chain import Chain
from atedb.chain.journal import Journal
from atefs.vault.commit import Frozen
from atefs.vault.vault import Vault
from tests.vault.crash_points import CrashPoint, SmallSegments, check_state, faults, opened
from tests.vault.crash_programs import PROGRAMS, Program
from tests.vault.crash_traces import OFTEN, OPS, Op, Trace

torn = pytest.mark.expect_log("torn tail|manifest is made anew")
programs = pytest.mark.parametrize("name", PROGRAMS)

EXAMPLES = int(os.environ.get("CRASH_TRACES", "5000"))
"""Traces of the long run."""
RATE = 0.4
"""The share of a generated trace's steps at which the power is cut."""

digits = st.integers(0, 9)
traces = st.lists(st.builds(Op, st.sampled_from(OPS + 2 * OFTEN), digits, digits, digits), min_size=20, max_size=80)
numbers = count()


@pytest.fixture(scope="module")
def world() -> Iterator[Path]:
    """Where the simulated disks lie: in memory, if there is such a place. The log's segments are small meanwhile."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder, SmallSegments():
        yield Path(folder)


def found_wrong(
    world: Path, ops: Sequence[Op], seed: int, *, kind: type[Trace] = Trace, lies: bool = False
) -> list[str]:
    """Run a trace and look at its crash points."""
    trace = kind(world / f"trace{next(numbers)}", seed, rate=RATE, lies=lies)
    return faults(trace.run(ops))


@torn
@given(traces, st.integers(0, 2**32))
@settings(max_examples=50)
def test_a_power_cut_leaves_a_past_state_no_older_than_the_last_fsync(world: Path, ops: list[Op], seed: int) -> None:
    assert found_wrong(world, ops, seed) == []


@torn
@pytest.mark.long
@pytest.mark.timeout(7200)
@given(traces, st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, derandomize=False, database=None, print_blob=True)
def test_a_power_cut_leaves_a_past_state_in_thousands_of_traces(world: Path, ops: list[Op], seed: int) -> None:
    assert found_wrong(world, ops, seed) == []


# The negative twins: with a protection switched off, the same traces find it


def made_up(seed: int) -> list[Op]:
    chance = random.Random(seed)
    return [Op(chance.choice(OPS + 2 * OFTEN), *(chance.randrange(10) for _ in range(3))) for _ in range(60)]


class TwoHalves(Trace):
    """Commits that are not atomic: two batches, the second of which may be lost."""

    def put(self, frozen: Frozen, batch: Batch) -> None:
        self.chain.abandon(batch)
        half = len(frozen.changes) // 2
        self.chain.commit(frozen.changes[:half])
        self.chain.commit(frozen.changes[half:])


@torn
def test_on_a_disk_that_lies_about_syncs_a_state_is_lost(world: Path) -> None:
    assert any(found_wrong(world, made_up(seed), seed, lies=True) for seed in range(5))


@pytest.mark.expect_log("torn tail")
def test_without_barriers_a_synced_state_is_lost(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "barrier", lambda chain: chain.written)
    wrong = (fault for seed in range(20) for fault in found_wrong(world, made_up(seed), seed))
    assert any("not a state since the last promise" in fault for fault in wrong)


@torn
def test_without_a_look_into_the_journal_a_synced_state_is_lost(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "read", lambda *_: {})
    wrong = (fault for seed in range(20) for fault in found_wrong(world, made_up(seed), seed))
    assert any("not a state since the last promise" in fault for fault in wrong)


class Hasty(Trace):
    """Promises on top of a batch that no barrier has covered."""

    def do_promise(self, _a: int, _b: int, _c: int) -> None:
        self.chain.durable = self.chain.written
        super().do_promise(_a, _b, _c)


@torn
def test_with_promises_on_what_is_not_durable_a_synced_state_is_lost(world: Path) -> None:
    assert any(found_wrong(world, made_up(seed), seed, kind=Hasty) for seed in range(20))


@pytest.mark.expect_log("torn tail")
def test_with_commits_that_are_not_atomic_a_mixture_is_found(world: Path) -> None:
    wrong = (fault for seed in range(20) for fault in found_wrong(world, made_up(seed), seed, kind=TwoHalves))
    assert any("not a state since the last promise" in fault for fault in wrong)


# Programs that are careful with their files


def relied_on(world: Path, name: str, seed: int, *, lax: bool = False) -> list[str]:
    """Where a program finds after a crash what it must not find."""
    does, holds = PROGRAMS[name]
    trace = Trace(world / f"trace{next(numbers)}", seed, rate=1.0)
    does(Program(trace, seed, lax=lax))

    def check(point: CrashPoint) -> None:
        chain = opened(point.folder)
        try:
            holds(Vault(chain), point.told)
        finally:
            chain.close()
        check_state(point)

    return faults(trace.run([]), check)


@torn
@programs
def test_what_a_careful_program_relies_on_holds_after_every_power_cut(world: Path, name: str) -> None:
    assert [relied_on(world, name, seed) for seed in range(2)] == [[], []]


@torn
@pytest.mark.long
@programs
def test_what_a_careful_program_relies_on_holds_however_the_kernel_writes(world: Path, name: str) -> None:
    assert [fault for seed in range(2, 42) for fault in relied_on(world, name, seed)] == []


@programs
@pytest.mark.expect_log("torn tail")
def test_a_program_whose_fsync_does_nothing_finds_its_work_spoilt(world: Path, name: str) -> None:
    assert any(relied_on(world, name, seed, lax=True) for seed in range(3))
