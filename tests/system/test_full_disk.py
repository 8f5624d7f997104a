"""A store whose disk is full: refused at the right call, and nothing lost."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import ONCE, Mounted, atefs, run, until

pytestmark = [pytest.mark.needs("fuse", "root"), ONCE]

MIB = 1 << 20
PIECE = 1 * MIB
BALLAST = 40 * MIB


class SmallDisk:
    """A vault whose store shares a small disk with a ballast, which can be thrown off or grow."""

    def __init__(self, vault: Mounted, folder: Path) -> None:
        self.vault = vault
        self.store = folder / "store"
        self._ballast = folder / "ballast"
        self._ballast.write_bytes(bytes(BALLAST))
        atefs("init", "--passphrase-file", vault.passphrase_file, self.store)
        vault.path.mkdir()
        self.mount()

    def mount(self) -> None:
        atefs("mount", "--passphrase-file", self.vault.passphrase_file, self.vault.path, self.store)
        self.vault.pid = self.vault.status()["pid"]

    def throw_off(self) -> None:
        self._ballast.unlink()

    def swell(self) -> None:
        """Take all that is left, the driver's reserve included."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def expect_sound(self) -> None:
        """`atefs fsck` finds nothing, after an unmount."""
        self.vault.umount()
        said = atefs("fsck", "--passphrase-file", self.vault.passphrase_file, self.store).stdout
        assert "Nothing is wrong." in said


@pytest.fixture
def small(place: Mounted, request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """A disk of 128 MiB, of which 40 are ballast."""
    disk = place.folder / "disk"
    disk.mkdir()
    if getattr(request, "param", "tmpfs") == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", "size=128m", "none", disk)
    else:
        image = place.folder / "image"
        with image.open("wb") as file:
            file.truncate(128 * MIB)
        run("mkfs.ext4", "-q", "-m", "0", image)
        run("mount", "-o", "loop", image, disk)
    try:
        yield SmallDisk(place, disk)
    finally:
        place.clean_up()
        run("umount", "-l", disk)


both = pytest.mark.parametrize(
    "small", ["tmpfs", pytest.param("ext4", marks=pytest.mark.needs("mkfs.ext4"))], indirect=True
)
"""tmpfs refuses a write when it comes, ext4 has room promised to what it has not placed yet."""


def refused(operation: Callable[[], object]) -> int:
    """The errno that it ends with, 0 for none."""
    try:
        operation()
    except OSError as error:
        return error.errno or 0
    return 0


def fill(vault: Mounted) -> int:
    """Write synced files until there is no room; how many were acknowledged."""
    content = os.urandom(PIECE)
    for number in range(200):
        if code := refused(lambda number=number: vault.write_synced(f"{number}", content)):  # type: ignore[misc]
            assert code == errno.ENOSPC
            return number
    raise AssertionError("the disk never filled up")


class Writer(Thread):
    """Writes files of 1 MiB until it is refused. kept: those that it was not told were incomplete.

    way: "close", "fsync" or "mmap". failed: the call that was refused, and its errno.
    """

    def __init__(self, folder: Path, way: str) -> None:
        super().__init__()
        self.kept: list[str] = []
        self.failed = ("", 0)
        self._folder = folder
        self._way = way
        self._call = ""

    def run(self) -> None:
        for number in range(200):
            name = f"{self._way}-{self.name}-{number}"
            try:
                self._write(name)
            except OSError as error:
                self.failed = self._call, error.errno or 0
                return
            self.kept.append(name)

    def _write(self, name: str) -> None:
        self._call = "open"
        fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT)
        try:
            if self._way == "mmap":
                self._write_mapped(fd, content_of(name))
            else:
                self._call = "write"
                os.write(fd, content_of(name))
            if self._way == "fsync":
                self._call = "fsync"
                os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        self._call = "close"
        os.close(fd)

    def _write_mapped(self, fd: int, content: bytes) -> None:
        self._call = "truncate"
        os.truncate(fd, PIECE)
        with mmap.mmap(fd, PIECE) as memory:
            memory[:] = content
            self._call = "fsync"
            memory.flush()


def content_of(name: str) -> bytes:
    return random.Random(name).randbytes(PIECE)


def test_reads_deletes_and_unmount_work_on_a_full_disk(small: SmallDisk) -> None:
    vault = small.vault
    acknowledged = fill(vault)
    assert acknowledged > 10
    assert all(len((vault / f"{number}").read_bytes()) == PIECE for number in range(acknowledged))
    (vault / "0").unlink()
    assert "0" not in os.listdir(vault.path)
    os.rename(vault / "1", vault / "renamed")
    small.expect_sound()
    names = atefs("ls", "--passphrase-file", vault.passphrase_file, small.store).stdout.split()
    assert {"renamed", *map(str, range(2, acknowledged))} <= set(names)
    assert "0" not in names


