"""Whole clusters in one event loop: a server, several machines, and all that can go wrong, decided by one number.

What a history is made of is in `history.py`; what has to hold at its end, in `cluster.py`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings

from atedb.chain.chain import Chain
from atedb.engine.filelog import FileLog
from atedb.errors import AteError
from atefs.mount.options import RecoveryMode
from atefs.mount.replication import Replication
from atefs.mount.upstream import Upstream
from atefs.vault.merge import _Merge
from atefs.vault.merge_names import Plan
from tests.simulation.cluster import BrokenPromise, simulate
from tests.simulation.history import FATES, Fate, History, Machine, Step, histories, history_of
from tests.simulation.kernel import Kernel
from tests.simulation.programs import PROGRAMS, create, sync

MANY = int(os.environ.get("SIMULATION_HISTORIES", "10000"))
FEW = 150
ANY_SIZE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=FEW, deadline=None, suppress_health_check=ANY_SIZE)
@given(history=histories())
def test_whatever_fails_all_machines_agree_in_the_end_and_nothing_is_lost(history: History) -> None:
    simulate(history)


@pytest.mark.long
@pytest.mark.timeout(0)
@settings(max_examples=MANY, deadline=None, suppress_health_check=ANY_SIZE)
@given(history=histories())
def test_the_same_for_ten_thousand_histories(history: History) -> None:
    simulate(history)


# One number decides everything

EXAMPLE = history_of(20)
DIGEST = "from tests.simulation.test_cluster import digest; print(digest())"


def digest() -> str:
    """Of all that happens in one history."""
    return hashlib.sha256(repr(simulate(EXAMPLE)).encode()).hexdigest()


def test_a_history_goes_the_same_way_every_time() -> None:
    assert simulate(EXAMPLE) == simulate(EXAMPLE)


def test_a_history_goes_the_same_way_in_every_process() -> None:
    found = set()
    for number in "12":
        done = subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True,
            text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


def test_another_seed_makes_another_history() -> None:
    assert simulate(EXAMPLE) != simulate(EXAMPLE._replace(seed=EXAMPLE.seed + 1))


# A machine that is lost while it writes

LOST = History(
    7,
    [Machine(RecoveryMode.SYNC, 0, False), Machine(RecoveryMode.ASYNC, 0, False)],
    [
        Step(0, 0, len(PROGRAMS) + FATES.index(Fate.SILENCE), 0, 0),
        Step(0, 8, PROGRAMS.index(create), 1, 2),
        Step(0, 0, PROGRAMS.index(sync), 0, 0),
        Step(0, 9, len(PROGRAMS) + FATES.index(Fate.BURN), 0, 0),
    ],
)


def test_a_sync_returns_only_when_the_loss_of_the_machine_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(LOST)

    async def at_once(_upstream: Upstream, _sequence: int) -> None:
        """Without waiting for the server."""

    monkeypatch.setattr(Upstream, "_acknowledged", at_once)
    with pytest.raises(BaseExceptionGroup) as raised:
        simulate(LOST)
    assert raised.group_contains(BrokenPromise, match="lost")


# With a protection switched off, it is noticed


def is_noticed() -> bool:
    """Whether one of a few histories fails."""
    for seed in range(FEW):
        try:
            simulate(history_of(seed))
        except (AteError, BrokenPromise, BaseExceptionGroup):
            return True
    return False


def _no_barrier(chain: Chain) -> int:
    chain.durable = chain.written
    return chain.durable


def _acknowledged_first(log: FileLog, requests: Sequence[Any]) -> object:
    with mock.patch.object(log._log, "barrier", _say_nothing):
        return WRITE_ALL(log, requests)


WRITE_ALL = FileLog._write_all


def _only_of_this_life(replication: Replication, limit: int) -> list[bytes]:
    """What an earlier life had not sent is taken for sent."""
    replica = replication.replica
    if not replication.__dict__.get("began"):
        replication.__dict__["began"] = True
        ready = replica.position(replication.ready)
        assert ready is not None
        replica.acknowledge(ready)
    return replica.pending(replica.acked.sequence, limit)


def _say_nothing(*_: object) -> None:
    """Instead of what ought to be done."""


@pytest.mark.parametrize(
    ("part", "name", "instead"),
    [
        (FileLog, "_write_all", _acknowledged_first),
        (Chain, "barrier", _no_barrier),
        (Replication, "pending", _only_of_this_life),
        (_Merge, "_put_beside", _say_nothing),
        (Plan, "_settle_deletions", _say_nothing),
        (Kernel, "outdate", _say_nothing),
    ],
    ids=[
        "the server acknowledges what is not durable",
        "batches are sent before they are durable",
        "what was pending before a crash is taken for sent after it",
        "a merge drops what both have changed",
        "deletions win over changes",
        "the kernel is told nothing",
    ],
)
def test_what_is_switched_off_is_noticed(
    monkeypatch: pytest.MonkeyPatch, part: type, name: str, instead: Callable[..., object]
) -> None:
    monkeypatch.setattr(part, name, instead)
    assert is_noticed()
