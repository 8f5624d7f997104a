"""What opening a chain takes does not grow with the chain: neither memory nor what is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from tests.chain.conftest import ROOT
from tests.chain.opened import name

BATCH = 10_000
IN_ONE_SET = 1000
RESIDENT_KIB = 150 << 10
MAY_DIFFER_KIB = 10 << 10
Build = Callable[[int], Path]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes a chain of that many small objects, each in a set, and closes it."""

    def made(objects: int) -> Path:
        store = tmp_path / str(objects)
        chain = Chain.create(store, ROOT)
        for first in range(0, objects, BATCH):
            chain.commit([_change(chain, number) for number in range(first, min(objects, first + BATCH))])
            if chain.checkpoint_due():
                chain.checkpoint()
        chain.close()
        return store

    yield made
    shutil.rmtree(tmp_path)  # pytest would keep what the last runs left


def _change(chain: Chain, number: int) -> Change:
    key = chain.object_key(b"T", name(number))
    term = Term(chain.group_key(b"G", name(number // IN_ONE_SET)), key, name(number))
    return Change(key, Lane.META, name(number), terms=(term,))


def opened(store: Path, crashed: bool = False) -> dict[str, Any]:
    """What opening the chain took a process that did nothing else. crashed: without a view, as if never sealed."""
    if crashed:
        (store / "view.seal").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chain.opened", store], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_opening_takes_the_same_memory_and_reads_whatever_the_length(build: Build) -> None:
    small, large = opened(build(20_000)), opened(build(200_000))
    assert (small["sequence"], large["sequence"]) == (2, 20)
    for found in (small, large):
        assert max(found["resident"], found["used"]) < RESIDENT_KIB
        assert (found["frames"], found["view_reads"], found["opens"]) == (0, 0, 0)
    assert abs(large["resident"] - small["resident"]) < MAY_DIFFER_KIB


def test_a_rebuild_reads_each_frame_once_and_stays_within_the_same_memory(build: Build) -> None:
    found = opened(build(100_000), crashed=True)
    assert found["frames"] == found["sequence"] == 10
    assert found["resident"] < RESIDENT_KIB


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_million_objects_open_within_the_same_memory(build: Build) -> None:
    found = opened(build(1_000_000))
    print(f"opening a chain of 1,000,000 objects took {found['seconds']:.3f} s")
    assert found["sequence"] == 100
    assert max(found["resident"], found["used"]) < RESIDENT_KIB
    assert (found["frames"], found["view_reads"], found["opens"]) == (0, 0, 0)
