"""Recovery modes: what fsync promises on a mount of a server's chain, and what may change without the server."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import until
from tests.system.replicas import Machines, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")


def write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def errno_of(path: Path, text: str = "x") -> int | None:
    try:
        write_synced(path, text)
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("mode", ["sync", "readonly-sync"])
def test_what_is_synced_is_on_the_server(machines: Machines, solo: Solo, mode: str) -> None:
    a, b = machines("a"), machines("b")
    a.mount("--recovery-mode", mode)
    for turn in range(5):
        write_synced(a / f"file{turn}", "x")
        assert a.server()["pending_batches"] == 0
    os.kill(a.pid, signal.SIGKILL)
    b.mount()
    assert sorted(os.listdir(b.path)) == [f"file{turn}" for turn in range(5)]


def test_what_is_synced_in_async_mode_may_be_here_only(machines: Machines, solo: Solo) -> None:
    """The negative twin: nothing waits for a server that is stopped."""
    a = machines("a")
    a.mount()
    os.kill(solo.pid, signal.SIGSTOP)
    write_synced(a / "file", "x")
    assert a.server()["pending_batches"] == 1
    os.kill(solo.pid, signal.SIGCONT)


def test_sync_without_a_server_fails_and_what_was_written_is_sent_later(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    a.mount("--recovery-mode", "sync")
    b.mount()
    solo.stop()
    until(a.is_state("offline"), "the link to notice")
    start = time.monotonic()
    assert errno_of(a / "file", "kept") == errno.EHOSTUNREACH
    assert time.monotonic() - start < 5
    assert (a / "file").read_text() == "kept"
    solo.start()
    until(a.is_state("online"), "the link to be back")
    assert errno_of(a / "second") is None
    assert set(alike(a, b)) == {"file", "second"}


def test_a_sync_mount_without_its_server_can_be_unmounted_with_what_is_queued(machines: Machines, solo: Solo) -> None:
    a = machines("a")
    a.mount("--recovery-mode", "sync")
    solo.stop()
    until(a.is_state("offline"), "the link to notice")
    (a / "file").write_text("kept")
    refused = a.atefs("umount", a.path, check=False)
    assert refused.returncode == ExitCode.UNREACHABLE
    assert "--leave-queued" in refused.stderr
    a.umount("--leave-queued")
    solo.start()
    a.mount("--recovery-mode", "sync")
    assert (a / "file").read_text() == "kept"
    until(a.sent, "all to be sent")


@pytest.mark.parametrize("mode", ["readonly-async", "readonly-sync"])
def test_without_a_server_nothing_changes_where_the_mode_says_so(machines: Machines, solo: Solo, mode: str) -> None:
    a = machines("a")
    a.mount("--recovery-mode", mode)
    (a / "file").write_text("x")
    solo.stop()
    until(a.is_state("offline"), "the link to notice")
    assert (a / "file").read_text() == "x"
    for change in (
        lambda: (a / "new").write_text("x"),
        lambda: os.unlink(a / "file"),
        lambda: os.chmod(a / "file", 0),
        lambda: os.truncate(a / "file", 0),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    solo.start()
    until(a.is_state("online"), "the link to be back")
    (a / "new").write_text("x")
    a.umount()


def test_folders_can_be_synced_while_others_change_them(machines: Machines) -> None:
    """The kernel is told of others' names while whoever syncs the folder holds it, and waits for the link."""
    a, b = machines("a"), machines("b")
    a.mount("--recovery-mode", "sync")
    b.mount()
    stop = threading.Event()

    def disturb() -> None:
        turn = 0
        while not stop.is_set():
            (b / f"b{turn}").touch()
            turn += 1

    other = threading.Thread(target=disturb)
    other.start()
    try:
        slowest = 0.0
        for turn in range(40):
            (a / f"a{turn}").touch()
            start = time.monotonic()
            a.sync()
            slowest = max(slowest, time.monotonic() - start)
    finally:
        stop.set()
        other.join()
    assert slowest < 10
    alike(a, b)


def test_a_local_vault_can_move_to_a_server(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    a.atefs("mount", a.path)
    (a / "before").write_text("made here")
    a.atefs("umount", a.path)
    a.mount()
    b.mount()
    assert set(alike(a, b)) == {"before"}
    assert (b / "before").read_text() == "made here"
    a.umount()
    a.atefs("mount", a.path)  # where its server is, it knows
    assert a.server()["url"] == str(solo.url())


def test_another_vault_under_the_address_is_refused_and_nothing_is_sent(machines: Machines) -> None:
    a, b = machines("a"), machines("b")
    a.mount()
    b.atefs("mount", b.path)
    (b / "mine").write_text("mine")
    b.atefs("umount", b.path)
    refused = b.atefs("mount", b.path, str(b.solo.url()), check=False)
    assert refused.returncode == 13
    assert "another vault" in refused.stderr
    b.atefs("mount", b.path)
    assert b.status()["server"] is None
    assert (b / "mine").read_text() == "mine"


def test_a_server_with_another_key_is_refused(machines: Machines, solo: Solo) -> None:
    a = machines("a")
    a.mount()
    (a / "kept").write_text("kept")
    a.umount()
    solo.stop()
    (solo.data / "server.key").unlink()
    solo.start()
    a.mount()
    until(a.is_state("offline"), "the link to refuse the server")
    assert "fingerprint" in a.server()["error"]
    assert (a / "kept").read_text() == "kept"
    fresh = machines("b")
    (fresh.home / "config").mkdir(exist_ok=True)
    (fresh.home / "config" / "servers").write_text((a.home / "config" / "servers").read_text())
    refused = fresh.atefs("mount", fresh.path, str(solo.url()), check=False)
    assert refused.returncode == 16
    assert not fresh.store.exists()


def test_a_wrong_passphrase_leaves_nothing_behind(machines: Machines) -> None:
    a, b = machines("a"), machines("b")
    a.mount()
    (b.home / "passphrase").write_text("not this one\n")
    refused = b.atefs("mount", b.path, str(b.solo.url()), check=False)
    assert refused.returncode == 3
    assert not b.store.exists()
    assert not b.path.exists()
