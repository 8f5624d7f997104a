"""Locks of programs between machines that mount one chain."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from atefs.mount.leases import LEASE_SECONDS
from tests.system.links import Relay
from tests.system.mounted import Mounted, until
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

F_OFD_SETLK, F_OFD_SETLKW = 37, 38

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def pair(machines: Machines) -> tuple[Replica, Replica]:
    """Two machines with the same chain mounted, and a file in it."""
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "file").write_bytes(b"0" * 100)
    alike(a, b)
    return a, b


def held(file: int, how: int, start: int = 0, length: int = 0) -> bool:
    """Whether a range can not be locked now; if it can, it is."""
    try:
        fcntl.lockf(file, how | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return True
    return False


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR)


def test_a_range_that_one_machine_has_locked_the_other_one_cannot(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    here, there = opened(a / "file"), opened(b / "file")
    try:
        assert not held(here, fcntl.LOCK_EX, 10, 10)
        assert held(there, fcntl.LOCK_EX, 0, 11)
        assert held(there, fcntl.LOCK_SH, 19, 1)
        assert not held(there, fcntl.LOCK_EX, 20, 10)
        assert not held(there, fcntl.LOCK_SH, 0, 10)
        assert not held(here, fcntl.LOCK_SH, 5, 1)
        fcntl.lockf(here, fcntl.LOCK_UN, 2, 12)
        assert not held(there, fcntl.LOCK_EX, 12, 2)
        assert held(there, fcntl.LOCK_EX, 11, 1)
        assert held(there, fcntl.LOCK_EX, 14, 1)
    finally:
        os.close(here)
        assert not held(there, fcntl.LOCK_EX)
        os.close(there)


def test_who_is_in_the_way_is_told_by_getlk(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    here, there = opened(a / "file"), opened(b / "file")
    fcntl.lockf(here, fcntl.LOCK_EX, 10, 10)
    ask = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(there, fcntl.F_GETLK, ask))
    assert (kind, start, length, pid) == (fcntl.F_WRLCK, 10, 10, 0)
    os.close(here)
    assert struct.unpack("hhqqi4x", fcntl.fcntl(there, fcntl.F_GETLK, ask))[0] == fcntl.F_UNLCK
    os.close(there)


def test_flock_and_open_file_locks_end_with_the_last_descriptor(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    here, there = opened(a / "file"), opened(b / "file")
    fcntl.flock(here, fcntl.LOCK_SH)
    fcntl.flock(there, fcntl.LOCK_SH)
    with pytest.raises(BlockingIOError):
        fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(there, fcntl.LOCK_UN)
    fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.fcntl(here, F_OFD_SETLK, whole)
    again = os.dup(here)
    os.close(here)
    with pytest.raises(BlockingIOError):
        fcntl.flock(there, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(there, F_OFD_SETLK, whole)
    os.close(again)
    fcntl.flock(there, fcntl.LOCK_EX)
    fcntl.fcntl(there, F_OFD_SETLKW, whole)
    os.close(there)


def test_who_waits_gets_the_lock_and_sees_what_was_done_under_it(pair: tuple[Replica, Replica]) -> None:
    rounds = 25
    others = [counting(machine, rounds) for machine in pair for _ in range(2)]
    for other in others:
        out, _ = other.communicate(timeout=100)
        assert (other.returncode, out) == (0, b"")
    fcntl.flock(there := opened(pair[1] / "file"), fcntl.LOCK_SH)
    assert os.pread(there, 100, 0) == str(4 * rounds).encode().ljust(100)
    os.close(there)
    for machine in pair:
        machine.umount()
        assert machine.complaints() == []


COUNTING = """
import fcntl, os, sys
for _ in range(int(sys.argv[2])):
    file = os.open(sys.argv[1], os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)
    os.pwrite(file, str(int(os.pread(file, 100, 0)) + 1).encode().ljust(100), 0)
    os.close(file)
"""


def counting(machine: Replica, rounds: int) -> subprocess.Popen[bytes]:
    """A program that adds to the number in a file, under a lock each time."""
    return python(COUNTING, os.fspath(machine / "file"), str(rounds))


def python(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


INCREMENT = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
base.execute("PRAGMA synchronous = FULL")
for _ in range(int(sys.argv[2])):
    base.execute("BEGIN IMMEDIATE")
    (number,) = base.execute("SELECT number FROM counter").fetchone()
    base.execute("UPDATE counter SET number = ?", (number + 1,))
    base.execute("INSERT INTO log (who) VALUES (?)", (sys.argv[1],))
    base.execute("COMMIT")
"""


