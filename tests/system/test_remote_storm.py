"""Machines that work on one chain while links are cut, and drivers and the server killed, at random.

Afterwards all of them show the same, `atefs fsck` finds nothing, what was synced is there, what was kept twice is
listed, and nothing else is lost. STORM_SEED and STORM_SECONDS make it that storm, and so long.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.replicas import Machines
from tests.system.solo import Solo
from tests.system.storm_weather import Storm

pytestmark = pytest.mark.needs("fuse", "git", "rsync", "tar", "diff")

ASYNC, SYNC = "async", "sync"


def weather(folder: Path, machines: Machines, solo: Solo, *, modes: list[str], seed: str, seconds: float) -> None:
    storm = Storm(folder, machines, solo, os.environ.get("STORM_SEED", seed), modes)
    storm.blow(float(os.environ.get("STORM_SECONDS", seconds)))
    print("\n".join(storm.log))
    lost = storm.stations[-1]
    lost.abandon()  # what it was told is synced has to be on the server, and nothing else of it is there
    survivors = [station.replica for station in storm.stations[:-1]]
    fresh = machines("fresh")
    fresh.mount()
    storm.calm([*survivors, fresh])
    for replica in (*survivors, fresh):
        replica.umount()
        checked = replica.atefs("fsck", replica.path, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    for station in storm.stations:
        station.close()
        assert [line for line in station.replica.complaints() if not is_weather(line)] == []
    assert solo.complaints() == []


def is_weather(line: str) -> bool:
    expected = ("torn tail", "the server takes nothing now", "locks count on this machine only")
    return any(words in line for words in expected)


def test_two_machines_in_a_storm_lose_nothing(machines: Machines, solo: Solo, tmp_path: Path) -> None:
    weather(tmp_path, machines, solo, modes=[ASYNC, SYNC], seed="short", seconds=8)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_five_machines_in_a_long_storm_lose_nothing(machines: Machines, solo: Solo, tmp_path: Path) -> None:
    seed = os.urandom(4).hex()
    weather(tmp_path, machines, solo, modes=[ASYNC, SYNC, ASYNC, ASYNC, SYNC], seed=seed, seconds=300)
