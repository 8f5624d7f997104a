"""Copies between files share what they can: cheap, independent of each other, and gone when the last one is."""

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

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.errors import NoSpaceError, NotResident
from atefs.errors import FileTooBigError, InvalidError, IsDirectoryError, QuotaError
from atefs.vault import codec
from atefs.vault.check import Survey
from atefs.vault.commit import Frozen
from atefs.vault.inode import Attributes, Caller, Inode
from atefs.vault.limits import BLOCK, FILE_MAX, INLINE_MAX, PAGE, REGION_BLOCKS, CacheSizes
from atefs.vault.shared import lenders
from atefs.vault.vault import Vault
from tests.vault.checks import counted_blocks, patiently
from tests.vault.conftest import ME, ROOT_KEY, Bench, reopened, tally
from tests.vault.memory_chain import MemoryChain
from tests.vault.model import Node

REGION = BLOCK * REGION_BLOCKS
ALL = 2**40
TINY = CacheSizes(inodes=3, dentries=3, maps=1, content=BLOCK)
EXAMPLES = int(os.environ.get("VAULT_COPY_EXAMPLES", "150"))


def copy_all(vault: Vault, source: int, target: int, *, source_offset: int = 0, target_offset: int = 0) -> int:
    """As cp does it: until nothing is left; how many calls that took."""
    calls = 0
    while copied := vault.copy_range(source, source_offset, target, target_offset, ALL):
        source_offset, target_offset, calls = source_offset + copied, target_offset + copied, calls + 1
    return calls


# The model


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


FILES = tuple(b"abcd")
picks = st.integers(0, 3)
places = st.sampled_from([0, 0, 0, BLOCK, 2 * BLOCK, 5 * BLOCK, REGION - BLOCK, REGION, REGION + BLOCK, 2 * REGION,
                          3 * REGION + 7 * BLOCK])  # fmt: skip
nudges = st.sampled_from([0, 0, 0, 0, 1, 100, PAGE, -1])
lengths = st.sampled_from([1, 100, PAGE, INLINE_MAX, 40_000, BLOCK, BLOCK + 5000, 300_000])
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
        assert (self.chain.object_count(Lane.META), self.chain.object_count(Lane.BLOB)) == (2, 0)
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


# Examples


def clone(bench: Bench, source: int, name: bytes = b"g") -> int:
    """A new file that is a copy of another, in one call."""
    target = bench.file(name)
    size = bench.vault.getattr(source).size
    assert bench.vault.copy_range(source, 0, target, 0, ALL) == size
    return target


def big_file(bench: Bench, regions: int) -> int:
    """A file of whole regions of which every block is there, committed."""
    file = bench.file()
    data = bytes(BLOCK)
    for offset in range(0, regions * REGION, BLOCK):
        bench.vault.write(file, offset, data)
        if not offset % REGION:
            bench.committed()
    bench.committed()
    return file


def test_a_clone_of_a_gibibyte_is_three_small_objects_and_loads_nothing(quick: Bench) -> None:
    file = big_file(quick, 128)
    target = quick.file(b"g")
    quick.committed()
    before = quick.chain.loads  # type: ignore[union-attr]
    assert quick.vault.copy_range(file, 0, target, 0, ALL) == 2**30
    assert quick.chain.loads == before  # type: ignore[union-attr]
    changes = quick.committed()
    # The inodes of both files and of what they share.
    assert tally(changes) == {"meta": 3}
    assert sum(len(change.body) for change in changes) < 1000
    assert quick.vault.getattr(target).blocks == quick.vault.getattr(file).blocks == 2**30 // 512
    quick.vault.copy_range(file, 0, quick.file(b"h"), 0, ALL)
    # The new file, its name, the directory, and what is shared: nothing about the source has changed.
    assert tally(quick.committed()) == {"meta": 4}


