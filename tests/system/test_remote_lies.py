"""A server that somebody has taken over: each lie that it can tell, met by a real mount.

What cannot be is found out and named, and the mount is read-only from then on, or the read fails; what was there before
stays readable. The twins show that it is our doing: the same lies are believed where a protection is taken away.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import ATEFS, until
from tests.system.replicas import Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")

BIG = b"content that travels when it is read " * 8000
MEMORY = 700 << 10
"""KiB that a driver may have at most, whatever it is sent."""


class Stage:
    """A server that lies when it is told to. `a` has written; `victim` has seen the older half of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lie = folder / "lie"
        self.solo = Solo(folder)
        self.solo.command = [sys.executable, "-m", "tests.system.liar", os.fspath(self._lie)]
        self.tell("")
        self.solo.start()
        self.a = Replica(folder, "a", self.solo)
        self.victim = Replica(folder, "victim", self.solo)
        self._kept = folder / "kept"
        try:
            self._write()
        except BaseException:
            self.clean_up()
            raise

    def _write(self) -> None:
        a, victim = self.a, self.victim
        a.mount("--recovery-mode", "sync")
        victim.mount()
        (a / "big").write_bytes(BIG)
        (a / "old").write_text("old")
        a.sync()
        until((victim / "old").exists, "the file")
        victim.umount()
        shutil.copytree(victim.home, self._kept)
        for turn in range(4):
            (a / f"new{turn}").write_text("new")
            a.sync()
        a.umount()
        other = Replica(self.folder, "other", self.solo)
        other.atefs("mount", other.path)
        other.atefs("umount", other.path)
        (other.home / "new").touch(mode=0o600)
        (other.home / "new").write_text("another passphrase\n")
        other.atefs("passwd", other.path, "--new-passphrase-file", other.home / "new")  # its slots are newer than ours
        for document in ("keys", "chain"):
            shutil.copy(other.store / document, self.folder / f"other {document}")

    def tell(self, lie: str) -> None:
        """Lie so from now on; "" ends it."""
        self._lie.write_text(lie)

    def fresh(self) -> Replica:
        """A machine that has nothing yet."""
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)
        return Replica(self.folder, "fresh", self.solo)

    def reset(self) -> None:
        """The victim is as it was, and nobody lies."""
        self.tell("")
        self.victim.command = ATEFS
        for replica in (self.a, self.victim):
            replica.clean_up()
        shutil.rmtree(self.victim.home)
        shutil.copytree(self._kept, self.victim.home)

    def clean_up(self) -> None:
        """Leave nothing behind."""
        for replica in (self.a, self.victim):
            replica.clean_up()
        self.solo.clean_up()


@pytest.fixture(scope="module")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.clean_up()


@pytest.fixture
def stage(whole_stage: Stage) -> Iterator[Stage]:
    """The same for every test."""
    whole_stage.reset()
    yield whole_stage
    whole_stage.reset()


def found_out(victim: Replica, words: str) -> None:
    """The lie is named, nothing of it is believed, what was there stays, and nothing can be changed."""
    until(victim.is_state("stopped"), f"the lie to be noticed: {words}", 20)
    assert words in victim.server()["error"]
    assert (victim / "old").read_text() == "old"
    assert not any(
        (victim / f"new{turn}").read_text() != "new" for turn in range(4) if (victim / f"new{turn}").exists()
    )
    with pytest.raises(OSError, match="Read-only"):
        (victim / "mine").write_text("x")
    assert peak_memory(victim.pid) < MEMORY
    victim.umount("--leave-queued")


def peak_memory(pid: int) -> int:
    """KiB that a process has had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def gullible(replica: Replica, protection: str) -> None:
    """From now on this machine's `atefs` lacks a protection."""
    replica.command = [sys.executable, "-m", "tests.system.gullible", protection]


# Batches


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("alter head", "does not verify"),
        ("alter body", "the server gave something that is no batch"),
        ("cut short", "the server gave something that is no batch"),
        ("nonsense", "the server gave something that is no batch"),
        ("huge", "the server gave something that is no batch"),
        ("leave out", "and nothing in between"),
        ("exchange", "and nothing in between"),
    ],
)
def test_a_lie_about_batches_is_found_out(stage: Stage, lie: str, words: str) -> None:
    stage.tell(lie)
    stage.victim.mount()
    found_out(stage.victim, words)


