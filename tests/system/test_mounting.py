"""Mounting and unmounting: what works, what is refused and how, and that nothing is lost either way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from atefs.mount import mountinfo
from tests.system.mounted import ATEFS, ONCE, Mounted, atefs, run, running, until

pytestmark = [pytest.mark.needs("fuse"), ONCE]

CODE = re.compile(r"ATER(-[0-9A-Z]{5}){9}")


def refused(code: ExitCode, *arguments: str | Path) -> str:
    """What `atefs …` says when it ends with this exit code."""
    done = atefs(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("atefs: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_first_mount_makes_a_vault_and_prints_a_recovery_code_once(place: Mounted) -> None:
    place.mount()
    code = CODE.search(place.said)
    assert code
    (place / "file").write_text("content")
    place.remount()
    assert not CODE.search(place.said)
    place.umount()
    place.passphrase_file.write_text(code[0])
    place.mount()
    assert (place / "file").read_text() == "content"


def test_a_wrong_passphrase_says_the_same_as_any_wrong_secret(place: Mounted) -> None:
    place.mount()
    place.umount()
    (place.folder / "wrong").write_text("not it")
    (place.folder / "wrong").chmod(0o600)
    (place.folder / "key").write_bytes(b"k" * 64)
    (place.folder / "key").chmod(0o600)
    one = refused(ExitCode.WRONG_SECRET, "mount", "--passphrase-file", place.folder / "wrong", place.path)
    two = refused(ExitCode.WRONG_SECRET, "mount", "--key-file", place.folder / "key", place.path)
    assert one == two
    place.mount()


def test_a_vault_in_use_is_not_mounted_twice(vault: Mounted) -> None:
    secret = ("--passphrase-file", vault.passphrase_file)
    assert "already" in refused(ExitCode.IN_USE, "mount", *secret, vault.path)
    other = vault.folder / "other"
    other.mkdir()
    assert f"process {vault.pid}" in refused(ExitCode.IN_USE, "mount", *secret, other, vault.store)
    assert str(vault.path) in refused(ExitCode.IN_USE, "ls", *secret, vault.store)


def test_mount_points_that_cannot_be_used(place: Mounted) -> None:
    secret = ("--passphrase-file", place.passphrase_file)
    place.mount()
    place.umount()
    place.path.rmdir()
    assert "mkdir" in refused(ExitCode.NOT_FOUND, "mount", *secret, place.path)
    place.path.touch()
    refused(ExitCode.BUSY, "mount", *secret, place.path)
    place.path.unlink()
    place.path.mkdir()
    (place / "in the way").touch()
    assert "nonempty" in refused(ExitCode.BUSY, "mount", *secret, place.path)
    place.mount("-o", "nonempty")
    assert os.listdir(place.path) == []
    place.umount()
    assert "atefs init" in refused(ExitCode.NOT_FOUND, "mount", *secret, place.path, place.folder / "no store")
    nobody = "ws://127.0.0.1:9/db/me/vault"
    assert "reached" in refused(ExitCode.UNREACHABLE, "mount", "-o", "nonempty", *secret, place.path, nobody)


@pytest.mark.needs("root")
def test_a_foreign_mount_is_left_alone(place: Mounted) -> None:
    place.path.mkdir()
    run("mount", "-t", "tmpfs", "none", place.path)
    try:
        said = refused(ExitCode.BUSY, "mount", "--passphrase-file", place.passphrase_file, place.path)
        assert "tmpfs" in said
        refused(ExitCode.NOT_FOUND, "umount", place.path)
    finally:
        run("umount", place.path)


@pytest.mark.needs("root", "unshare")
@pytest.mark.parametrize("way", ["another device", "no device"])
def test_without_dev_fuse_the_reason_is_said(place: Mounted, way: str) -> None:
    """In a mount namespace of its own, where /dev/fuse is something else, or not there."""
    place.path.mkdir()
    cover = "mount --bind /dev/null /dev/fuse" if way == "another device" else "mount -t tmpfs none /dev"
    script = f'{cover} && exec "$@"'
    command = [*ATEFS, "mount", "--passphrase-file", str(place.passphrase_file), str(place.path)]
    done = run("unshare", "--mount", "sh", "-c", script, "sh", *command, check=False)
    assert done.returncode == ExitCode.NO_FUSE
    assert "/dev/fuse" in done.stderr
    assert not place.store.exists()


def test_status(vault: Mounted) -> None:
    assert running(vault.pid)
    state = vault.status()
    assert (state["mounted"], state["read_only"], state["error"]) == (True, False, None)
    listed = json.loads(atefs("status", "--json").stdout)
    assert [state["pid"] for state in listed if state["mountpoint"] == str(vault.path)] == [vault.pid]
    assert str(vault.pid) in atefs("status").stdout
    assert str(vault.store) in atefs("status", vault.path).stdout
    vault.umount()
    done = atefs("status", vault.path, "--json", check=False)
    assert done.returncode == ExitCode.NOT_FOUND
    assert json.loads(done.stdout)["mounted"] is False


@pytest.mark.parametrize("way", ["atefs", "umount", "fusermount3", "SIGTERM", "SIGINT"])
def test_every_way_to_unmount_ends_the_driver_with_all_on_disk(vault: Mounted, way: str) -> None:
    content = os.urandom(3 << 20)
    (vault / "file").write_bytes(content)
    if way.startswith("SIG"):
        os.kill(vault.pid, signal.Signals[way])
    else:
        run(*{"atefs": [*ATEFS, "umount"], "umount": ["umount"], "fusermount3": ["fusermount3", "-u"]}[way], vault.path)
    until(lambda: not running(vault.pid), "the driver to end")
    assert mountinfo.find(vault.path) is None
    vault.mount()
    assert (vault / "file").read_bytes() == content


def test_a_busy_mount_stays_and_names_who_holds_it(vault: Mounted) -> None:
    with (vault / "held").open("wb") as file:
        said = refused(ExitCode.BUSY, "umount", vault.path)
        assert str(os.getpid()) in said
        assert "held" in said
        file.write(b"still works")
    with subprocess.Popen(["cat"], cwd=vault.path, stdin=subprocess.PIPE) as idle:
        assert f"cat ({idle.pid}): is in" in refused(ExitCode.BUSY, "umount", vault.path)
        idle.communicate()
    vault.remount()
    assert (vault / "held").read_bytes() == b"still works"


def test_a_lazy_unmount_does_not_wait_for_who_holds_it(vault: Mounted) -> None:
    file = os.open(vault / "held", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, b"written before")
    atefs("umount", "--lazy", vault.path)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.close(file)
    vault.mount()
    assert (vault / "held").read_bytes() == b"written before"


def test_what_a_killed_driver_left_is_cleared_away(vault: Mounted) -> None:
    vault.write_synced("file", b"content")
    vault.kill()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(vault.path)
    state = json.loads(atefs("status", vault.path, "--json", check=False).stdout)
    assert state["pid"] is None
    assert f"atefs umount {vault.path}" in state["error"]
    vault.mount()
    assert (vault / "file").read_bytes() == b"content"
    vault.kill()
    assert "cleared" in atefs("umount", vault.path).stdout
    assert mountinfo.find(vault.path) is None


def test_a_read_only_mount_refuses_changes(place: Mounted) -> None:
    place.mount()
    (place / "file").write_text("content")
    place.umount()
    before = {path: path.read_bytes() for path in place.store.rglob("*.seg")}
    place.mount("--read-only")
    assert (place / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (place / "other").touch()
    with pytest.raises(OSError, match="Read-only"):
        (place / "file").write_text("changed")
    assert place.status()["read_only"]
    place.umount()
    assert {path: path.read_bytes() for path in place.store.rglob("*.seg")} == before


@pytest.mark.needs("root")
def test_others_are_let_in_only_when_that_is_asked_for(place: Mounted) -> None:
    place.folder.chmod(0o755)
    for parent in place.folder.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)
        if parent == Path("/tmp"):
            break
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    place.mount()
    (place / "secret").write_text("x")
    (place / "secret").chmod(0o600)
    (place / "public").write_text("y")
    place.path.chmod(0o755)
    assert run(*as_nobody, "cat", place / "public", check=False).returncode
    place.umount()
    place.mount("--allow-other")
    assert run(*as_nobody, "cat", place / "public").stdout == "y"
    assert run(*as_nobody, "cat", place / "secret", check=False).returncode
    assert run(*as_nobody, "touch", place / "new", check=False).returncode


@pytest.mark.needs("root")
def test_what_root_may_execute(vault: Mounted) -> None:
    (vault / "plain").write_text("#!/bin/sh\n")
    (vault / "plain").chmod(0o600)
    shutil.copy(vault / "plain", vault / "script")
    (vault / "script").chmod(0o700)
    assert not os.access(vault / "plain", os.X_OK)
    assert os.access(vault / "plain", os.R_OK | os.W_OK)
    run(vault / "script")
    with pytest.raises(PermissionError):
        run(vault / "plain")


def test_in_the_foreground_the_service_manager_is_told(place: Mounted) -> None:
    place.mount()
    place.umount()
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = place.folder / "notify"
    manager.bind(str(address))
    manager.settimeout(30)
    environment = {**os.environ, "NOTIFY_SOCKET": str(address)}
    command = [*ATEFS, "mount", "--foreground", "--passphrase-file", str(place.passphrase_file), str(place.path)]
    with manager, subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert b"READY=1" in manager.recv(4096)
        (place / "file").write_text("content")
        assert place.status()["pid"] == driver.pid
        driver.send_signal(signal.SIGTERM)
        assert b"STOPPING=1" in manager.recv(4096)
        _, said = driver.communicate(timeout=30)
        assert driver.returncode == 0, said
    place.mount()
    assert (place / "file").read_text() == "content"


def test_the_helper_of_mount_8(place: Mounted) -> None:
    helper = [sys.executable, "-c", "from atefs.cli.mount_helper import main; main()"]
    store = place.folder / "store"
    place.path.mkdir()
    options = f"rw,nofail,_netdev,x-systemd.automount,nosuid,passphrase-file={place.passphrase_file}"
    assert run(*helper, store, place.path, "-o", options, check=False).returncode == 32
    atefs("init", "--passphrase-file", place.passphrase_file, store)
    run(*helper, store, place.path, "-o", options)
    place.pid = place.status()["pid"]
    mount = mountinfo.find(place.path)
    assert mount
    assert "nosuid" in mount.options
    place.umount()
    assert run(*helper, store, place.path, "-o", "nonsense", check=False).returncode == 1


def test_log_and_control_socket_are_their_owners_alone(vault: Mounted) -> None:
    assert stat.S_IMODE(vault.log.stat().st_mode) == 0o600
    sockets = list((Path(os.environ["XDG_RUNTIME_DIR"]) / "ate").iterdir())
    assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o600]
    assert stat.S_IMODE(sockets[0].parent.stat().st_mode) == 0o700
    vault.umount()
    assert not sockets[0].exists()


def test_an_older_copy_of_the_store_is_noticed(place: Mounted) -> None:
    place.mount()
    (place / "old").touch()
    place.umount()
    shutil.copytree(place.store, place.folder / "copy")
    place.mount()
    (place / "new").touch()
    place.umount()
    shutil.rmtree(place.store)
    shutil.copytree(place.folder / "copy", place.store)
    said = refused(ExitCode.ROLLED_BACK, "mount", "--passphrase-file", place.passphrase_file, place.path)
    assert "--accept-rollback" in said
    place.mount("--accept-rollback")
    assert os.listdir(place.path) == ["old"]
    place.remount()  # what was accepted once stays accepted, though nothing has been written since
    assert os.listdir(place.path) == ["old"]


def test_a_flipped_byte_is_named_and_the_rest_is_salvaged(place: Mounted) -> None:
    place.mount()
    for number in range(200):
        (place / f"{number:03}").write_bytes(os.urandom(20_000))
    place.umount()
    segment = place.store / "segments" / "00000001.seg"
    content = bytearray(segment.read_bytes())
    content[2_000_000] ^= 1
    segment.write_bytes(content)
    secret = ("--passphrase-file", place.passphrase_file)
    assert "segment 1" in refused(ExitCode.DAMAGED, "fsck", *secret, place.path)
    repaired = atefs("fsck", "--repair", *secret, place.path).stdout
    assert "content is lost" in repaired
    atefs("fsck", *secret, place.path)
    place.mount()
    assert len(os.listdir(place.path)) == 200


def test_creating_a_file_costs_a_bounded_number_of_requests(vault: Mounted) -> None:
    """lookup, create, one getxattr, write, one setattr, flush, release; speed, as a count."""
    files = 100
    before = vault.status()["requests"]
    for number in range(files):
        (vault / f"{number}").write_bytes(b"x" * 4096)
    assert vault.status()["requests"] - before <= 8 * files + 40
