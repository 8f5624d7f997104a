"""Any sequence of calls to the table of locks gives what a model of single bytes gives, and what the kernel does."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import subprocess
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.net.errors import DeadlockError
from atedb.net.locks import LAST, Lock, Locks, Waiter

A, B, C = 0xA000, 0xB000, 0xC000
FILE = 7
BYTES = 12


# A model of single bytes


class ByteModel:
    """For each byte, who holds it and how; and those who wait, in order. owners: byte -> owner -> exclusive."""

    def __init__(self) -> None:
        self.owners: list[dict[int, bool]] = [{} for _ in range(BYTES)]
        self.queue: list[tuple[int, Lock, Waiter]] = []

    def conflicts(self, owner: int, lock: Lock) -> bool:
        return any(
            other != owner and (is_exclusive or lock.exclusive)
            for at in range(lock.start, lock.end + 1)
            for other, is_exclusive in self.owners[at].items()
        )

    def first_conflict(self, owner: int, lock: Lock) -> int | None:
        """The lowest byte in the range that prevents the lock."""
        wanted = range(lock.start, lock.end + 1)
        return next((at for at in wanted if self.conflicts(owner, Lock(at, at, lock.exclusive))), None)

    def put(self, owner: int, lock: Lock) -> None:
        for at in range(lock.start, lock.end + 1):
            self.owners[at][owner] = lock.exclusive

    def unlock(self, owner: int, start: int, end: int) -> None:
        for at in range(start, end + 1):
            self.owners[at].pop(owner, None)

    def grant(self) -> list[Waiter]:
        given: list[Waiter] = []
        progress = True
        while progress:
            progress = False
            for entry in list(self.queue):
                owner, lock, waiter = entry
                if not self.conflicts(owner, lock):
                    self.put(owner, lock)
                    self.queue.remove(entry)
                    given.append(waiter)
                    progress = True
        return given

    def runs(self, owner: int) -> list[tuple[int, int, bool]]:
        found: list[tuple[int, int, bool]] = []
        for at, held_by in enumerate(self.owners):
            if owner in held_by:
                if found and found[-1][1] == at - 1 and found[-1][2] == held_by[owner]:
                    found[-1] = (found[-1][0], at, held_by[owner])
                else:
                    found.append((at, at, held_by[owner]))
        return found

    def deadlocked(self, owner: int, lock: Lock) -> bool:
        """Whether the one that asks can reach itself along who waits for whom."""

        def holders(asking: int, wanted: Lock) -> set[int]:
            return {
                other
                for at in range(wanted.start, wanted.end + 1)
                for other, is_exclusive in self.owners[at].items()
                if other != asking and (is_exclusive or wanted.exclusive)
            }

        reached = holders(owner, lock)
        while True:
            further = reached | {to for who, wanted, _ in self.queue if who in reached for to in holders(who, wanted)}
            if further == reached:
                return owner in reached
            reached = further


class Step(NamedTuple):
    what: str
    owner: int
    start: int
    length: int
    is_exclusive: bool

    @property
    def lock(self) -> Lock:
        return Lock(self.start, min(BYTES, self.start + self.length) - 1, self.is_exclusive)


steps = st.lists(
    st.builds(
        Step, st.sampled_from(["lock", "lock", "wait", "wait", "unlock", "unlock", "test", "cancel", "release"]),
        st.sampled_from([A, B, C]), st.integers(0, BYTES - 1), st.integers(1, BYTES), st.booleans(),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300)
@given(steps)
def test_any_sequence_of_calls_gives_what_a_model_of_single_bytes_gives(trace: list[Step]) -> None:
    locks, model, given_locks = Locks(), ByteModel(), list[Waiter]()
    for step in trace:
        one_step(locks, model, given_locks, step)
        expected = model.grant()
        assert given_locks == expected
        given_locks.clear()
        for owner in (A, B, C):
            file = locks._files.get((FILE, False))
            ranges = file.owners.get(owner) if file is not None else None
            assert [lock[:3] for lock in (ranges.held if ranges is not None else [])] == model.runs(owner)
        assert locks.held == sum(len(model.runs(owner)) for owner in (A, B, C))
        assert locks.waiters == len(model.queue)


def one_step(locks: Locks, model: ByteModel, given_locks: list[Waiter], step: Step) -> None:
    owner, lock = step.owner, step.lock
    if step.what == "unlock":
        locks.unlock(FILE, owner, lock.start, lock.end)
        model.unlock(owner, lock.start, lock.end)
    elif step.what == "release":
        locks.release_owner(FILE, owner)
        model.unlock(owner, 0, BYTES - 1)
    elif step.what == "cancel":
        if model.queue:
            _, _, waiter = model.queue.pop(step.start % len(model.queue))
            assert locks.cancel(waiter)
    elif step.what == "test":
        found = locks.test(FILE, owner, lock)
        assert (None if found is None else max(found.start, lock.start)) == model.first_conflict(owner, lock)
    elif step.what == "lock":
        assert (locks.try_lock(FILE, owner, lock) is not None) == model.conflicts(owner, lock)
        if not model.conflicts(owner, lock):
            model.put(owner, lock)
    else:
        wait_in_both(locks, model, given_locks, step)


def wait_in_both(locks: Locks, model: ByteModel, given_locks: list[Waiter], step: Step) -> None:
    owner, lock = step.owner, step.lock
    waits, deadlocked = model.conflicts(owner, lock), model.deadlocked(owner, lock)
    box: list[Waiter] = []
    try:
        waiter = locks.wait(FILE, owner, lock, lambda: given_locks.append(box[0]))
    except DeadlockError:
        assert waits
        assert deadlocked
        return
    assert (waiter is not None) == waits
    if waiter is None:
        model.put(owner, lock)
    else:
        assert not deadlocked
        box.append(waiter)
        model.queue.append((owner, lock, waiter))


class HoldsTooMuch(Locks):
    """The negative twin: a lock that is split keeps its middle."""

    def unlock(
        self, name: Hashable, owner: Hashable, start: int = 0, end: int = LAST, *, flock: bool = False
    ) -> None:  # fmt: skip
        if start == 0:
            super().unlock(name, owner, start, end, flock=flock)


def test_the_model_notices_a_table_that_does_not_let_go() -> None:
    locks, model = HoldsTooMuch(), ByteModel()
    for step in (Step("lock", A, 0, 9, True), Step("unlock", A, 3, 2, True)):
        one_step(locks, model, [], step)
    with pytest.raises(AssertionError):
        one_step(locks, model, [], Step("lock", B, 3, 1, True))


# The kernel

_WORKER = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for line in sys.stdin:
    command, kind, start, length = (int(word) for word in line.split())
    flock = struct.pack("hhqqi4x", kind, 0, start, length, 0)
    try:
        kind, _, start, length, _ = struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, flock))
        print(0, kind, start, length, flush=True)
    except OSError as error:
        print(error.errno, 0, 0, 0, flush=True)
"""