def test_batches_that_are_repeated_change_nothing(stage: Stage) -> None:
    stage.tell("repeat")
    stage.victim.mount()
    until((stage.victim / "new3").exists, "the files")
    assert sorted(os.listdir(stage.victim.path)) == ["big", "new0", "new1", "new2", "new3", "old"]
    assert stage.victim.server()["state"] == "online"
    stage.victim.umount()


def test_the_same_without_a_lie_is_believed(stage: Stage) -> None:
    """The negative twin of them all."""
    stage.victim.mount()
    until((stage.victim / "new3").exists, "the files")
    assert (stage.victim / "big").read_bytes() == BIG
    (stage.victim / "mine").write_text("x")
    os.unlink(stage.victim / "mine")
    stage.victim.umount()
    assert stage.victim.complaints() == []


# What it says that it has


@pytest.mark.parametrize(
    ("lie", "words"), [("older", "it had acknowledged"), ("nothing", "it had acknowledged"), ("other", "another batch")]
)
def test_a_lie_about_the_newest_batch_is_found_out(stage: Stage, lie: str, words: str) -> None:
    stage.victim.mount()
    until((stage.victim / "new3").exists, "the files")
    stage.victim.umount()
    stage.tell(lie)
    stage.victim.mount()
    found_out(stage.victim, words)


def test_whoever_does_not_compare_the_newest_batch_believes_it(stage: Stage) -> None:
    """The negative twin."""
    stage.victim.mount()
    until((stage.victim / "new3").exists, "the files")
    stage.victim.umount()
    stage.tell("other")
    gullible(stage.victim, "tails")
    stage.victim.mount()
    until(stage.victim.is_state("online"), "the link")
    stage.victim.umount()


def test_batches_that_are_promised_and_never_shown_keep_nobody_from_working(stage: Stage) -> None:
    stage.tell("newer")
    stage.victim.mount()
    until((stage.victim / "new3").exists, "the files")
    assert stage.victim.server()["state"] != "online"
    (stage.victim / "mine").write_text("x")
    os.unlink(stage.victim / "mine")
    stage.victim.sync()
    stage.victim.umount("--leave-queued")


# What it says that it has stored


def errno_of_writing(replica: Replica) -> int | None:
    """What fsync(2) says of a new file."""
    try:
        with (replica / "mine").open("w") as file:
            file.write("mine")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("lie", ["acknowledge another", "acknowledge more"])
def test_a_false_acknowledgement_is_found_out_and_fsync_does_not_believe_it(stage: Stage, lie: str) -> None:
    victim = stage.victim
    victim.mount("--recovery-mode", "sync")
    until((victim / "new3").exists, "the files")
    stage.tell(lie)
    told = errno_of_writing(victim)
    found_out(victim, "that is not ours")
    assert lie == "acknowledge more" or told in (errno.EHOSTUNREACH, errno.EROFS, errno.EIO)


def test_whoever_does_not_compare_acknowledgements_believes_them(stage: Stage) -> None:
    """The negative twin."""
    victim = stage.victim
    gullible(victim, "acknowledgements")
    victim.mount("--recovery-mode", "sync")
    until((victim / "new3").exists, "the files")
    stage.tell("acknowledge another")
    assert errno_of_writing(victim) is None
    victim.umount("--leave-queued")


def test_what_was_acknowledged_and_never_stored_is_missed_at_the_next_connection(stage: Stage) -> None:
    victim = stage.victim
    victim.mount("--recovery-mode", "sync")
    until((victim / "new3").exists, "the files")
    stage.tell("acknowledge unstored")
    assert errno_of_writing(victim) is None
    stage.tell("")
    stage.solo.stop()
    stage.solo.start()
    until(victim.is_state("stopped"), "the loss to be noticed", 20)
    assert "it had acknowledged" in victim.server()["error"]
    assert (victim / "mine").read_text() == "mine"
    victim.umount("--leave-queued")


@pytest.mark.long
def test_what_is_never_acknowledged_is_told_in_time(stage: Stage) -> None:
    victim = stage.victim
    victim.mount("--recovery-mode", "sync")
    until((victim / "new3").exists, "the files")
    stage.tell("never acknowledge")
    assert errno_of_writing(victim) == errno.EHOSTUNREACH
    victim.umount("--leave-queued")


