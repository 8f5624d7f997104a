"""Any sequence of operations, commits, failed commits, crashes and restarts gives what the model says."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from atedb.chain.chain import Chain
from atedb.errors import AteError
from atefs.vault.commit import Frozen
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK, INLINE_MAX, REGION_BLOCKS, CacheSizes
from atefs.vault.vault import Vault
from tests.vault.checks import check_nothing_left_over, check_same, patiently
from tests.vault.conftest import ROOT_KEY, reopened
from tests.vault.memory_chain import MemoryChain
from tests.vault.model import Model, Node, Refused

REGION = BLOCK * REGION_BLOCKS
ME = Caller(1000, 100, 0o022)
ANY = (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO)
TINY = CacheSizes(inodes=3, dentries=3, maps=1, content=BLOCK)
EXAMPLES = int(os.environ.get("VAULT_MODEL_EXAMPLES", "200"))

names = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", b"n" * 255])
places = st.sampled_from([0, 0, 1, 100, 4096, INLINE_MAX, 40_000, BLOCK, 2 * BLOCK, REGION, REGION + BLOCK, 3 * REGION,
                          2**40])  # fmt: skip
nudges = st.sampled_from([0, 0, -1, 1, 4096, 12_288, 61_440])
lengths = st.sampled_from([1, 10, 100, 4096, 4096, 5000, INLINE_MAX, 33_000, BLOCK, BLOCK + 5000, 300_000])
picks = st.integers(0, 1000)


class VaultMachine(RuleBasedStateMachine):
    """Over the chain in memory, which answers NotResident to the first load of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.chain = self.new_chain()
        Vault.make(self.chain, self.clock)
        self.model = Model()
        self.model.nodes[1].mtime = self.model.nodes[1].ctime = self.model.nodes[1].atime = self.now
        self.durable = self.model.snapshot()
        self.flight: tuple[Frozen, Any, Model] | None = None
        self.fill = 0
        self.open_vault()

    def clock(self) -> int:
        return self.now

    def new_chain(self) -> Any:
        return MemoryChain()

    def impatient(self) -> AbstractContextManager[None]:
        """Within this, loads raise NotResident where they can."""
        chain: MemoryChain = self.chain
        return chain.nothing_resident()

    def open_vault(self) -> None:
        self.vault = Vault(self.chain, self.clock, caches=TINY)

    # Choosing

    def pick(self, number: int, wanted: str) -> int:
        """Some inode: a directory, a file, or anything."""
        kinds = {"dir": (stat.S_IFDIR,), "file": (stat.S_IFREG,), "any": ANY}
        found = sorted(ino for ino, node in self.model.nodes.items() if stat.S_IFMT(node.mode) in kinds[wanted])
        return found[number % len(found)] if found else 0

    def both(self, operation: Callable[[], Any], modelled: Callable[[Any], None]) -> None:
        """Do it in the vault and in the model: the same outcome."""
        self.now += 1
        outcome, refusal, result = 0, 0, None
        with self.impatient():
            try:
                result = patiently(operation)
            except AteError as error:
                outcome = error.errno
        try:
            modelled(result)
        except Refused as refused:
            refusal = refused.errno
        assert outcome == refusal, (errno.errorcode.get(outcome), errno.errorcode.get(refusal))

    # Names

    @rule(number=picks, name=names, kind=st.sampled_from(["file", "file", "file", "dir", "dir", "link", "fifo"]),
          setgid=st.booleans())  # fmt: skip
    def make(self, number: int, name: bytes, kind: str, setgid: bool) -> None:
        parent = self.pick(number, "dir")
        vault = self.vault

        def modelled(inode: Any) -> None:
            self.model.check_free(parent, name)
            modes = {"file": stat.S_IFREG | 0o644, "dir": stat.S_IFDIR | 0o755 | setgid * stat.S_ISGID,
                     "link": stat.S_IFLNK | 0o777, "fifo": stat.S_IFIFO | 0o600}  # fmt: skip
            node = Node(modes[kind], 1000, 100, target=b"to/" + name if kind == "link" else b"")
            self.model.add(parent, name, inode.ino, node, self.now)

        operations = {
            "file": lambda: vault.mknod(parent, name, stat.S_IFREG | 0o666, 0, ME),
            "dir": lambda: vault.mkdir(parent, name, 0o777 | setgid * stat.S_ISGID, ME),
            "link": lambda: vault.symlink(parent, name, b"to/" + name, ME),
            "fifo": lambda: vault.mknod(parent, name, stat.S_IFIFO | 0o600, 0, ME),
        }
        self.both(operations[kind], modelled)

    @rule(number=picks)
    def tmpfile(self, number: int) -> None:
        parent = self.pick(number, "dir")

        def made() -> Any:
            inode = self.vault.tmpfile(parent, 0o666, ME)
            self.vault.remember(inode.ino)
            return inode

        def modelled(inode: Any) -> None:
            if self.model.nodes[parent].nlink == 0:
                raise Refused(errno.ENOENT)
            self.model.tmpfile(parent, inode.ino, Node(stat.S_IFREG | 0o644, 1000, 100), self.now)

        self.both(made, modelled)

    @rule(number=picks, other=picks, name=names)
    def link_what_has_no_name(self, number: int, other: int, name: bytes) -> None:
        """As `link`, more often of what only an open file keeps."""
        nameless = sorted(ino for ino, node in self.model.nodes.items() if not node.nlink and not node.is_dir)
        if nameless:
            ino, parent = nameless[number % len(nameless)], self.pick(other, "dir")
            self.both(
                lambda: self.vault.link(ino, parent, name), lambda _: self.model.link(ino, parent, name, self.now)
            )

    @rule(number=picks, other=picks, name=names)
    def link(self, number: int, other: int, name: bytes) -> None:
        ino, parent = self.pick(number, "any"), self.pick(other, "dir")
        self.both(lambda: self.vault.link(ino, parent, name), lambda _: self.model.link(ino, parent, name, self.now))

    @rule(number=picks, name=names)
    def unlink(self, number: int, name: bytes) -> None:
        parent = self.pick(number, "dir")
        self.both(lambda: self.vault.unlink(parent, name), lambda _: self.model.unlink(parent, name, self.now))

    @rule(number=picks, name=names)
    def rmdir(self, number: int, name: bytes) -> None:
        parent = self.pick(number, "dir")
        self.both(lambda: self.vault.rmdir(parent, name), lambda _: self.model.rmdir(parent, name, self.now))

    @rule(number=picks, name=names, other=picks, new=names, flags=st.sampled_from([0, 0, 0, 1, 2, 2]))
    def rename(self, number: int, name: bytes, other: int, new: bytes, flags: int) -> None:
        parent, target = self.pick(number, "dir"), self.pick(other, "dir")
        if 0 in (self.model.nodes[parent].nlink, self.model.nodes[target].nlink):
            return
        self.both(
            lambda: self.vault.rename(parent, name, target, new, flags),
            lambda _: self.model.rename(parent, name, target, new, flags=flags, now=self.now),
        )

    # Content and attributes

    @rule(number=picks, place=places, nudge=nudges, length=lengths)
    def write(self, number: int, place: int, nudge: int, length: int) -> None:
        ino = self.pick(number, "file")
        if not ino:
            return
        offset = max(0, place + nudge)
        self.fill = self.fill % 255 + 1
        data = bytes([self.fill]) * length

        def modelled(count: int | None) -> None:
            assert count == length
            node = self.model.nodes[ino]
            node.write(offset, data)
            node.mtime = node.ctime = self.now

        self.both(lambda: self.vault.write(ino, offset, data), modelled)

    @rule(number=picks, block=st.sampled_from([0, 1, REGION_BLOCKS]), pages=st.lists(st.integers(0, 31), max_size=40))
    def write_pages(self, number: int, block: int, pages: list[int]) -> None:
        for page in pages:
            self.write(number, block * BLOCK, page * 4096, 4096)

    @rule(number=picks, block=st.sampled_from([0, 1]), start=st.integers(0, 31), step=st.integers(1, 3))
    def write_scattered_bytes(self, number: int, block: int, start: int, step: int) -> None:
        for index in range(40):
            self.write(number, block * BLOCK, start * 4096 + index * step, 1)

    @rule(number=picks, place=places, nudge=nudges)
    def truncate(self, number: int, place: int, nudge: int) -> None:
        ino = self.pick(number, "file")
        if not ino:
            return
        size = max(0, place + nudge)

        def modelled(_inode: object) -> None:
            node = self.model.nodes[ino]
            node.resize(size)
            node.mtime = node.ctime = self.now

        self.both(lambda: self.vault.setattr(ino, Attributes(size=size)), modelled)

    @rule(number=picks, place=places, nudge=nudges, length=lengths | st.sampled_from([REGION, 3 * REGION, 2**60]))
    def punch(self, number: int, place: int, nudge: int, length: int) -> None:
        ino = self.pick(number, "file")
        if not ino:
            return
        offset = max(0, place + nudge)

        def modelled(_: object) -> None:
            node = self.model.nodes[ino]
            node.punch(offset, length)
            node.mtime = node.ctime = self.now

        self.both(lambda: self.vault.punch_hole(ino, offset, length), modelled)

    @rule(number=picks, place=places, nudge=nudges, length=lengths | st.sampled_from([REGION, 3 * REGION]),
          zero=st.booleans(), keep=st.booleans())  # fmt: skip
    def allocate(self, number: int, place: int, nudge: int, length: int, *, zero: bool, keep: bool) -> None:
        ino = self.pick(number, "file")
        if not ino:
            return
        offset = max(0, place + nudge)

        def modelled(_: object) -> None:
            node = self.model.nodes[ino]
            if zero:
                node.punch(offset, length)
            if not keep:
                node.resize(max(node.size, offset + length))
            node.mtime = node.ctime = self.now

        call = self.vault.zero_range if zero else self.vault.allocate
        self.both(lambda: call(ino, offset, length, keep_size=keep), modelled)

    @rule(number=picks, place=places, nudge=nudges, length=lengths)
    def read(self, number: int, place: int, nudge: int, length: int) -> None:
        ino = self.pick(number, "file")
        if not ino:
            return
        offset = max(0, place + nudge)

        def modelled(data: bytes | None) -> None:
            assert data == self.model.nodes[ino].read(offset, length)

        self.both(lambda: self.vault.read(ino, offset, length), modelled)

    @rule(number=picks, mode=st.integers(0, 0o7777), uid=st.integers(0, 3))
    def chmod_chown(self, number: int, mode: int, uid: int) -> None:
        ino = self.pick(number, "any")

        def modelled(_inode: object) -> None:
            node = self.model.nodes[ino]
            node.mode = stat.S_IFMT(node.mode) | mode
            node.uid, node.ctime, node.atime = uid, self.now, -5

        self.both(lambda: self.vault.setattr(ino, Attributes(mode=mode, uid=uid, atime=-5)), modelled)

    @rule(number=picks, name=st.sampled_from([b"user.a", b"user.b"]), value=st.binary(max_size=5), remove=st.booleans())
    def xattr(self, number: int, name: bytes, value: bytes, remove: bool) -> None:
        ino = self.pick(number, "any")

        def modelled(_: object) -> None:
            node = self.model.nodes[ino]
            if remove and name not in node.xattrs:
                raise Refused(errno.ENODATA)
            node.ctime = self.now
            if remove:
                del node.xattrs[name]
            else:
                node.xattrs[name] = value

        if remove:
            self.both(lambda: self.vault.removexattr(ino, name), modelled)
        else:
            self.both(lambda: self.vault.setxattr(ino, name, value), modelled)

    # The kernel's references

    @rule(number=picks)
    def remember(self, number: int) -> None:
        ino = self.pick(number, "any")
        self.vault.remember(ino, 2)
        self.model.held[ino] = self.model.held.get(ino, 0) + 2

    @rule(number=picks)
    def forget(self, number: int) -> None:
        held = sorted(self.model.held)
        if not held:
            return
        ino = held[number % len(held)]
        self.model.held[ino] -= 1
        if not self.model.held[ino]:
            del self.model.held[ino]
            self.model.let_go(ino)
        with self.impatient():
            patiently(lambda: self.vault.forget(ino, 1))

    # Commits, failures, restarts

    @rule()
    def freeze(self) -> None:
        if self.flight is not None:
            return
        self.evict()
        with self.impatient():
            frozen = self.vault.freeze()
        if frozen is not None:
            assert self.vault.dirty_bytes == 0
            self.flight = (frozen, self.chain.prepare(frozen.changes), self.model.snapshot())

    @rule()
    def settle(self) -> None:
        if self.flight is None:
            return
        frozen, batch, self.durable = self.flight
        self.chain.write(batch)
        self.chain.settle(batch)
        self.vault.settled(frozen)
        self.flight = None

    @rule()
    def thaw(self) -> None:
        if self.flight is None:
            return
        frozen, batch, _ = self.flight
        self.chain.abandon(batch)
        self.vault.thaw(frozen)
        self.flight = None

    @rule(max_events=st.sampled_from([1, 10, 1000]))
    def reap(self, max_events: int) -> None:
        with self.impatient():
            patiently(lambda: self.vault.reap(max_events))

    @rule()
    def evict(self) -> None:
        if isinstance(self.chain, MemoryChain):
            self.chain.evict()

    @rule()
    def crash(self) -> None:
        if self.flight is not None:
            self.chain.abandon(self.flight[1])
            self.flight = None
        self.model = self.durable.snapshot()
        self.open_vault()

    @rule()
    def settle_all_and_reap(self) -> None:
        self.settle()
        for _ in range(1000):
            more = self.vault.reap(50)
            self.vault.commit()
            if not more:
                break
        self.durable = self.model.snapshot()
        check_same(self.vault, self.model)
        if isinstance(self.chain, MemoryChain) and all(node.nlink for node in self.model.nodes.values()):
            check_nothing_left_over(self.vault, self.chain, self.model)

    @rule()
    def compare(self) -> None:
        check_same(self.vault, self.model)

    def teardown(self) -> None:
        check_same(self.vault, self.model)
        self.settle()
        self.vault.commit()
        self.durable = self.model.snapshot()
        self.crash()
        check_same(self.vault, self.model)
        self.settle_all_and_reap()


