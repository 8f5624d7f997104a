"""The calls that only the direct adapter carries, as programs make them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, atefs, run

pytestmark = [pytest.mark.needs("fuse", "root"), pytest.mark.parametrize("driver", ["direct"], indirect=True)]

MIB = 1 << 20
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
RENAME_EXCHANGE, RENAME_WHITEOUT = 2, 4
libc = ctypes.CDLL(None, use_errno=True)


def refused(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 when it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    return os.open(path, flags, 0o644)


def test_direct_io_appends_behind_what_is_written_and_still_cached(vault: Mounted) -> None:
    fd = opened(vault / "file")
    os.write(fd, b"a" * 20_000)
    page = mmap.mmap(-1, 4096)
    page.write(b"b" * 4096)
    direct = opened(vault / "file", os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
    os.write(direct, page)
    assert os.pread(fd, 30_000, 0) == b"a" * 20_000 + b"b" * 4096
    os.close(direct)
    os.close(fd)


def test_holes_are_punched_and_found(vault: Mounted) -> None:
    fd = opened(vault / "file")
    os.write(fd, b"x" * MIB)
    os.close(fd)
    before = (vault / "file").stat().st_blocks
    fd = opened(vault / "file")
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 256 << 10, 512 << 10)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 256 << 10
    assert os.lseek(fd, 256 << 10, os.SEEK_DATA) == 768 << 10
    assert os.pread(fd, 8, 300 << 10) == bytes(8)
    assert os.fstat(fd).st_size == MIB
    assert os.fstat(fd).st_blocks == before // 2
    assert refused(lambda: os.lseek(fd, MIB, os.SEEK_DATA)) == errno.ENXIO
    os.close(fd)


def test_ranges_are_allocated_and_zeroed(vault: Mounted) -> None:
    fd = opened(vault / "file")
    os.posix_fallocate(fd, 0, 3 * MIB)
    assert os.fstat(fd).st_size == 3 * MIB
    os.pwrite(fd, b"y" * MIB, MIB)
    fallocate(fd, ZERO_RANGE, MIB, 4 * MIB)
    assert os.fstat(fd).st_size == 5 * MIB
    assert os.pread(fd, MIB, MIB) == bytes(MIB)
    fallocate(fd, KEEP_SIZE, 0, 9 * MIB)
    assert os.fstat(fd).st_size == 5 * MIB
    assert refused(lambda: fallocate(fd, COLLAPSE_RANGE, 0, 4096)) == errno.EOPNOTSUPP
    os.close(fd)


def test_a_copy_shares_its_blocks_and_is_independent(vault: Mounted) -> None:
    content = os.urandom(16 * MIB)
    (vault / "first").write_bytes(content)
    vault.remount()
    stored = vault.status()["stored_bytes"]
    source, target = opened(vault / "first"), opened(vault / "second")
    copied = 0
    while copied < len(content):
        copied += os.copy_file_range(source, target, len(content) - copied)
    os.fsync(target)
    assert vault.status()["stored_bytes"] - stored < MIB
    os.pwrite(source, b"changed", 5 * MIB)
    os.close(source)
    os.close(target)
    vault.remount()
    assert (vault / "second").read_bytes() == content
    assert (vault / "first").read_bytes() == content[: 5 * MIB] + b"changed" + content[5 * MIB + 7 :]
    (vault / "first").unlink()
    vault.remount()
    assert (vault / "second").read_bytes() == content


def test_a_name_that_overlayfs_takes_away_leaves_a_whiteout(vault: Mounted) -> None:
    (vault / "old").write_bytes(b"content")
    old, new = os.fsencode(vault / "old"), os.fsencode(vault / "new")
    assert libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_WHITEOUT) == 0
    assert (vault / "new").read_bytes() == b"content"
    left = (vault / "old").stat()
    assert (left.st_mode, left.st_rdev) == (stat.S_IFCHR, 0)
    assert libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_WHITEOUT | RENAME_EXCHANGE) == -1
    vault.remount()
    assert sorted(os.listdir(vault.path)) == ["new", "old"]


def test_a_file_without_a_name_can_get_one(vault: Mounted) -> None:
    fd = opened(vault.path, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"nameless")
    assert os.listdir(vault.path) == []
    assert os.fstat(fd).st_nlink == 0
    named = os.fsencode(vault / "named")
    assert libc.linkat(AT_FDCWD, f"/proc/self/fd/{fd}".encode(), AT_FDCWD, named, AT_SYMLINK_FOLLOW) == 0
    os.close(fd)
    lost = opened(vault.path, os.O_TMPFILE | os.O_RDWR)
    os.write(lost, b"never named")
    os.close(lost)
    vault.remount()
    assert (vault / "named").read_bytes() == b"nameless"
    assert os.listdir(vault.path) == ["named"]


def test_attributes_of_chattr_bind_root_as_well(vault: Mounted) -> None:
    path = vault / "file"
    path.write_bytes(b"content")
    run("chattr", "+i", path)
    assert run("lsattr", path).stdout.split()[0].count("i") == 1
    assert refused(lambda: path.write_bytes(b"other")) == errno.EPERM
    assert refused(path.unlink) == errno.EPERM
    assert refused(lambda: path.rename(vault / "moved")) == errno.EPERM
    run("chattr", "-i", "+a", path)
    assert refused(lambda: opened(path, os.O_WRONLY)) == errno.EPERM
    with path.open("ab") as file:
        file.write(b" and more")
    run("chattr", "-a", path)
    assert path.read_bytes() == b"content and more"
    with path.open() as file:
        assert refused(lambda: fcntl.ioctl(file, 0x5401, bytes(64))) == errno.ENOTTY


def test_a_change_of_flags_shows_no_other_time_after_the_next_mount(vault: Mounted) -> None:
    for name in ("file", "folder"):
        path = vault / name
        path.mkdir() if name == "folder" else path.write_bytes(b"content")
        run("chattr", "+d", path)
        before = path.stat().st_ctime_ns
        vault.remount()
        assert path.stat().st_ctime_ns == before
        assert "d" in run("lsattr", "-d", path).stdout.split()[0]


def test_statx_gives_the_birth_time(vault: Mounted) -> None:
    path = vault / "file"
    path.write_bytes(b"content")
    born = run("stat", "-c", "%W", path).stdout.strip()
    os.utime(path, (1, 1))
    assert run("stat", "-c", "%W", path).stdout.strip() == born
    assert abs(int(born) - path.stat().st_ctime) < 60


def test_setxattr_knows_create_and_replace(vault: Mounted) -> None:
    path = vault / "file"
    path.touch()
    assert refused(lambda: os.setxattr(path, "user.a", b"1", os.XATTR_REPLACE)) == errno.ENODATA
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    assert refused(lambda: os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)) == errno.EEXIST
    assert os.getxattr(path, "user.a") == b"1"


def test_set_id_bits_fall_when_somebody_else_writes(place: Mounted) -> None:
    place.mount("--allow-other")
    for folder in (place.path, place.folder, *place.folder.parents):
        folder.chmod(folder.stat().st_mode | 0o011)
    path = place / "file"
    path.write_bytes(b"content")
    for change in ("open(path, 'r+b').write(b'x')", "os.truncate(path, 3)", "open(path, 'wb')"):
        path.chmod(0o6777)
        run("python3", "-c", f"import os; path = {str(path)!r}; os.setgid(1000); os.setuid(1000); {change}")
        assert path.stat().st_mode & 0o7777 == 0o777, change
    path.chmod(0o6777)
    path.write_bytes(b"by root")
    assert path.stat().st_mode & 0o7777 == 0o6777
    assert not place.complaints()


def test_locks_hold_between_processes_and_a_waiting_one_can_be_killed(vault: Mounted) -> None:
    fd = opened(vault / "file")
    fcntl.flock(fd, fcntl.LOCK_EX)
    other = opened(vault / "file")
    assert refused(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EWOULDBLOCK
    waiting = ["timeout", "-s", "KILL", "0.3", "flock", str(vault / "file"), "true"]
    assert run(*waiting, check=False).returncode != 0
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_SETLK, lock)
    (vault / "other").write_bytes(b"the driver answers all the while")
    os.close(fd)
    os.close(other)


def test_a_killed_driver_and_a_forced_unmount_end_cleanly(vault: Mounted) -> None:
    vault.write_synced("file", b"content")
    fd = opened(vault / "file", os.O_RDONLY)
    vault.kill()
    assert refused((vault / "other").touch) == errno.ENOTCONN
    assert refused(lambda: os.close(fd)) in (errno.ENOTCONN, 0)
    vault.mount()
    assert (vault / "file").read_bytes() == b"content"
    run("umount", "-f", vault.path)
    vault.mount()
    assert (vault / "file").read_bytes() == b"content"
    assert atefs("status", vault.path).returncode == 0