def test_a_driver_that_is_killed_while_the_kernel_makes_it_wait_is_cleared_away(stage: Stage) -> None:
    """Somebody waits in fsync(2) of a folder for the server, and holds the folder; so a thread of the driver that is to
    tell the kernel of the others' new name in it waits, and cannot be killed: nor can the driver."""
    a, victim = stage.a, stage.victim
    a.mount()
    victim.mount("--recovery-mode", "sync")
    until((victim / "new3").exists, "the files")
    (victim / "folder").mkdir()
    victim.sync()
    until((a / "folder").exists, "the folder")
    stage.tell("never acknowledge")
    (victim / "folder" / "mine").touch()
    holder = subprocess.Popen([sys.executable, "-c", _SYNC_FOLDER, victim / "folder"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: victim.server()["pending_batches"] > 0, "the batch to wait")
        stage.tell("")
        (a / "folder" / "theirs").touch()
        a.sync()
        until(
            lambda: a.server()["pending_batches"] == 0 and is_waiting_in_notification(victim.pid), "the thread to wait"
        )
        victim.kill()
        assert "has ended" in victim.atefs("status", victim.path, check=False).stdout
        victim.mount()
        assert holder.wait(10) != 0
        assert set(alike(a, victim)) >= {"folder/mine", "folder/theirs"}
    finally:
        holder.kill()
        victim.clean_up()
        a.umount()


_SYNC_FOLDER = "import os, sys; os.fsync(os.open(sys.argv[1], os.O_RDONLY))"


def is_waiting_in_notification(pid: int) -> bool:
    """Whether a thread of a driver tells the kernel something, and is made to wait."""
    stacks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stack")]
    return any("fuse_reverse_inval" in stack for stack in stacks)


# Content


@pytest.mark.parametrize("lie", ["another body", "altered body", "cut body", "too many bodies", "huge body"])
def test_content_that_was_not_written_so_is_not_read(stage: Stage, lie: str) -> None:
    victim = stage.fresh()
    victim.mount()
    try:
        stage.tell(lie)
        with pytest.raises(OSError, match=r"Input/output|No route"):  # what breaks the protocol ends the connection
            (victim / "big").read_bytes()
        assert (victim / "old").read_text() == "old"
        assert peak_memory(victim.pid) < MEMORY
        stage.tell("")
        assert (victim / "big").read_bytes() == BIG
        victim.umount()
    finally:
        victim.clean_up()


@pytest.mark.long
def test_content_that_never_comes_is_given_up_in_time(stage: Stage) -> None:
    victim = stage.fresh()
    victim.mount()
    try:
        stage.tell("never a body")
        with pytest.raises(OSError, match="No route"):
            (victim / "big").read_bytes()
        victim.umount()
    finally:
        victim.clean_up()


# Documents


@pytest.mark.parametrize("lie", ["altered keys", "no keys", "others' keys"])
def test_key_slots_of_somebody_else_open_nothing_and_replace_nothing(stage: Stage, lie: str) -> None:
    victim = stage.victim
    before = (victim.store / "keys").read_bytes()
    stage.tell(lie)
    victim.mount()
    until((victim / "new3").exists, "the files")
    assert (victim.store / "keys").read_bytes() == before
    assert any("key slots that the server has stay" in line for line in victim.complaints())
    victim.umount()
    fresh = stage.fresh()
    refused = fresh.atefs("mount", fresh.path, str(stage.solo.url()), check=False)
    assert refused.returncode in (ExitCode.WRONG_SECRET, ExitCode.DAMAGED), refused.stderr
    assert not fresh.store.exists()


def test_whoever_does_not_verify_key_slots_takes_them_over(stage: Stage) -> None:
    """The negative twin."""
    victim = stage.victim
    before = (victim.store / "keys").read_bytes()
    stage.tell("others' keys")
    gullible(victim, "keys")
    victim.mount()
    until(lambda: (victim.store / "keys").read_bytes() != before, "the keys to be replaced", 20)
    victim.umount()


def test_another_chain_under_the_address_is_found_out(stage: Stage) -> None:
    stage.tell("another chain")
    stage.victim.mount()
    found_out(stage.victim, "another vault under this address")
    fresh = stage.fresh()
    refused = fresh.atefs("mount", fresh.path, str(stage.solo.url()), check=False)
    assert refused.returncode != 0
    assert not fresh.store.exists()