class RealVaultMachine(VaultMachine):
    """Over a real chain, with its view rebuilt from the log after some of the crashes."""

    def new_chain(self) -> Any:
        self.folder = Path(tempfile.mkdtemp(prefix="vault-model-"))
        return Chain.create(self.folder / "store", ROOT_KEY)

    def impatient(self) -> AbstractContextManager[None]:
        chain: Chain = self.chain
        return chain.nonblocking()

    def open_vault(self) -> None:
        if self.vault_opened:
            self.chain = reopened(self.chain, self.folder / "store", rebuild=self.now % 2 == 0)
        self.vault_opened = True
        super().open_vault()

    vault_opened = False

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.chain.close()
            shutil.rmtree(self.folder)


TestVault = VaultMachine.TestCase
TestVault.settings = settings(max_examples=EXAMPLES, stateful_step_count=80, deadline=None)
TestRealVault = RealVaultMachine.TestCase
TestRealVault.settings = settings(max_examples=max(1, EXAMPLES // 10), stateful_step_count=40, deadline=None)


class ForgetfulVault(Vault):
    """The negative twin: what a failed commit held is taken for written."""

    def thaw(self, frozen: Frozen) -> None:
        self.settled(frozen)


def test_the_model_notices_a_vault_that_forgets_a_failed_commit() -> None:
    machine = VaultMachine()
    machine.vault = ForgetfulVault(machine.chain, machine.clock, caches=TINY)
    machine.make(0, b"a", "file", False)
    machine.freeze()
    machine.thaw()
    with pytest.raises(AssertionError):
        machine.compare()
