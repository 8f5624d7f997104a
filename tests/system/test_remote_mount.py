"""Mounts of one chain on several machines, with a real server between them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import running, until
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")

NEAR = 0.1
"""Seconds within which what was done on one machine has to be seen on another, with the server on loopback."""


def test_the_other_adapter_shares_as_well(machines: Machines) -> None:
    a, b = machines("a"), machines("b")
    a.mount("--driver", "pyfuse3")
    b.mount("--driver", "pyfuse3")
    (a / "file").write_text("1")
    alike(a, b)
    assert content(b / "other") is None
    for turn in range(2, 5):
        (a / "file").write_text("x" * turn)
        until(lambda turn=turn: content(b / "file") == b"x" * turn, "the change", 5)  # type: ignore[misc]
    (b / "other").write_text("o")
    until(lambda: content(a / "other") == b"o", "the new file", 5)
    os.unlink(a / "file")
    until(lambda: content(b / "file") is None, "the deletion", 5)
    for machine in (a, b):
        machine.umount()
        assert machine.complaints() == []


@pytest.fixture
def pair(machines: Machines) -> tuple[Replica, Replica]:
    """Two machines with the same chain mounted."""
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    return a, b


def seen(condition: Callable[[], bool]) -> float:
    """Seconds until the condition holds, looking all the time."""
    start = time.monotonic()
    until(condition, "to be seen", 10)
    return time.monotonic() - start


def content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def test_what_one_machine_writes_the_other_one_sees(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    assert "Recovery code" in a.said
    assert "Recovery code" not in b.said
    (a / "folder").mkdir()
    big = os.urandom(3_000_000)
    (a / "folder" / "big").write_bytes(big)
    (a / "link").symlink_to("folder/big")
    (b / "from b").write_text("b")
    found = alike(a, b)
    assert set(found) == {"folder", "folder/big", "link", "from b"}
    assert (b / "folder/big").read_bytes() == big
    for machine in pair:
        machine.umount()
        assert machine.complaints() == []


def test_a_change_is_seen_within_a_tenth_of_a_second_and_the_rest_stays_cached(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    (a / "still").write_bytes(b"x" * 100_000)
    (a / "file").write_bytes(b"0")
    alike(a, b)
    content(b / "still")
    assert content(b / "new") is None  # b's kernel now knows that it is not there
    waits = []
    for turn in range(1, 6):
        (a / "file").write_bytes(b"%d" % turn * turn)
        waits.append(seen(lambda turn=turn: content(b / "file") == b"%d" % turn * turn))  # type: ignore[misc]
    (a / "new").write_bytes(b"new")
    waits.append(seen(lambda: content(b / "new") == b"new"))
    os.rename(a / "new", a / "renamed")
    waits.append(seen(lambda: content(b / "renamed") == b"new" and content(b / "new") is None))
    os.chmod(a / "file", 0o600)
    waits.append(seen(lambda: (b / "file").stat().st_mode & 0o777 == 0o600))
    os.unlink(a / "file")
    waits.append(seen(lambda: content(b / "file") is None))
    assert sorted(waits)[len(waits) // 2] < NEAR, waits
    before = b.status()["requests"]
    with (b / "still").open("rb") as still:
        for _ in range(100):
            assert os.pread(still.fileno(), 100_000, 0) == b"x" * 100_000
            (b / "still").stat()
    assert b.status()["requests"] - before < 20  # opening and closing; its content and attributes are not asked for


def test_a_file_that_is_open_shows_what_others_write(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    (a / "log").write_bytes(b"one\n")
    alike(a, b)
    with (b / "log").open("rb") as reading:
        assert reading.read() == b"one\n"
        with (a / "log").open("ab") as writing:
            writing.write(b"two\n")
        until(lambda: os.fstat(reading.fileno()).st_size == 8, "the new size", 5)
        assert reading.read() == b"two\n"
        with (a / "log").open("r+b") as writing:
            writing.truncate(2)
        until(lambda: os.fstat(reading.fileno()).st_size == 2, "the new size", 5)


def test_a_replica_works_without_its_server_and_sends_when_it_is_back(
    pair: tuple[Replica, Replica], solo: Solo
) -> None:
    a, b = pair
    (a / "before").write_text("before")
    alike(a, b)
    solo.stop()
    until(a.is_state("offline"), "the link to notice")
    (a / "offline").write_text("written without a server")
    os.rename(a / "before", a / "after")
    a.sync()
    assert a.server()["pending_batches"] > 0
    refused = a.atefs("umount", a.path, check=False)
    assert refused.returncode == ExitCode.UNREACHABLE
    assert "--leave-queued" in refused.stderr
    a.umount("--leave-queued")
    a.mount()  # from the store alone
    assert (a / "offline").read_text() == "written without a server"
    (a / "more").write_text("and more")
    a.sync()
    a.kill()
    a.mount()
    assert sorted(os.listdir(a.path)) == ["after", "more", "offline"]
    solo.start()
    assert set(alike(a, b)) == {"after", "more", "offline"}
    for machine in pair:
        machine.umount()


def test_a_machine_that_has_nothing_yet_needs_the_server(machines: Machines, solo: Solo) -> None:
    a = machines("a")
    solo.stop()
    failed = a.atefs("mount", a.path, str(solo.url()), check=False)
    assert failed.returncode == ExitCode.UNREACHABLE, failed.stderr
    assert not a.store.exists()
    assert not a.path.exists()


def test_both_may_write_at_the_same_time(pair: tuple[Replica, Replica]) -> None:
    a, b = pair
    for machine in pair:
        (machine / machine.name).mkdir()
    for turn in range(30):
        for machine in pair:
            (machine / machine.name / str(turn)).write_text(f"{machine.name} {turn}")
            (machine / f"{machine.name}{turn}").write_bytes(os.urandom(20_000))
    found = alike(a, b)
    assert len(found) == 2 + 4 * 30
    assert not any("conflict" in name for name in found)
    for machine in pair:
        machine.umount()
        assert machine.complaints() == []
        checked = machine.atefs("fsck", machine.path, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_same_file_changed_apart_is_kept_twice(pair: tuple[Replica, Replica], solo: Solo) -> None:
    a, b = pair
    (a / "paper").write_text("as it was")
    (a / "gone").write_text("to be deleted there and changed here")
    alike(a, b)
    solo.stop()
    until(a.is_state("offline"), "the link to notice")
    until(b.is_state("offline"), "the link to notice")
    (a / "paper").write_text("as a has it")
    (b / "paper").write_text("as b has it")
    (a / "new").write_text("a's")
    (b / "new").write_text("b's")
    os.unlink(a / "gone")
    (b / "gone").write_text("changed")
    a.sync()
    b.sync()
    solo.start()
    found = alike(a, b)
    names = sorted(found)
    assert (a / "gone").read_text() == "changed"
    assert {(a / n).read_text() for n in names if n.startswith("paper")} == {"as a has it", "as b has it"}
    assert {(a / n).read_text() for n in names if n.startswith("new")} == {"a's", "b's"}
    assert sum(".conflict-" in name for name in names) == 2


@pytest.mark.parametrize("turns", [2, pytest.param(8, marks=pytest.mark.long)])
def test_killed_clients_and_servers_lose_nothing_that_was_synced(
    pair: tuple[Replica, Replica], solo: Solo, turns: int
) -> None:
    a, b = pair
    expected = set()
    for turn in range(turns):
        for machine in pair:
            name = f"{machine.name}{turn}"
            with (machine / name).open("w") as file:
                file.write(name * 1000)
                os.fsync(file.fileno())
            machine.sync()
            expected.add(name)
        if turn % 2:
            solo.kill()
            a.kill()
            a.mount()
            solo.start()
        else:
            b.kill()
            b.mount()
    found = alike(a, b)
    assert {name for name in found if ".conflict-" not in name} == expected
    assert all((a / name).read_text() == name * 1000 for name in expected)


def test_unmounting_ends_the_driver_whatever_the_server_does(pair: tuple[Replica, Replica], solo: Solo) -> None:
    a, b = pair
    os.kill(solo.pid, 19)  # SIGSTOP: it keeps its connections, and answers nothing any more
    (a / "x").write_text("x")
    start = time.monotonic()
    assert (a / "x").read_text() == "x"
    assert os.listdir(b.path) == []
    a.umount("--leave-queued")
    assert time.monotonic() - start < 10
    os.kill(solo.pid, 18)
    assert not running(a.pid)


def test_a_read_only_mount_follows_and_changes_nothing(machines: Machines) -> None:
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount("--read-only")
    (a / "file").write_text("1")
    until(lambda: content(b / "file") == b"1", "the file", 5)
    (a / "file").write_text("22")
    until(lambda: content(b / "file") == b"22", "the change", 5)
    with pytest.raises(OSError, match="Read-only"):
        (b / "other").write_text("x")
    b.umount()
    assert b.complaints() == []


def test_one_machine_may_mount_a_chain_at_two_places(machines: Machines) -> None:
    a = machines("a")
    a.mount()
    (a / "file").write_text("1")
    second = a.home / "second"
    a.atefs("mount", second, str(a.solo.url()))
    try:
        assert (second / "file").read_text() == "1"
        (second / "file").write_text("22")
        until(lambda: content(a / "file") == b"22", "the change", 5)
        a.umount("--leave-queued")
        (second / "file").write_text("333")
        a.mount()  # it is behind what this machine has seen, which is no rollback
        until(lambda: content(a / "file") == b"333", "the change", 5)
    finally:
        a.atefs("umount", second)
