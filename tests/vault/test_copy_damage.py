"""Shared content after power cuts and damage: counts never drift, and fsck puts right what is planted."""

from __future__ import annotations

import os
import random
import stat
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.chain.batch import Batch
from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from atefs.errors import NotFoundError
from atefs.vault import codec
from atefs.vault.check import Kind, Problem, Survey
from atefs.vault.commit import Frozen
from atefs.vault.inode import Attributes, Inode
from atefs.vault.limits import BLOCK, PAGE, REGION_BLOCKS
from atefs.vault.mend import mend
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench
from tests.vault.crash_points import CrashPoint, SmallSegments, faults, opened
from tests.vault.crash_traces import Op, Trace

REGION = BLOCK * REGION_BLOCKS
ALL = 2**40
EXAMPLES = int(os.environ.get("CRASH_COPIES", "12"))
PLACES = (0, 0, 0, BLOCK, 2 * BLOCK, REGION, REGION + BLOCK, 2 * REGION)

digits = st.integers(0, 9)
numbers = count()


# Power cuts


class CopyTrace(Trace):
    """Files of some blocks are copied over each other."""

    def file(self, number: int) -> int:
        """One that is there; a new one with two blocks if there is none of that name."""
        name = b"abc"[number % 3 :][:1]
        try:
            return self.vault.lookup(1, name).ino
        except NotFoundError:
            ino = self.vault.mknod(1, name, stat.S_IFREG | 0o644, 0, ME).ino
            self.vault.write(ino, 0, self.data(2 * BLOCK))
            return ino

    def do_copy(self, a: int, b: int, c: int) -> None:
        """Half of them of whole files."""
        start, place = (0, 0) if c < 5 else (PLACES[c % 8], PLACES[(a + b) % 8])
        self.vault.copy_range(self.file(a), start, self.file(b), place, ALL)

    def do_blocks(self, a: int, b: int, c: int) -> None:
        self.vault.write(self.file(a), PLACES[b % 8], self.data((1 + c % 3) * BLOCK))

    def do_page(self, a: int, b: int, c: int) -> None:
        self.vault.write(self.file(a), PLACES[b % 8] + c * PAGE, self.data(PAGE))

    def do_cut(self, a: int, b: int, c: int) -> None:
        self.vault.setattr(self.file(a), Attributes(size=PLACES[b % 8] + c * PAGE))

    def do_end(self, a: int, _b: int, _c: int) -> None:
        self.vault.unlink(1, b"abc"[a % 3 :][:1])