@both
def test_every_writer_is_told_at_write_fsync_or_close_and_what_was_kept_is_there(small: SmallDisk) -> None:
    vault = small.vault
    writers = [Writer(vault.path, way) for way in ("close", "close", "fsync", "mmap")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {writer.failed[1] for writer in writers} == {errno.ENOSPC}
    assert {writer.failed[0] for writer in writers} <= {"open", "truncate", "write", "fsync", "close"}
    kept = [name for writer in writers for name in writer.kept]
    assert len(kept) > 20
    vault.umount()
    small.mount()
    for name in kept:
        assert (vault / name).read_bytes() == content_of(name), f"{name}: its writer was told nothing"
    small.expect_sound()


def test_after_room_was_made_writing_works_without_a_remount(small: SmallDisk) -> None:
    """Deleting inside makes no room by itself: the log is not compacted. It still works, and is not lost."""
    vault = small.vault
    acknowledged = fill(vault)
    for number in range(0, acknowledged, 2):
        (vault / f"{number}").unlink()
    small.throw_off()
    for number in range(acknowledged, acknowledged + 10):
        vault.write_synced(f"{number}", content_of(f"{number}"))
    vault.umount()
    small.mount()
    assert set(os.listdir(vault.path)) >= {f"{number}" for number in range(1, acknowledged, 2)}
    assert not any((vault / f"{number}").exists() for number in range(0, acknowledged, 2))
    for number in range(acknowledged, acknowledged + 10):
        assert (vault / f"{number}").read_bytes() == content_of(f"{number}")
    small.expect_sound()


@both
def test_what_was_synced_survives_a_kill_on_a_full_disk(small: SmallDisk) -> None:
    vault = small.vault
    acknowledged = fill(vault)
    (vault / "0").unlink()
    vault.kill()
    small.mount()
    assert {f"{number}" for number in range(1, acknowledged)} <= set(os.listdir(vault.path))
    small.expect_sound()


@both
def test_what_somebody_else_left_no_room_for_waits_in_memory_and_unmounting_is_refused(small: SmallDisk) -> None:
    """The reserve is eaten by others: fsync says so, nothing is dropped, and `umount` does not call it safe."""
    vault = small.vault
    vault.write_synced("before", b"before")
    (vault / "waiting").write_bytes(content_of("waiting"))
    (vault / "before").unlink()
    small.swell()
    file = os.open(vault / "waiting", os.O_RDWR)
    assert refused(lambda: os.fsync(file)) == errno.ENOSPC
    assert refused(lambda: os.close(file)) == errno.ENOSPC
    assert (vault / "waiting").read_bytes() == content_of("waiting")
    said = atefs("umount", vault.path, check=False)
    assert (said.returncode, "full" in said.stderr) == (ExitCode.NO_SPACE, True)
    assert vault.path.is_mount()
    small.throw_off()
    until(lambda: vault.status()["error"] is None, "a commit that succeeds", 20)
    vault.umount()
    small.mount()
    assert os.listdir(vault.path) == ["waiting"]
    assert (vault / "waiting").read_bytes() == content_of("waiting")
    small.expect_sound()


def test_a_forced_unmount_without_room_does_not_claim_that_all_is_safe(small: SmallDisk) -> None:
    vault = small.vault
    vault.write_synced("before", b"before")
    (vault / "waiting").write_bytes(content_of("waiting"))
    small.swell()
    said = atefs("umount", "--lazy", vault.path)
    assert "full" in said.stderr
    assert "did not say that all of it is safe" in said.stdout
    small.throw_off()
    small.mount()
    assert os.listdir(vault.path) == ["before"]
    small.expect_sound()


def test_without_a_byte_left_a_vault_can_be_mounted_to_be_read(small: SmallDisk) -> None:
    vault = small.vault
    vault.write_synced("kept", b"kept")
    vault.kill()
    small.swell()
    arguments = ("--passphrase-file", vault.passphrase_file, vault.path, small.store)
    atefs("mount", "--read-only", *arguments)
    vault.pid = vault.status()["pid"]
    assert (vault / "kept").read_bytes() == b"kept"
    assert "all of it is safe" in atefs("umount", vault.path).stdout
    small.throw_off()
    small.mount()
    small.expect_sound()