class Process:
    """Another process that has the file open and does what it is told."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fcntl(self, command: int, kind: int, start: int, length: int) -> list[int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command} {kind} {start} {length}\n")
        self.process.stdin.flush()
        return [int(word) for word in self.process.stdout.readline().split()]

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def processes() -> Iterator[dict[int, Process]]:
    path = Path(f"/dev/shm/ate-locks-{os.getpid()}")
    path.write_bytes(b"")
    running = {owner: Process(path) for owner in (A, B)}
    yield running
    for process in running.values():
        process.end()
    path.unlink()


def test_a_generated_trace_of_calls_gives_what_the_kernel_gives_two_processes(processes: dict[int, Process]) -> None:
    locks, chance = Locks(), random.Random(1)
    refused = found = 0
    for _ in range(1500):
        owner = chance.choice((A, B))
        start, length = chance.randrange(30), chance.choice((0, 1, 2, 5, 10))
        end = start + length - 1 if length else LAST
        kind = chance.choice((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK))
        process = processes[owner]
        if kind != fcntl.F_UNLCK and chance.random() < 0.4:
            seen = locks.test(FILE, owner, Lock(start, end, kind == fcntl.F_WRLCK))
            answer = process.fcntl(fcntl.F_GETLK, kind, start, length)
            assert answer == [0, *(as_flock(seen) if seen else (fcntl.F_UNLCK, start, length))]
            found += seen is not None
        elif kind == fcntl.F_UNLCK:
            locks.unlock(FILE, owner, start, end)
            assert process.fcntl(fcntl.F_SETLK, kind, start, length)[0] == 0
        else:
            conflict = locks.try_lock(FILE, owner, Lock(start, end, kind == fcntl.F_WRLCK))
            number = process.fcntl(fcntl.F_SETLK, kind, start, length)[0]
            assert number == (errno.EAGAIN if conflict else 0)
            refused += conflict is not None
    assert min(refused, found) > 50


def as_flock(lock: Lock) -> tuple[int, int, int]:
    """Type, start and length as `struct flock` has them; a length of 0 goes to the end."""
    length = 0 if lock.end == LAST else lock.end - lock.start + 1
    return fcntl.F_WRLCK if lock.exclusive else fcntl.F_RDLCK, lock.start, length