def test_a_gibibyte_copied_into_the_middle_of_a_file_reads_maps_and_no_block(quick: Bench) -> None:
    file = big_file(quick, 128)
    target = quick.file(b"g", b"x" * BLOCK)
    quick.committed()
    vault = quick.reopen()
    vault.getattr(file), vault.getattr(target)
    before = quick.chain.loads  # type: ignore[union-attr]
    assert vault.copy_range(file, 0, target, 5 * REGION, ALL) == 2**30
    assert quick.chain.loads - before == 127  # type: ignore[union-attr]
    assert tally(quick.committed()) == {"meta": 4}  # and the superblock, which gives out new numbers after an opening
    assert vault.getattr(target).blocks == (2**30 + BLOCK) // 512


def test_blocks_that_lie_otherwise_in_their_regions_cost_a_map_for_each_region(quick: Bench) -> None:
    file = big_file(quick, 5)
    target = quick.file(b"g")
    quick.committed()
    assert copy_all(quick.vault, file, target, target_offset=3 * BLOCK) == 1
    assert tally(quick.committed()) == {"meta": 3 + 5}
    assert copy_all(quick.vault, file, target, target_offset=200 * REGION + BLOCK) == 1


@pytest.mark.parametrize("committed", [False, True])
def test_a_copy_and_its_source_go_their_own_ways(bench: Bench, committed: bool) -> None:
    data = os.urandom(3 * BLOCK + 5000)
    file = bench.file(data=data)
    if committed:
        bench.committed()
    target = clone(bench, file)
    bench.vault.write(file, BLOCK + 5, b"source")
    bench.vault.write(target, 2 * BLOCK, b"target" * BLOCK)
    bench.vault.setattr(file, Attributes(size=2 * BLOCK + 7))
    source, other = bytearray(data[: 2 * BLOCK + 7]), bytearray(data)
    source[BLOCK + 5 : BLOCK + 11] = b"source"
    other[2 * BLOCK :] = b"target" * BLOCK
    for _ in range(3):
        assert bench.vault.read(file, 0, ALL) == source
        assert bench.vault.read(target, 0, ALL) == other
        bench.committed()
        bench.reopen(rebuild=True)
    bench.vault.unlink(1, b"f")
    bench.settle_down()
    assert bench.vault.read(target, 0, ALL) == other
    bench.vault.unlink(1, b"g")
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 2)


def test_a_page_written_to_a_shared_block_makes_that_block_own_and_no_other(bench: Bench) -> None:
    file = bench.file(data=os.urandom(9 * BLOCK))
    target = clone(bench, file)
    bench.committed()
    bench.vault.write(target, 4 * BLOCK, b"x" * PAGE)
    assert tally(bench.committed()) == {"meta": 2, "blob": 1}
    bench.vault.write(target, 4 * BLOCK + PAGE, b"y" * PAGE)
    changes = bench.committed()
    assert tally(changes) == {"meta": 1, "blob": 1}
    assert [len(change.body) for change in changes if change.lane is Lane.BLOB] == [PAGE]


def test_what_the_last_copy_overwrites_is_deleted(bench: Bench) -> None:
    file = bench.file(data=os.urandom(2 * BLOCK))
    bench.vault.write(file, REGION, os.urandom(3 * BLOCK))
    target = clone(bench, file)
    bench.committed()
    bench.vault.unlink(1, b"f")
    bench.settle_down()
    for block in range(3):
        bench.vault.write(target, REGION + block * BLOCK, bytes(BLOCK))
    bench.settle_down()
    assert bench.chain.object_count(Lane.BLOB) == 5
    bench.vault.punch_hole(target, 0, ALL)
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.vault.getattr(target).blocks) == (0, 0)
    assert bench.chain.object_count(Lane.META) == 4


def test_a_clone_of_a_clone_reads_as_directly_as_the_first(quick: Bench) -> None:
    file = quick.file(data=os.urandom(70 * BLOCK))
    for generation in range(20):
        quick.vault.write(file, 65 * BLOCK, b"%d" % generation)
        clone(quick, file, b"clone %d" % generation)
        quick.committed()
    vault = quick.reopen()
    last = vault.lookup(1, b"clone 19").ino
    before = quick.chain.loads  # type: ignore[union-attr]
    assert vault.read(last, 64 * BLOCK, 2) == vault.read(file, 64 * BLOCK, 2)
    # The map of the content that has the region, the content that has the block, and the block; then another inode.
    assert quick.chain.loads - before <= 7  # type: ignore[union-attr]
    assert vault.read(last, 65 * BLOCK, 2) == b"19"


