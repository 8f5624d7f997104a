"""Servers that are not to be trusted: what they may not do unnoticed, and who they let in."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from atedb.crypto.signing import SigningKey
from atedb.errors import ExitCode
from tests.system.mounted import until
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")


def is_refused(replica: Replica) -> bool:
    return bool(replica.server()["state"] == "stopped")


def backup(solo: Solo) -> None:
    solo.stop()
    shutil.copytree(solo.data, solo.data.with_name("backup"))
    solo.start()


def restore(solo: Solo) -> None:
    solo.stop()
    shutil.rmtree(solo.data)
    shutil.move(solo.data.with_name("backup"), solo.data)
    solo.start()


def test_a_server_that_lost_batches_is_named_and_can_be_accepted(machines: Machines, solo: Solo) -> None:
    a = machines("a")
    a.mount()
    (a / "old").write_text("old")
    until(a.sent, "all to be sent")
    backup(solo)
    until(a.is_state("online"), "the link to be back")
    (a / "new").write_text("new")
    until(a.sent, "all to be sent")
    restore(solo)
    until(lambda: is_refused(a), "the rollback to be noticed")
    assert "accept-rollback" in a.server()["error"]
    assert (a / "new").read_text() == "new"
    with pytest.raises(OSError, match="Read-only"):
        (a / "newer").write_text("x")
    a.umount("--leave-queued")
    shown = json.loads(a.atefs("trust", "show", a.path, "--json").stdout)
    assert shown["fingerprint"] == solo.fingerprint.hex()
    assert "sent again" in a.atefs("trust", "accept-rollback", a.path).stdout
    a.mount()
    until(a.is_state("online"), "the link to be back")
    (a / "newer").write_text("newer")
    until(a.sent, "all to be sent")
    b = machines("b")
    b.mount()
    assert set(alike(a, b)) == {"old", "new", "newer"}


def test_a_server_that_shows_two_histories_is_found_out(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "old").write_text("old")
    alike(a, b)
    b.umount()
    backup(solo)
    until(a.is_state("online"), "the link to be back")
    (a / "seen by a").write_text("a")
    until(a.sent, "all to be sent")
    a.umount()
    restore(solo)
    b.mount()
    for turn in range(3):
        (b / f"seen by b {turn}").write_text("b")
        until(b.sent, "all to be sent")
    a.mount()
    until(lambda: is_refused(a), "the fork to be noticed")
    assert "another" in a.server()["error"]
    assert sorted(os.listdir(a.path)) == ["old", "seen by a"]
    with pytest.raises(OSError, match="Read-only"):
        (a / "x").write_text("x")


def test_a_server_that_is_whole_is_not_suspected(machines: Machines, solo: Solo) -> None:
    """The negative twin: the same restarts and remounts, without a lie."""
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "old").write_text("old")
    alike(a, b)
    b.umount()
    solo.stop()
    solo.start()
    until(a.is_state("online"), "the link to be back")
    (a / "new").write_text("a")
    until(a.sent, "all to be sent")
    a.umount()
    b.mount()
    (b / "newer").write_text("b")
    a.mount()
    assert set(alike(a, b)) == {"old", "new", "newer"}
    said = a.atefs("umount", a.path).stdout
    assert "safe" in said
    assert "nothing changes" in a.atefs("trust", "accept-rollback", a.path).stdout


def test_only_identities_that_were_let_in_are_served(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    key = a.atefs("identity").stdout.strip()
    assert a.atefs("identity").stdout.strip() == key
    assert (a.home / "config" / "identity").stat().st_mode & 0o777 == 0o600
    solo.tenant("add", "you@example.com", f"--key={key}")
    a.mount()
    (a / "mine").write_text("mine")
    until(a.sent, "all to be sent")
    refused = b.atefs("mount", b.path, str(solo.url()), check=False)
    assert refused.returncode == ExitCode.REFUSED
    assert not b.store.exists()
    elsewhere = a.atefs("mount", a.home / "other", str(solo.url("/somebody/vault")), check=False)
    assert elsewhere.returncode == ExitCode.REFUSED
    assert len(bytes.fromhex(key)) == len(SigningKey(bytes(32)).public)


def test_a_changed_passphrase_reaches_the_server_and_the_other_machines(machines: Machines) -> None:
    a, b, c = machines("a"), machines("b"), machines("c")
    a.mount()
    b.mount()
    b.umount()
    (a.home / "new").touch(mode=0o600)
    (a.home / "new").write_text("another passphrase\n")
    a.atefs("passwd", a.path, "--new-passphrase-file", a.home / "new")
    a.atefs("umount", a.path)
    (a.home / "passphrase").write_text("another passphrase\n")
    a.mount()  # tells the server, if it was not told before
    assert c.atefs("mount", c.path, str(c.solo.url()), check=False).returncode == ExitCode.WRONG_SECRET
    (c.home / "passphrase").write_text("another passphrase\n")
    c.mount()
    b.mount()  # its own slots still know the old one, until it has met the server
    until(lambda: (b.store / "keys").read_bytes() == (a.store / "keys").read_bytes(), "b to have them")
    b.umount()
    assert b.atefs("mount", b.path, check=False).returncode == ExitCode.WRONG_SECRET
