"""Traces of a whole vault over a disk that loses power: run once, and kept at its crash points."""

from __future__ import annotations

import random
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from atedb.chain.batch import Batch
from atedb.chain.chain import Chain
from atedb.chain.view import Checkpoint
from atedb.errors import AteError
from atefs.vault.commit import Frozen
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, INLINE_MAX, PAGE, REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, ROOT_KEY
from tests.vault.crash_points import CrashDisk, CrashPoint, State, state_of, tear

T = TypeVar("T")
REGION = BLOCK * REGION_BLOCKS
NAMES = (b"a", b"b", b"c", b"d")
OFFSETS = (0, 0, 100, PAGE, INLINE_MAX - 10, BLOCK - 10, BLOCK, 3 * BLOCK + 5000, REGION + 100, 2 * REGION)
LENGTHS = (1, 100, 3000, PAGE, PAGE, INLINE_MAX, 9000, 40_000, BLOCK, BLOCK + 5000)


class Op(NamedTuple):
    """One step of a trace. a, b, c: 0 to 9, whatever the operation makes of them."""

    name: str
    a: int
    b: int
    c: int


class Trace:
    """A vault on a disk, what is done to it, and the states that a crash may bring back.

    states: those at each commit, oldest first; promised: the index of the newest that is known to be durable.
    rate: the share of the disk's steps that become crash points; `points` are found in `folder`. told: how much of its
    work a program that runs on the vault takes for durable; whatever it counts in.
    """

    def __init__(self, folder: Path, seed: int, *, rate: float, lies: bool = False) -> None:
        self.folder = folder
        self.world = folder / "world"
        self.world.mkdir(parents=True)
        self.now = 10**9
        self.states: list[State] = []
        self.promised = 0
        self.told = 0
        self.points: list[CrashPoint] = []
        self._chance = random.Random(seed)
        self._rate = rate
        self._written = 0
        self._flight: tuple[Frozen, Batch] | None = None
        self._checkpoint: Checkpoint | None = None
        self._folding: bytes | None = None
        self._folders, self._files = [1], [1]
        self.disk = CrashDisk(self.world)
        self.chain = Chain.create(self.world / "store", ROOT_KEY, disk=self.disk, heads=self.world / "heads")
        self.vault = Vault.make(self.chain, self.clock)
        self.chain.barrier()
        self.states.append(state_of(self.vault))
        self.disk.lies = lies
        self.disk.before = self._before

    def clock(self) -> int:
        self.now += 1
        return self.now

    def _before(self, what: str) -> None:
        if self._chance.random() < self._rate:
            target = self.folder / f"point{len(self.points)}"
            target.mkdir()
            self.disk.survivors(target, self._chance)
            if self._folding is not None and what == "create":
                tear(target / "store/view/data.mdb", self._folding, self._chance)
            name = f"before step {self.disk.steps + 1} ({what}) after {self.disk.trace[-3:]}"
            self.points.append(CrashPoint(name, target, self.states[self.promised :], self.told))

    def run(self, ops: Sequence[Op]) -> list[CrashPoint]:
        """Do it all; what the vault refuses is left out. Then let go as a crash would."""
        try:
            for op in ops:
                with suppress(AteError):
                    getattr(self, "do_" + op.name)(op.a, op.b, op.c)
            self._before("the end")
            return self.points
        finally:
            self.disk.before = None
            self.chain._release()

    # Commits

    def commit(self) -> None:
        """All that is dirty, without a barrier."""
        self.do_settle(0, 0, 0)
        self.do_freeze(0, 0, 0)
        self.do_settle(0, 0, 0)

    def fsync(self) -> None:
        """All that is dirty, and a barrier."""
        self.commit()
        self.do_barrier(0, 0, 0)

    def put(self, frozen: Frozen, batch: Batch) -> None:
        """One batch into the log."""
        self.chain.write(batch)
        self.chain.settle(batch)

    def do_commit(self, _a: int, _b: int, _c: int) -> None:
        self.commit()

    def do_fsync(self, _a: int, _b: int, _c: int) -> None:
        self.fsync()

    def do_freeze(self, _a: int, _b: int, _c: int) -> None:
        """The first half of a commit: what follows is not in it."""
        if self._flight is None:
            state = state_of(self.vault)
            frozen = self.vault.freeze()
            if frozen is not None:
                self.states.append(state)
                self._flight = frozen, self.chain.prepare(frozen.changes)

    def do_settle(self, _a: int, _b: int, _c: int) -> None:
        """The second half of a commit."""
        if self._flight is not None:
            frozen, batch = self._flight
            self.put(frozen, batch)
            self.vault.settled(frozen)
            self._written = len(self.states) - 1
            self._flight = None

    def do_thaw(self, _a: int, _b: int, _c: int) -> None:
        """A commit that could not be written: it goes out with the next."""
        if self._flight is not None:
            frozen, batch = self._flight
            self.chain.abandon(batch)
            self.vault.thaw(frozen)
            self.states.pop()
            self._flight = None

    def do_barrier(self, _a: int, _b: int, _c: int) -> None:
        written = self._written
        self.chain.barrier()
        self.promised = max(self.promised, written)

    def do_promise(self, _a: int, _b: int, _c: int) -> None:
        """As an fsync that waits for no commit; only one where the last one is durable."""
        if self._flight is not None:
            return
        state = state_of(self.vault)
        frozen = self.vault.freeze()
        if frozen is None:
            return
        self.states.append(state)
        if frozen.loose and not self.chain.promise(frozen.loose):
            self.vault.thaw(frozen)
            self.states.pop()
            return
        self.vault.promised(frozen)
        self.promised = len(self.states) - 1

    def do_checkpoint(self, _a: int, _b: int, _c: int) -> None:
        """One that begins and ends at once, or the end of one that was begun."""
        self.do_begin_checkpoint(0, 0, 0)
        assert self._checkpoint is not None
        self._folding = (self.world / "store/view/data.mdb").read_bytes()
        self.chain.write_checkpoint(self._checkpoint)
        self._folding = None
        self.chain.end_checkpoint(written=True)
        self._checkpoint = None

    def do_begin_checkpoint(self, _a: int, _b: int, _c: int) -> None:
        """As the driver does it: commits go on beside it."""
        if self._checkpoint is None:
            self.do_settle(0, 0, 0)
            self._checkpoint = self.chain.begin_checkpoint()
            self.promised = max(self.promised, self._written)

    # Files

    def data(self, length: int) -> bytes:
        """Bytes that do not compress and were never written before."""
        return random.Random(self.clock()).randbytes(length)

    def do_create(self, a: int, b: int, _c: int) -> None:
        inode = self.vault.mknod(_pick(self._folders, a), _pick(NAMES, b), stat.S_IFREG | 0o644, 0, ME)
        self._files.append(inode.ino)

    def do_create_and_write(self, a: int, b: int, c: int) -> None:
        self.do_create(a, b, c)
        self.vault.write(self._files[-1], 0, self.data(_pick(LENGTHS, c)))

    def do_write(self, a: int, b: int, c: int) -> None:
        self.vault.write(_pick(self._files, a), _pick(OFFSETS, b), self.data(_pick(LENGTHS, c)))

    def do_truncate(self, a: int, b: int, c: int) -> None:
        self.vault.setattr(_pick(self._files, a), Attributes(size=_pick(OFFSETS, b) + c % 3))

    def do_punch_hole(self, a: int, b: int, c: int) -> None:
        self.vault.punch_hole(_pick(self._files, a), _pick(OFFSETS, b), _pick((*LENGTHS, REGION, 2 * REGION), c))

    def do_copy_range(self, a: int, b: int, c: int) -> None:
        source, target = _pick(self._files, a), _pick(self._files, b)
        self.vault.copy_range(source, c // 3 * BLOCK, target, c // 3 * BLOCK + c % 3 * BLOCK, 2 * REGION)

    def do_setattr(self, a: int, b: int, c: int) -> None:
        self.vault.setattr(_pick(self._files, a), Attributes(mode=0o600 + b, uid=c, mtime=-c))

    def do_setxattr(self, a: int, b: int, c: int) -> None:
        self.vault.setxattr(_pick(self._files, a), b"user." + _pick(NAMES, b), self.data(c * 400))

    def do_removexattr(self, a: int, b: int, _c: int) -> None:
        self.vault.removexattr(_pick(self._files, a), b"user." + _pick(NAMES, b))

    def do_mkdir(self, a: int, b: int, _c: int) -> None:
        self._folders.append(self.vault.mkdir(_pick(self._folders, a), _pick(NAMES, b), 0o755, ME).ino)

    def do_rmdir(self, a: int, b: int, _c: int) -> None:
        self.vault.rmdir(_pick(self._folders, a), _pick(NAMES, b))

    def do_symlink(self, a: int, b: int, c: int) -> None:
        self.vault.symlink(_pick(self._folders, a), _pick(NAMES, b), b"to" * (1 + c * 100), ME)

    def do_link(self, a: int, b: int, c: int) -> None:
        self.vault.link(_pick(self._files, c), _pick(self._folders, a), _pick(NAMES, b))

    def do_tmpfile(self, a: int, _b: int, _c: int) -> None:
        """A file without a name, until it is linked or let go."""
        self._files.append(self.vault.tmpfile(_pick(self._folders, a), 0o644, ME).ino)
        self.vault.remember(self._files[-1])

    def do_unlink(self, a: int, b: int, _c: int) -> None:
        self.vault.unlink(_pick(self._folders, a), _pick(NAMES, b))

    def do_rename(self, a: int, b: int, c: int) -> None:
        other = self._folders[(a + b + c) % len(self._folders)]
        self.vault.rename(_pick(self._folders, a), _pick(NAMES, b), other, _pick(NAMES, c))

    def do_exchange(self, a: int, b: int, c: int) -> None:
        self.vault.rename(_pick(self._folders, a), _pick(NAMES, b), _pick(self._folders, c), _pick(NAMES, c), 2)

    def do_hold(self, a: int, _b: int, _c: int) -> None:
        """A program opens a file: without a name, it lives on."""
        self.vault.remember(_pick(self._files, a))

    def do_let_go(self, a: int, _b: int, _c: int) -> None:
        self.vault.forget(_pick(self._files, a))

    def do_reap(self, a: int, _b: int, _c: int) -> None:
        self.vault.reap(1 + a)


OPS = sorted(name[3:] for name in vars(Trace) if name.startswith("do_"))
OFTEN = [
    "commit", "fsync", "promise", "promise", "freeze", "settle", "create_and_write", "create_and_write", "write",
    "write", "rename",
]  # fmt: skip
"""What is worth doing more often than anything else."""


def _pick(choices: Sequence[T], number: int) -> T:
    return choices[number % len(choices)]