def test_what_does_not_lie_alike_goes_through_memory_in_bounded_pieces(bench: Bench) -> None:
    data = os.urandom(3 * 2**20)
    file, target = bench.file(data=data), bench.file(b"g")
    assert bench.vault.copy_range(file, 1, target, 0, ALL) == 2**20
    assert copy_all(bench.vault, file, target, source_offset=1) == 3
    assert bench.vault.read(target, 0, ALL) == data[1:]


def test_an_unaligned_beginning_is_copied_so_that_the_rest_can_be_shared(quick: Bench) -> None:
    data = os.urandom(5 * BLOCK)
    file, target = quick.file(data=data), quick.file(b"g", b"kept" * 10)
    quick.committed()
    assert quick.vault.copy_range(file, 100, target, BLOCK + 100, ALL) == BLOCK - 100
    assert quick.vault.copy_range(file, BLOCK, target, 2 * BLOCK, ALL) == 4 * BLOCK
    assert tally(quick.committed()) == {"meta": 3, "blob": 2}
    assert quick.vault.read(target, 0, ALL) == b"kept" * 10 + bytes(BLOCK + 60) + data[100:]


def test_small_files_are_copied(bench: Bench) -> None:
    file, target = bench.file(data=b"small"), bench.file(b"g", b"longer content")
    assert bench.vault.copy_range(file, 1, target, 2, 3) == 3
    assert bench.vault.read(target, 0, 100) == b"lomalr content"
    assert bench.vault.copy_range(file, 5, target, 0, 3) == 0
    assert bench.vault.copy_range(file, 99, target, 0, 3) == 0


def test_a_range_is_copied_within_a_file(bench: Bench) -> None:
    data = os.urandom(6 * BLOCK)
    file = bench.file(data=data)
    assert bench.vault.copy_range(file, 0, file, 3 * BLOCK, 2 * BLOCK) == 2 * BLOCK
    assert bench.vault.read(file, 0, ALL) == data[: 3 * BLOCK] + data[: 2 * BLOCK] + data[5 * BLOCK :]
    for offset, length in ((0, 1), (5, 6), (BLOCK, 4 * BLOCK)):
        with pytest.raises(InvalidError):
            bench.vault.copy_range(file, 0, file, offset, length)
    assert bench.vault.copy_range(file, 5 * BLOCK, file, 6 * BLOCK, ALL) == BLOCK  # the end of the file comes first
    assert bench.vault.copy_range(file, 0, file, 0, 0) == 0


def test_a_copy_stamps_the_target_and_takes_its_set_id_bits(bench: Bench) -> None:
    for number, data in enumerate((b"small", os.urandom(2 * BLOCK))):
        file, target = bench.file(b"f%d" % number, data), bench.file(b"g%d" % number)
        bench.vault.setattr(target, Attributes(mode=0o6777))
        source = bench.vault.getattr(file).mtime
        bench.vault.copy_range(file, 0, target, 0, ALL)
        inode = bench.vault.getattr(target)
        assert (inode.mtime, inode.ctime, inode.mode & 0o7777) == (bench.now, bench.now, 0o6777)
        bench.vault.copy_range(file, 0, target, 0, ALL, caller=Caller(1000, 1000))
        assert (bench.vault.getattr(target).mode & 0o7777, bench.vault.getattr(file).mtime) == (0o777, source)