class TwoHalves(CopyTrace):
    """Commits that are not atomic: two batches, the second of which may be lost."""

    def put(self, frozen: Frozen, batch: Batch) -> None:
        self.chain.abandon(batch)
        changes = sorted(frozen.changes, key=lambda change: change.key)
        self.chain.commit(changes[: len(changes) // 2])
        self.chain.commit(changes[len(changes) // 2 :])


def check_counts(point: CrashPoint) -> None:
    chain = opened(point.folder)
    try:
        problems = [str(problem) for problem in Survey(chain).run()]
    finally:
        chain.close()
    assert not problems, "; ".join(problems)


OPS = ["blocks", "page", "copy", "copy", "copy", "copy", "cut", "end", "end", "reap", "reap", "commit", "fsync",
       "freeze", "settle", "thaw", "checkpoint"]  # fmt: skip
traces = st.lists(st.builds(Op, st.sampled_from(OPS), digits, digits, digits), min_size=15, max_size=50)


@pytest.fixture(scope="module")
def world() -> Iterator[Path]:
    """Where the simulated disks lie: in memory, if there is such a place."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder, SmallSegments():
        yield Path(folder)


@pytest.mark.expect_log("torn tail|manifest is made anew")
@given(traces, st.integers(0, 2**32))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_power_cut_leaves_shared_content_counted_right(world: Path, ops: list[Op], seed: int) -> None:
    trace = CopyTrace(world / f"trace{next(numbers)}", seed, rate=0.2)
    assert faults(trace.run(ops)) == []


@pytest.mark.expect_log("torn tail")
def test_with_commits_that_are_not_atomic_counts_drift(world: Path) -> None:
    """The negative twin: without one batch for both, the checks above find it."""

    def wrong() -> Iterator[str]:
        for seed in range(20):
            chance = random.Random(seed)
            ops = [Op(chance.choice(OPS), *(chance.randrange(10) for _ in range(3))) for _ in range(40)]
            yield from faults(TwoHalves(world / f"trace{next(numbers)}", seed, rate=0.4).run(ops), check_counts)

    assert any(Kind.USERS.value in fault or Kind.LOST_SHARED.value in fault for fault in wrong())


# Damage


class Copies:
    """Two copies of a file of a few blocks in two regions, one with a block of its own; and one with single blocks."""

    def __init__(self, bench: Bench) -> None:
        assert isinstance(bench.chain, Chain)
        self.chain = bench.chain
        self.data = os.urandom(BLOCK) + os.urandom(BLOCK)
        self.first = bench.file(b"first", self.data)
        bench.vault.write(self.first, REGION, self.data)
        self.second, self.third = bench.file(b"second"), bench.file(b"third")
        bench.vault.copy_range(self.first, 0, self.second, 0, ALL)
        bench.vault.copy_range(self.first, 0, self.third, BLOCK, ALL)
        bench.vault.write(self.second, REGION, b"own" * 1000)
        bench.committed()
        layout = self.inode(self.second).layout
        assert layout is not None
        self.number = layout.bases[0].number

    def inode(self, ino: int) -> Inode:
        body = self.chain.load(codec.inode_key(self.chain, ino))
        assert body is not None
        return codec.decode_inode(self.chain, body)

    def put(self, inode: Inode) -> None:
        self.chain.commit([codec.inode_change(self.chain, inode, codec.orphans_group(self.chain))])

    def miscount(self, step: int) -> None:
        content = self.inode(self.number)
        assert content.layout is not None
        content.layout.users = [(low, high, n + step) for low, high, n in content.layout.users or () if n + step > 0]
        self.put(content)

    def end(self, key: bytes, lane: Lane) -> None:
        self.chain.commit([Change(key, lane, b"", tombstone=True)])

    def abandon(self) -> None:
        """All three files are gone, and what they shared says that nobody uses it, and is not listed for the reaper."""
        vault = Vault(self.chain)
        for name in (b"first", b"second", b"third"):
            vault.unlink(1, name)
        while (layout := vault.getattr(self.number).layout) and layout.users:
            vault.reap(1)
        vault.commit()
        row = Term(codec.orphans_group(self.chain), codec.inode_key(self.chain, self.number), None)
        self.chain.commit([codec.superblock_change(self.chain, 0, 200_000, 0)._replace(terms=(row,))])


Plant = Callable[[Copies], None]
PLANTS: dict[str, tuple[Plant, Kind]] = {
    "too many users": (lambda c: c.miscount(1), Kind.USERS),
    "too few users": (lambda c: c.miscount(-1), Kind.USERS),
    "content lost": (lambda c: c.end(codec.inode_key(c.chain, c.number), Lane.META), Kind.LOST_SHARED),
    "map lost": (lambda c: c.end(codec.map_key(c.chain, c.first, 1), Lane.META), Kind.LOST_MAP),
    "block lost": (lambda c: c.end(codec.block_key(c.chain, c.first, 1, 0), Lane.BLOB), Kind.LOST_BLOCK),
    "not listed": (Copies.abandon, Kind.ORPHAN),
}


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Copies]:
    bench = Bench(tmp_path / "store")
    yield Copies(bench)
    bench.close()


def test_copies_are_no_problem(copies: Copies) -> None:
    assert Survey(copies.chain).run() == []


@pytest.mark.parametrize("what", PLANTS)
def test_planted_damage_to_shared_content_is_found_and_mended(copies: Copies, what: str) -> None:
    plant, kind = PLANTS[what]
    plant(copies)
    heard: list[Problem] = []
    assert mend(copies.chain, heard.append) == []
    found = {problem.kind: problem for problem in heard}
    assert kind in found
    vault = Vault(copies.chain)
    if kind in (Kind.USERS, Kind.LOST_MAP):
        assert [vault.read(ino, 0, 2 * BLOCK) for ino in (copies.first, copies.second)] == [copies.data] * 2
    if kind is Kind.LOST_BLOCK:
        assert found[kind].path in (b"/first", b"/second", b"/third")
        assert vault.read(copies.third, BLOCK, 2 * BLOCK) == copies.data[:BLOCK] + bytes(BLOCK)
    if kind is Kind.LOST_SHARED:
        assert vault.read(copies.first, 0, 2 * BLOCK) == bytes(2 * BLOCK)
        assert vault.read(copies.second, REGION, 3000) == b"own" * 1000
    for name in (b"first", b"second", b"third") if kind is not Kind.ORPHAN else ():
        vault.unlink(1, name)
    more = True
    while more:
        more = vault.reap()
        vault.commit()
    assert (copies.chain.object_count(Lane.BLOB), copies.chain.object_count(Lane.META)) == (0, 3)


def test_numbers_that_name_content_are_not_given_out_again(copies: Copies) -> None:
    """Nor after the inodes that had them are gone."""
    vault = Vault(copies.chain)
    vault.unlink(1, b"first")
    vault.unlink(1, b"third")
    more = True
    while more:
        more = vault.reap()
        vault.commit()
    copies.end(codec.superblock_key(copies.chain), Lane.META)
    assert mend(copies.chain, lambda _: None) == []
    survey = Survey(copies.chain)
    survey.run()
    assert survey.superblock is not None
    assert survey.superblock.next_ino > max(node.content for node in survey.nodes.values())
