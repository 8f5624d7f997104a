"""How requests and mounts end otherwise than in order: by signals, by force, with a mount point that is gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atefs.mount import mountinfo
from tests.system.mounted import Mounted, atefs, run, running, until

pytestmark = pytest.mark.needs("fuse", "root", "unshare")

SLOW_DISK = Path(__file__).with_name("slow_disk.py")
DIRECT = pytest.mark.parametrize("driver", ["direct"], indirect=True)
"""For what pyfuse3 does not carry."""
FSYNC = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
os.write(fd, b"content")
os.fsync(fd)
"""
READ = "import sys; open(sys.argv[1], 'rb').read()"
GONE = (errno.ENOTCONN, errno.ECONNABORTED)


class Stuck:
    """The disk of a vault: stopped by `stop`, until `go`."""

    def __init__(self, folder: Path) -> None:
        self.switch = folder / "stuck"

    def stop(self) -> None:
        self.switch.touch()

    def go(self) -> None:
        self.switch.unlink(missing_ok=True)

    def is_waited_for(self, what: str) -> bool:
        """Whether somebody has waited for a "barrier" or a "read"."""
        return self.switch.with_name(f"stuck.{what}").exists()

    def await_waiting(self, what: str) -> None:
        """Until somebody does."""
        until(lambda: self.is_waited_for(what), f"a {what} that waits")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    """To be asked for before the vault, so that it goes on before the vault is cleaned up."""
    stuck = Stuck(tmp_path)
    monkeypatch.setenv("ATE_TEST_STUCK", str(stuck.switch))
    monkeypatch.setenv("PYTHONPATH", str(SLOW_DISK.parents[2]))
    yield stuck
    stuck.go()


@pytest.fixture
def slow(place: Mounted, disk: Stuck) -> Iterator[Mounted]:
    """A vault on that disk, mounted; a first fsync has shown the driver how slow it is."""
    place.command = [sys.executable, str(SLOW_DISK)]
    place.mount()
    place.write_synced("first", b"content")
    yield place
    disk.go()