def test_what_cannot_be_copied_is_refused_and_changes_nothing(bench: Bench) -> None:
    file, folder = bench.file(data=os.urandom(2 * BLOCK)), bench.folder()
    link = bench.vault.symlink(1, b"l", b"to", ME).ino
    bench.committed()
    for source, target, refusal in (
        (folder, file, IsDirectoryError), (file, folder, IsDirectoryError), (link, file, InvalidError),
        (file, link, InvalidError),
    ):  # fmt: skip
        with pytest.raises(refusal):
            bench.vault.copy_range(source, 0, target, 0, 10)
    other = bench.file(b"g")
    bench.committed()
    for offsets in ((-1, 0, 1), (0, -1, 1), (0, 0, -1)):
        with pytest.raises(InvalidError):
            bench.vault.copy_range(file, offsets[0], other, *offsets[1:])
    with pytest.raises(FileTooBigError):
        bench.vault.copy_range(file, 0, other, FILE_MAX, 10)
    assert bench.committed() == []


def test_a_copy_needs_room_for_what_it_shares_only(quick: Bench) -> None:
    file = quick.file(data=os.urandom(40 * BLOCK))
    small = quick.file(b"s", os.urandom(BLOCK))
    target, other = quick.file(b"g"), quick.file(b"h")
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + BLOCK // 2  # type: ignore[union-attr]
    assert quick.vault.copy_range(file, 0, target, 0, ALL) == 40 * BLOCK
    quick.committed()
    with pytest.raises(NoSpaceError):
        quick.vault.copy_range(small, 1, other, 0, ALL)
    quick.chain.capacity = 1 << 40  # type: ignore[union-attr]
    quick.vault.set_quota(quick.chain.live_bytes + 1000)
    with pytest.raises(QuotaError):
        quick.vault.copy_range(file, 0, other, 0, ALL)
    assert tally(quick.committed()) == {"meta": 1}


def test_a_write_that_has_to_copy_a_shared_block_needs_room_for_it(quick: Bench) -> None:
    file = quick.file(data=os.urandom(3 * BLOCK))
    target = clone(quick, file)
    quick.committed()
    quick.chain.capacity = quick.chain.stored_bytes + BLOCK // 2  # type: ignore[union-attr]
    with pytest.raises(NoSpaceError):
        quick.vault.write(target, 5, b"few bytes")
    assert quick.committed() == []
    quick.vault.unlink(1, b"g")
    quick.settle_down()


def test_a_file_whose_old_content_waits_to_be_deleted_is_copied_nevertheless(bench: Bench) -> None:
    file = bench.file()
    for region in range(4):
        bench.vault.write(file, region * REGION, os.urandom(BLOCK))
    bench.committed()
    bench.vault.setattr(file, Attributes(size=REGION + BLOCK))
    target = bench.file(b"g")
    copy_all(bench.vault, file, target)
    bench.settle_down()
    assert bench.vault.read(target, 0, ALL) == bench.vault.read(file, 0, ALL)


def test_deleting_a_clone_of_a_big_file_is_one_step_until_it_is_the_last(bench: Bench) -> None:
    file = bench.file()
    for region in range(20):
        bench.vault.write(file, region * REGION, b"x" * 10_000)
    clone(bench, file)
    bench.committed()
    bench.vault.unlink(1, b"g")
    bench.committed()
    bench.vault.reap(10)
    assert tally(bench.committed()) == {"meta": 1, "-meta": 1}
    assert not bench.vault.reap(10)
    bench.vault.unlink(1, b"f")
    sizes, more = [len(bench.committed())], True
    while more:
        more = bench.vault.reap(10)
        sizes.append(len(bench.committed()))
    assert max(sizes) <= 10 + 5
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 2)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_crash_while_the_last_copy_is_deleted_is_finished_after_the_next_opening(bench: Bench, steps: int) -> None:
    file = bench.file()
    for region in range(6):
        bench.vault.write(file, region * REGION, b"x" * 10_000)
    clone(bench, file)
    bench.committed()
    for name in (b"f", b"g"):
        bench.vault.unlink(1, name)
        bench.committed()
    for _ in range(steps):
        bench.vault.reap(4)
        bench.committed()
    bench.vault.reap(4)  # and this step is lost
    bench.reopen(rebuild=True)
    bench.settle_down()
    assert (bench.chain.object_count(Lane.BLOB), bench.chain.object_count(Lane.META)) == (0, 2)