def test_a_database_that_two_machines_write_at_once_loses_no_update(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    rounds = 100
    base = sqlite3.connect(a / "base", isolation_level=None)
    base.executescript("CREATE TABLE counter (number); INSERT INTO counter VALUES (0); CREATE TABLE log (who);")
    base.close()
    alike(a, b)
    for program in [python(INCREMENT, os.fspath(machine / "base"), str(rounds)) for machine in pair]:
        out, _ = program.communicate(timeout=140)
        assert (program.returncode, out) == (0, b"")
    for machine in pair:
        base = sqlite3.connect(machine / "base")
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT number FROM counter").fetchone() == (2 * rounds,)
        assert base.execute("SELECT count(*), count(DISTINCT who) FROM log").fetchone() == (2 * rounds, 2)
        base.close()
    alike(a, b)
    for machine in pair:
        assert machine.server()["locks"] == {"held": 0, "waiting": 0, "lost": 0, "shared": True}
        machine.umount()
        assert machine.complaints() == []


# Holders that vanish, servers that do


HOLDING = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
os.pwrite(file, b"held", 0)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has a file locked until it is killed, or the block ends."""
    command = [sys.executable, "-c", HOLDING, os.fspath(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"held\n"
        try:
            yield program
        finally:
            program.kill()


def test_a_program_that_is_killed_gives_back_its_locks_and_one_that_waits_can_be_killed(
    pair: tuple[Replica, Replica],
) -> None:
    a, b = pair
    there = opened(b / "file")
    with holding(a / "file") as first:
        waiting = [counting(machine, 1) for machine in pair]
        until(lambda: [machine.server()["locks"]["waiting"] for machine in pair] == [1, 1], "both to wait")
        assert all(one.poll() is None for one in waiting)
        for one in waiting:
            one.kill()
            one.communicate(timeout=10)
            assert one.returncode == -signal.SIGKILL
        until(lambda: [machine.server()["locks"]["waiting"] for machine in pair] == [0, 0], "nobody to wait")
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.kill()
        fcntl.flock(there, fcntl.LOCK_EX)
        assert os.pread(there, 4, 0) == b"held"
    os.close(there)


def test_when_a_driver_is_killed_its_locks_end_with_their_lease(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    there = opened(b / "file")
    with holding(a / "file"):
        a.kill()
        start = time.monotonic()
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(there, fcntl.LOCK_EX)
        assert time.monotonic() - start < LEASE_SECONDS + 5
    os.close(there)


def test_what_a_killed_driver_had_is_given_back_as_soon_as_the_vault_is_mounted_again(
    pair: tuple[Replica, Replica],
) -> None:
    a, b = pair
    there = opened(b / "file")
    with holding(a / "file"):
        a.kill()
    with pytest.raises(BlockingIOError):
        fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
    start = time.monotonic()
    a.mount()
    here = opened(a / "file")
    fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert time.monotonic() - start < LEASE_SECONDS - 5  # sooner than its lease has ended by itself
    os.close(here)
    fcntl.flock(there, fcntl.LOCK_EX)
    os.close(there)


def test_a_lock_outlives_a_link_that_is_cut_for_a_moment(machines: Machines, solo: Solo) -> None:
    a, b, relay = behind_relay(machines, solo)
    there = opened(b / "file")
    with holding(a / "file"):
        relay.cut()
        until(lambda: a.server()["state"] != "online", "the cut to be noticed", 20)
        with pytest.raises(BlockingIOError):
            fcntl.flock(there, fcntl.LOCK_EX | fcntl.LOCK_NB)
        relay.mend()
        until(a.is_state("online"), "the link to be back", 40)
        long = str(LEASE_SECONDS + 2)  # for which nothing but renewals can keep it
        assert b.atefs("lock", "--wait", long, b / "file", "true", check=False).returncode == ExitCode.BUSY
        assert a.server()["locks"] == {"held": 1, "waiting": 0, "lost": 0, "shared": True}
    fcntl.flock(there, fcntl.LOCK_EX)
    os.close(there)
    relay.close()


def test_a_lock_is_lost_to_others_when_the_link_is_cut_for_long_and_that_is_said(
    machines: Machines, solo: Solo
) -> None:
    a, b, relay = behind_relay(machines, solo)
    there = opened(b / "file")
    with holding(a / "file"):
        relay.cut()
        start = time.monotonic()
        fcntl.flock(there, fcntl.LOCK_EX)
        assert time.monotonic() - start < LEASE_SECONDS + 5
        here = opened(a / "file")
        with pytest.raises(BlockingIOError):  # on this machine it still counts
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        relay.mend()
        until(lambda: a.server()["locks"]["lost"] == 1, "the loss to be noticed", 60)
        assert "lost" in a.atefs("status", a.path).stdout
        with pytest.raises(BlockingIOError):
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(there)
        fcntl.flock(here, fcntl.LOCK_EX)
        os.close(here)
    assert [line for line in a.complaints() if "is lost" in line]
    relay.close()


def behind_relay(machines: Machines, solo: Solo) -> tuple[Replica, Replica, Relay]:
    """Two machines, of which the first one's link can be cut."""
    relay = Relay(solo.port)
    a, b = machines("a"), machines("b")
    b.mount()
    (b / "file").write_bytes(b"0" * 100)
    until(b.sent, "the file to be sent")
    a.mount(url=str(solo.url()).replace(f":{solo.port}/", f":{relay.port}/"))
    alike(a, b)
    return a, b, relay


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_without_a_server_locks_are_this_machines_or_refused_as_the_mode_says(
    machines: Machines, solo: Solo, mode: str
) -> None:
    a = machines("a")
    a.mount("--recovery-mode", mode)
    (a / "file").write_bytes(b"0" * 100)
    until(a.sent, "the file to be sent")
    files = [opened(a / "file") for _ in range(2)]
    solo.stop()
    until(a.is_state("offline"), "the link to notice", 30)
    start = time.monotonic()
    if mode == "sync":
        with pytest.raises(OSError, match="host") as refused:
            fcntl.flock(files[0], fcntl.LOCK_EX)
        assert refused.value.errno == errno.EHOSTUNREACH
    else:
        fcntl.flock(files[0], fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(files[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert time.monotonic() - start < 5
    solo.start()
    until(a.is_state("online"), "the link to be back", 40)
    assert a.server()["locks"]["held"] == (mode == "async")
    os.close(files[0])
    fcntl.flock(files[1], fcntl.LOCK_EX)
    assert a.server()["locks"] == {"held": 1, "waiting": 0, "lost": 0, "shared": True}
    os.close(files[1])


# atefs lock


def test_atefs_lock_runs_a_command_alone_and_passes_its_exit_code_on(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    there = opened(b / "file")
    assert a.atefs("lock", a / "file", "sh", "-c", "exit 7", check=False).returncode == 7
    assert a.atefs("lock", a / "file", "no such command", check=False).returncode == 127
    assert a.atefs("lock", a / "file", a / "file", check=False).returncode == 126
    first = a.atefs("lock", a / "file", "sh", "-c", "echo $ATE_LOCK_TOKEN").stdout
    second = b.atefs("lock", "--wait", "5", b / "file", "sh", "-c", "echo $ATE_LOCK_TOKEN").stdout
    assert 0 < int(first) < int(second)
    fcntl.flock(there, fcntl.LOCK_SH)
    a.atefs("lock", "--shared", a / "file", "true")
    for wait in ("0", "0.5"):
        refused = a.atefs("lock", "--wait", wait, a / "file", "touch", a / "done", check=False)
        assert (refused.returncode, "not run" in refused.stderr) == (ExitCode.BUSY, True)
    assert a.atefs("lock", a / "missing", "true", check=False).returncode == ExitCode.NOT_FOUND
    assert a.atefs("lock", a.path, "true", check=False).returncode == ExitCode.UNSUPPORTED
    assert not (a / "done").exists()
    os.close(there)


def test_atefs_lock_is_refused_where_other_machines_would_not_know_of_it(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    a.mount("--driver", "pyfuse3")
    b.mount()
    (a / "file").write_bytes(b"")
    alike(a, b)
    assert a.server()["locks"] is None
    assert a.atefs("lock", a / "file", "true", check=False).returncode == ExitCode.UNSUPPORTED
    solo.stop()
    until(b.is_state("offline"), "the link to notice", 30)
    assert b.atefs("lock", b / "file", "true", check=False).returncode == ExitCode.UNREACHABLE


def test_atefs_lock_on_a_local_vault_is_a_lock_of_this_machine(vault: Mounted) -> None:
    (vault / "file").write_bytes(b"")
    said = vault.atefs("lock", vault / "file", "sh", "-c", "echo $ATE_LOCK_TOKEN").stdout
    assert said == "\n"
    with holding(vault / "file"):
        assert vault.atefs("lock", "--wait", "0", vault / "file", "true", check=False).returncode == ExitCode.BUSY
