"""A power cut under a node that appends and folds: what a client was told is there, and the index agrees with it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import trio

from atedb.chain import log as log_module
from atedb.chain.disk import RealDisk
from atedb.engine.files import FileEngine
from atedb.errors import AteError
from atedb.net.host import Claim
from atedb.node import index as index_module
from atedb.node import leases
from atedb.node.hosts import Hosts
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.engine.frames import Author
from tests.node.chains import PATH
from tests.node.test_index import expected, history, seen


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 8 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 4 << 10)
    monkeypatch.setattr(index_module, "FOLD_ROWS", 6)


def claim(name: str, owner: bytes) -> Claim:
    return Claim(name, owner, 0, 9, True, 0.1)


class Node:
    """A client of a node, and what it was told."""

    def __init__(self) -> None:
        self.author = Author()
        self.frames = history(self.author, 6, 24)
        self.told = 0
        self.token = 0

    async def run(self, disk: FaultyDisk, folder: Path) -> None:
        """Append, fold, take leases."""
        hosts = Hosts(FileEngine(disk, folder / "chains"), folder / "index", disk=disk)
        async with hosts.open(PATH, create=self.author.files) as host:
            for number, frame in enumerate(self.frames, 1):
                await host.append("client", [frame])
                self.told = number
                await host.fold_if_due()
                if number % 8 == 0:
                    self.token = (await host.take_lease("one", claim("lock", b"one"))).token
        await hosts.aclose()

    async def check(self, folder: Path) -> None:
        """What the node has after its restart."""
        hosts = Hosts(FileEngine(RealDisk(), folder / "chains"), folder / "index")
        async with hosts.open(PATH, create=self.author.files) as host:
            found = host.tail.sequence
            assert found >= self.told, f"batch {self.told} was acknowledged, {found} are there"
            assert seen(host.stats()) == expected(self.frames[:found])
            mark, _ = await host._log.document(leases.DOCUMENT)
            assert bool(mark) >= bool(self.token), "a lease was given, and it is not known that there may be some"
            newest = (await host.take_lease("two", claim("other", b"two"), lambda _: None)).token
            assert newest > self.token
            await host.append("client", self.frames[found:] or [self.author.frame(self.author.meta("more"))])
        await hosts.aclose()


def every_cut(tmp_path: Path, *, lies: bool = False) -> list[str]:
    """Cut at every third step; what was found wrong."""
    wrong = []
    step = 2
    while True:
        step += 3
        folder = tmp_path / f"cut{step}"
        world, target = folder / "world", folder / "found"
        world.mkdir(parents=True)
        target.mkdir()
        disk = FaultyDisk(world, cut_at=step, lies=lies)
        node = Node()
        try:
            trio.run(node.run, disk, world)
            break
        except PowerCut:
            pass
        disk.survivors(target, random.Random(step))
        try:
            trio.run(node.check, target)
        except (AteError, AssertionError) as error:
            wrong.append(f"step {step} ({disk.trace[-1]}): {error}")
        shutil.rmtree(folder)
    assert step > 100
    return wrong


@pytest.mark.expect_log("torn tail|manifest is made anew|unforeseen|index of chain|brought up to date")
def test_after_a_power_cut_the_node_has_what_it_acknowledged_and_counts_it_rightly(in_memory: Path) -> None:
    assert every_cut(in_memory) == []


@pytest.mark.expect_log("torn tail|made anew|unforeseen|index of chain|brought up to date")
def test_on_a_disk_that_lies_about_syncs_the_same_test_fails(in_memory: Path) -> None:
    assert every_cut(in_memory, lies=True) != []