@contextmanager
def waiting(code: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does something with a file and is to be stuck in it."""
    with subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def waiting_for_the_disk(slow: Mounted, disk: Stuck) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads a file and waits for the disk, which is stopped.

    What the driver looks at ahead of time may bring the content back to memory after it was put out of it.
    """
    for _ in range(10):
        disk.stop()
        for path in (slow / "file", *slow.store.rglob("*.seg")):
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        with waiting(READ, slow / "file") as process:
            until(lambda: disk.is_waited_for("read") or process.poll() is not None, "the read")
            if process.poll() is None:
                yield process
                return
        disk.go()
    pytest.fail("it never has to wait")


def error_of(call: Callable[..., object], *arguments: object) -> int:
    """The errno that a call fails with; 0 when it does not."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


@DIRECT
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_who_waits_for_a_barrier_can_be_ended_by_a_signal(slow: Mounted, disk: Stuck, number: signal.Signals) -> None:
    disk.stop()
    with waiting(FSYNC, slow / "file") as process:
        disk.await_waiting("barrier")
        (slow / "other").write_bytes(b"others are answered all the while")
        assert process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode != 0
        assert number == signal.SIGKILL or b"KeyboardInterrupt" in said
        assert disk.switch.exists(), "and that while the disk is still stuck"
    disk.go()
    assert (slow / "file").read_bytes() == b"content"
    slow.write_synced("third", b"content")
    slow.umount()
    assert not slow.complaints()


def test_one_who_waits_for_the_disk_to_read_delays_nobody_and_can_be_killed(slow: Mounted, disk: Stuck) -> None:
    content = os.urandom(3 << 20)
    slow.write_synced("file", content)
    slow.remount()
    for name in ("warm", "file", "first"):  # a lookup that waits would keep others out of the folder, in the kernel
        (slow / name).touch()
    with waiting_for_the_disk(slow, disk) as process:
        for number in range(50):
            (slow / f"{number}").touch()
            assert (slow / "first").stat().st_size == 7
        assert process.poll() is None
        process.kill()
        process.communicate(timeout=30)
        assert disk.switch.exists()
    disk.go()
    assert (slow / "file").read_bytes() == content
    slow.umount()
    assert not slow.complaints()


def test_umount_by_force_ends_whoever_waits_and_the_driver_keeps_all_that_it_has(slow: Mounted, disk: Stuck) -> None:
    """man 2 umount, MNT_FORCE: the connection is cut, also where the mount itself stays, since somebody is in it."""
    held = os.open(slow / "held", os.O_WRONLY | os.O_CREAT, 0o644)
    disk.stop()
    with waiting(FSYNC, slow / "file") as process:
        disk.await_waiting("barrier")
        assert run("umount", "-f", slow.path, check=False).returncode
        _, said = process.communicate(timeout=30)
        assert f"[Errno {errno.ECONNABORTED}]".encode() in said
    assert error_of(os.listdir, slow.path) in GONE
    disk.go()
    until(lambda: not running(slow.pid), "the driver to end")
    assert error_of(os.close, held) in (0, *GONE)
    assert "cleared" in atefs("umount", slow.path).stdout
    slow.mount()
    assert (slow / "file").read_bytes() == b"content"
    # libfuse says of each answer that the kernel did not wait for it any more.
    assert slow.driver == "pyfuse3" or not slow.complaints()


def test_whoever_waits_for_a_driver_that_is_killed_gets_an_error(slow: Mounted, disk: Stuck) -> None:
    disk.stop()
    with waiting(FSYNC, slow / "file") as process:
        disk.await_waiting("barrier")
        slow.kill()
        _, said = process.communicate(timeout=30)
        assert f"[Errno {errno.ECONNABORTED}]".encode() in said
    disk.go()
    slow.mount()
    assert (slow / "first").read_bytes() == b"content"


def test_a_connection_that_the_kernel_aborts_ends_the_driver_in_order(vault: Mounted, tmp_path: Path) -> None:
    vault.write_synced("file", b"content")
    mount = mountinfo.find(vault.path)
    assert mount
    control = tmp_path / "control"
    control.mkdir()
    run("mount", "-t", "fusectl", "none", control)
    try:
        (control / f"{mount.minor}" / "abort").write_text("1")
    finally:
        run("umount", control)
    until(lambda: not running(vault.pid), "the driver to end")
    assert error_of(os.listdir, vault.path) in GONE
    vault.mount()
    assert (vault / "file").read_bytes() == b"content"


def test_a_mount_point_that_is_deleted_elsewhere_ends_the_driver_with_all_on_disk(vault: Mounted) -> None:
    """Where it is not a mount point, in another namespace, the folder can go, and the mount goes with it."""
    content = os.urandom(3 << 20)
    (vault / "file").write_bytes(content)
    run("unshare", "--mount", "sh", "-c", f"umount -l {vault.path} && rmdir {vault.path}")
    until(lambda: not running(vault.pid), "the driver to end")
    assert mountinfo.find(vault.path) is None
    assert not vault.path.exists()
    vault.path.mkdir()
    vault.mount()
    assert (vault / "file").read_bytes() == content


def test_a_mount_point_that_goes_with_the_filesystem_it_is_on_ends_the_driver_with_all_on_disk(
    place: Mounted, tmp_path: Path
) -> None:
    content = os.urandom(3 << 20)
    below = tmp_path / "below"
    below.mkdir()
    run("mount", "-t", "tmpfs", "none", below)
    place.path = below / "vault"
    try:
        place.mount()
        (place / "file").write_bytes(content)
    finally:
        run("umount", "-l", below)
    until(lambda: not running(place.pid), "the driver to end")
    assert mountinfo.find(place.path) is None
    place.path.mkdir()
    place.mount()
    assert (place / "file").read_bytes() == content
    assert not place.complaints()


def test_a_vault_whose_folder_was_moved_is_unmounted_in_order_by_a_signal(place: Mounted, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    place.path = before / "vault"
    place.mount()
    (place / "file").write_bytes(content)
    before.rename(after)
    assert (after / "vault" / "file").read_bytes() == content
    os.kill(place.pid, signal.SIGTERM)
    until(lambda: not running(place.pid), "the driver to end")
    assert mountinfo.find(after / "vault") is None
    after.rename(before)
    place.mount()
    assert (place / "file").read_bytes() == content
    assert not place.complaints()
