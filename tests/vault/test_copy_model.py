"""Any sequence of copies, writes, cuts, commits and crashes gives what the model says, and counts every user right."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.errors import NotResident
from atefs.errors import InvalidError
from atefs.vault import codec
from atefs.vault.check import Survey
from atefs.vault.commit import Frozen
from atefs.vault.inode import Attributes, Inode
from atefs.vault.limits import BLOCK, INLINE_MAX, PAGE, REGION_BLOCKS, CacheSizes
from atefs.vault.shared import lenders
from atefs.vault.vault import Vault
from tests.vault.checks import counted_blocks, patiently
from tests.vault.conftest import ME, ROOT_KEY, reopened
from tests.vault.memory_chain import MemoryChain
from tests.vault.model import Node

REGION = BLOCK * REGION_BLOCKS
ALL = 2**40
TINY = CacheSizes(inodes=3, dentries=3, maps=1, content=BLOCK)
EXAMPLES = int(os.environ.get("VAULT_COPY_EXAMPLES", "150"))


def copied(source: Node, source_offset: int, target: Node, target_offset: int, length: int) -> None:
    """What `length` bytes, all inside the source, do to the target."""
    pieces = [(page * PAGE, data) for page, data in source.pages.items()]
    target.size = max(target.size, target_offset + length)
    target.punch(target_offset, length)
    for at, data in pieces:
        low, high = max(at, source_offset), min(at + PAGE, source_offset + length)
        if low < high:
            target.write(low - source_offset + target_offset, data[low - at : high - at])


def check_users(chain: MemoryChain) -> None:
    """Every region of shared content counts just those who use it; and the set of orphans follows from the inodes."""
    uses: Counter[tuple[int, int]] = Counter()
    contents: dict[int, Inode] = {}
    for _, body in chain.objects.values():
        if body[:1] == codec.MAP:
            uses.update(lenders(codec.decode_map(body)))
        elif body[:1] == codec.INODE:
            inode = codec.decode_inode(chain, body)
            if inode.layout is not None:
                uses.update(lenders(inode.layout.first))
                for base in inode.layout.bases + inode.layout.cut:
                    uses.update((base.number, base.origin + step) for step in range(base.length))
                if inode.layout.users is not None:
                    contents[inode.ino] = inode
    counts: Counter[tuple[int, int]] = Counter()
    for ino, inode in contents.items():
        assert inode.layout is not None
        for low, high, count in inode.layout.users or ():
            counts.update({(ino, region): count for region in range(low, high)})
    assert counts == uses
    assert chain.sets == chain.replayed_sets()


picks = st.integers(0, 2)
places = st.sampled_from([0, 0, 0, BLOCK, REGION - BLOCK, REGION, REGION + BLOCK, 2 * REGION, 3 * REGION + 7 * BLOCK])
nudges = st.sampled_from([0, 0, 0, 0, 1, 100, PAGE, -1])
lengths = st.sampled_from([1, 100, PAGE, INLINE_MAX, 40_000, BLOCK, BLOCK + 5000])
spans = st.sampled_from([100, BLOCK, BLOCK, 3 * BLOCK, 3 * BLOCK + 77, REGION, REGION + 9 * BLOCK, 2 * REGION,
                         ALL, ALL])  # fmt: skip


class CopyMachine(RuleBasedStateMachine):
    """Over the chain in memory, which answers NotResident to the first load of everything in each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.fill = 0
        self.chain: Any = self.new_chain()
        Vault.make(self.chain, self.clock)
        self.files: dict[bytes, tuple[int, Node]] = {}
        self.durable: dict[bytes, tuple[int, Node]] = {}
        self.flight: tuple[Frozen, Any, dict[bytes, tuple[int, Node]]] | None = None
        self.vault = Vault(self.chain, self.clock, caches=TINY)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def new_chain(self) -> Any:
        return MemoryChain()

    def impatient(self) -> AbstractContextManager[None]:
        """Within this, loads raise NotResident where they can, each at first."""
        chain: MemoryChain = self.chain
        chain.evict()
        return chain.nothing_resident()

    def check(self) -> None:
        """With everything committed, all that is stored fits together."""
        check_users(self.chain)

    def do(self, operation: Callable[[], Any], whole: bool = True) -> Any:
        """whole: what is not resident leaves it undone, and not half done."""

        def attempt() -> Any:
            before = self.vault.dirty_bytes, self.vault.dirty_objects
            try:
                return operation()
            except NotResident:
                assert not whole or (self.vault.dirty_bytes, self.vault.dirty_objects) == before
                raise

        with self.impatient():
            return patiently(attempt)

    def pick(self, number: int) -> tuple[int, Node]:
        name = b"%d" % number
        if name not in self.files:
            ino = self.do(lambda: self.vault.mknod(1, name, stat.S_IFREG | 0o644, 0, ME)).ino
            self.files[name] = ino, Node(stat.S_IFREG)
            self.write(number, 0, 0, 2 * BLOCK)
            self.write(number, REGION - BLOCK, 0, BLOCK + 5000)
        return self.files[name]

    def snapshot(self) -> dict[bytes, tuple[int, Node]]:
        kept = {}
        for name, (ino, node) in self.files.items():
            kept[name] = ino, Node(node.mode, size=node.size, pages=dict(node.pages))
        return kept

    @rule(number=picks, place=places, nudge=nudges, length=lengths)
    def write(self, number: int, place: int, nudge: int, length: int) -> None:
        ino, node = self.pick(number)
        self.fill = self.fill % 255 + 1
        offset, data = max(0, place + nudge), bytes([self.fill]) * length
        self.do(lambda: self.vault.write(ino, offset, data))
        node.write(offset, data)

    @rule(number=picks, place=places, nudge=nudges)
    def truncate(self, number: int, place: int, nudge: int) -> None:
        ino, node = self.pick(number)
        size = max(0, place + nudge)
        self.do(lambda: self.vault.setattr(ino, Attributes(size=size)))
        node.resize(size)

    @rule(number=picks, place=places, nudge=nudges, length=spans)
    def punch(self, number: int, place: int, nudge: int, length: int) -> None:
        ino, node = self.pick(number)
        offset = max(0, place + nudge)
        self.do(lambda: self.vault.punch_hole(ino, offset, length))
        node.punch(offset, length)

    @rule(source=picks, goal=picks, start=places, place=places, nudge=nudges, other=nudges, length=spans,
          apart=st.booleans())  # fmt: skip
    def copy(
        self, source: int, goal: int, start: int, place: int, *, nudge: int, other: int, length: int, apart: bool
    ) -> None:
        (source_ino, source_node), (target_ino, target_node) = self.pick(source), self.pick(goal)
        low, high = max(0, start + nudge), max(0, place + (other if apart else nudge))
        try:
            count = self.do(lambda: self.vault.copy_range(source_ino, low, target_ino, high, length))
        except InvalidError:
            assert source == goal
            assert abs(low - high) < min(length, source_node.size - low)
            return
        assert 0 <= count <= max(0, min(length, source_node.size - low))
        assert count or low >= source_node.size
        if count:
            copied(source_node, low, target_node, high, count)

    @rule(source=picks, goal=picks)
    def clone(self, source: int, goal: int) -> None:
        if source != goal:
            self.truncate(goal, 0, 0)
            (source_ino, source_node), (target_ino, target_node) = self.pick(source), self.pick(goal)
            at = 0
            while count := self.do(lambda: self.vault.copy_range(source_ino, at, target_ino, at, ALL)):  # noqa: B023
                copied(source_node, at, target_node, at, count)
                at += count
            assert at == source_node.size

    @rule(number=picks)
    def unlink(self, number: int) -> None:
        if self.files.pop(b"%d" % number, None) is not None:
            self.do(lambda: self.vault.unlink(1, b"%d" % number))

    @rule(events=st.sampled_from([1, 5, 1000]))
    def reap(self, events: int) -> None:
        self.do(lambda: self.vault.reap(events), whole=False)

    @rule()
    def freeze(self) -> None:
        if self.flight is None:
            frozen = self.vault.freeze()
            if frozen is not None:
                self.flight = frozen, self.chain.prepare(frozen.changes), self.snapshot()

    @rule(fails=st.booleans())
    def settle(self, fails: bool) -> None:
        if self.flight is None:
            self.freeze()
        if self.flight is not None:
            frozen, batch, state = self.flight
            self.flight = None
            if fails:
                self.chain.abandon(batch)
                self.vault.thaw(frozen)
                return
            self.chain.write(batch)
            self.chain.settle(batch)
            self.vault.settled(frozen)
            self.durable = state
            self.check()

    @rule()
    def crash(self) -> None:
        if self.flight is not None:
            self.chain.abandon(self.flight[1])
            self.flight = None
        self.files = self.durable
        self.files = self.durable = self.snapshot()
        self.files = self.snapshot()
        self.vault = Vault(self.chain, self.clock, caches=TINY)

    @invariant()
    def same(self) -> None:
        for ino, node in self.files.values():
            inode = patiently(lambda ino=ino: self.vault.getattr(ino))  # type: ignore[misc]
            assert inode.size == node.size
            around = {page + step for page in node.pages for step in (-1, 0, 1) if page + step >= 0}
            for first in sorted({page // 32 for page in around | {0, node.size // PAGE}}):
                seen = patiently(lambda ino=ino, first=first: self.vault.read(ino, first * BLOCK, BLOCK))  # type: ignore[misc]
                assert seen == node.read(first * BLOCK, BLOCK), (ino, first)
            assert inode.blocks == patiently(lambda inode=inode: counted_blocks(self.vault, inode))  # type: ignore[misc]

    def teardown(self) -> None:
        self.settle(False)
        self.settle(False)
        for name in list(self.files):
            self.do(lambda name=name: self.vault.unlink(1, name))  # type: ignore[misc]
        more = True
        while more:
            more = self.do(lambda: self.vault.reap(10), whole=False)
            self.vault.commit()
            self.check()
        numbers = self.chain.exists(codec.numbers_key(self.chain, self.chain.device))
        assert (self.chain.object_count(Lane.META), self.chain.object_count(Lane.BLOB)) == (2 + numbers, 0)
        assert self.vault.dirty_bytes == 0


class RealCopyMachine(CopyMachine):
    """Over a real chain, opened again after each crash, with its view rebuilt from the log after some; with fsck."""

    def new_chain(self) -> Any:
        self.folder = Path(tempfile.mkdtemp(prefix="vault-copies-"))
        return Chain.create(self.folder / "store", ROOT_KEY)

    def impatient(self) -> AbstractContextManager[None]:
        chain: Chain = self.chain
        return chain.nonblocking()

    def check(self) -> None:
        assert Survey(self.chain).run() == []

    @rule()
    def crash(self) -> None:
        super().crash()
        self.chain = reopened(self.chain, self.folder / "store", rebuild=self.now % 2 == 0)
        self.vault = Vault(self.chain, self.clock, caches=TINY)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.chain.close()
            shutil.rmtree(self.folder)


TestCopies = CopyMachine.TestCase
TestCopies.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
TestCopiesInARealChain = RealCopyMachine.TestCase
TestCopiesInARealChain.settings = settings(max_examples=EXAMPLES // 10, stateful_step_count=30, deadline=None)
