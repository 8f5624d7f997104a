"""What programs find on a mount is what man 7 inode and its neighbours promise, in the corners that are often wrong."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, run, until

USER, GROUP = 65_534, 65_533
LONG_AGO = 10**18
HANDLES, FILES = 100_000, 1_000


@pytest.fixture
def shared(place: Mounted) -> Iterator[Mounted]:
    """A new vault that everybody may use, so that the kernel checks permissions."""
    place.mount("--allow-other")
    place.path.chmod(0o777)
    yield place
    assert not place.complaints()


def as_user(vault: Mounted, command: str, *, group: int = GROUP) -> int:
    """What a shell command returns that an ordinary user runs in the vault's root."""
    who = ["setpriv", f"--reuid={USER}", f"--regid={group}", "--clear-groups"]
    return run(*who, "sh", "-c", command, cwd=vault.path, check=False).returncode


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def forget_everything() -> None:
    """Have the kernel drop every inode and page that it can do without."""
    run("sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches")


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


# Room


def test_what_a_cut_file_no_longer_takes_is_deleted_and_du_sees_it(vault: Mounted) -> None:
    file = vault / "big"
    file.write_bytes(os.urandom(20 << 20))
    fd = os.open(file, os.O_RDWR)
    os.fsync(fd)
    os.truncate(file, 1000)
    os.fsync(fd)
    until(lambda: os.fstat(fd).st_blocks == 8, "du to see it")
    until(lambda: int(vault.status()["live_bytes"]) < 1 << 20, "the rest to be deleted")
    os.close(fd)


# Owners and modes


@pytest.mark.needs("root", "setpriv")
def test_what_is_made_belongs_to_who_made_it(shared: Mounted) -> None:
    assert as_user(shared, "umask 027; : >file; mkdir folder; ln -s x link; mkfifo fifo") == 0
    for name in ("file", "folder", "link", "fifo"):
        found = (shared / name).lstat()
        assert (found.st_uid, found.st_gid) == (USER, GROUP)
    assert (mode_of(shared / "file"), mode_of(shared / "folder"), mode_of(shared / "fifo")) == (0o640, 0o750, 0o640)


@pytest.mark.needs("root", "setpriv")
def test_a_setgid_folder_hands_on_its_group_and_to_folders_the_bit(shared: Mounted) -> None:
    (shared / "team").mkdir()
    os.chown(shared / "team", 0, 1000)
    (shared / "team").chmod(0o2777)
    assert as_user(shared, ": >team/file && mkdir team/folder && : >team/folder/file") == 0
    for name in ("file", "folder", "folder/file"):
        assert (shared / "team" / name).stat().st_gid == 1000
    assert mode_of(shared / "team/folder") & stat.S_ISGID
    assert not mode_of(shared / "team/file") & stat.S_ISGID


@pytest.mark.needs("root", "setpriv")
def test_set_id_bits_fall_when_a_user_writes_cuts_or_gives_away(shared: Mounted) -> None:
    for change in ("echo more >>file", ": >file", "truncate -s 1 file", "chgrp 65533 file"):
        (shared / "file").write_text("content")
        os.chown(shared / "file", USER, GROUP)
        (shared / "file").chmod(0o6777)
        assert as_user(shared, change) == 0
        assert mode_of(shared / "file") == 0o777, change
    (shared / "file").chmod(0o6777)
    os.chown(shared / "file", 0, 0)
    assert mode_of(shared / "file") == 0o777
    (shared / "file").chmod(0o6777)
    (shared / "file").write_text("by root, who may")
    assert mode_of(shared / "file") == 0o6777
    (shared / "file").chmod(0o2767)
    os.chown(shared / "file", USER, 0)
    assert mode_of(shared / "file") == 0o2767, "without group execution it means mandatory locking"


@pytest.mark.needs("root", "setpriv")
def test_setgid_is_kept_by_members_of_the_group_and_cleared_for_others(shared: Mounted) -> None:
    for group, expected in ((1000, 0o2755), (0, 0o755)):
        (shared / "file").touch()
        os.chown(shared / "file", USER, group)
        assert as_user(shared, "chmod 2755 file", group=1000) == 0
        assert mode_of(shared / "file") == expected


@pytest.mark.needs("root", "setpriv")
def test_in_a_sticky_folder_nobody_removes_what_others_own(shared: Mounted) -> None:
    shared.path.chmod(0o1777)
    (shared / "roots").touch()
    assert as_user(shared, "rm -f roots") != 0
    assert as_user(shared, "mv roots mine") != 0
    assert as_user(shared, ": >own && mv own mine && mv -f mine roots") != 0
    assert as_user(shared, "rm -f mine") == 0
    assert sorted(os.listdir(shared.path)) == ["roots"]


@pytest.mark.needs("root", "setpriv")
def test_the_names_of_trusted_attributes_are_told_to_root_only(shared: Mounted) -> None:
    (shared / "file").touch()
    for name in ("trusted.of-root", "user.of-all"):
        os.setxattr(shared / "file", name, b"value")
    assert sorted(os.listxattr(shared / "file")) == ["trusted.of-root", "user.of-all"]
    listing = 'python3 -c \'import os; exit(os.listxattr("file") != ["user.of-all"])\''
    assert as_user(shared, listing) == 0


@pytest.mark.needs("root", "setpriv")
def test_a_folder_of_mode_0_is_closed_to_its_owner_who_can_open_it_again(shared: Mounted) -> None:
    assert as_user(shared, "mkdir -m 0 closed") == 0
    assert as_user(shared, "ls closed") != 0
    assert as_user(shared, ": >closed/file") != 0
    assert os.listdir(shared / "closed") == []
    assert as_user(shared, "chmod 700 closed && : >closed/file && chmod 0 closed") == 0
    assert as_user(shared, "cat closed/file") != 0
    assert os.listdir(shared / "closed") == ["file"]
    shared.umount()
    shared.mount("--allow-other")
    assert mode_of(shared / "closed") == 0
    assert as_user(shared, "ls closed") != 0
    assert as_user(shared, "chmod 700 closed && rm closed/file && rmdir closed") == 0


# Names


def test_targets_of_4095_bytes_loops_and_names_that_are_too_long(vault: Mounted) -> None:
    (vault / "longest").symlink_to("t" * 4095)
    with refused(errno.ENAMETOOLONG):
        (vault / "longer").symlink_to("t" * 4096)
    with refused(errno.ENAMETOOLONG):
        (vault / ("n" * 256)).mkdir()
    with refused(errno.ENAMETOOLONG):
        os.stat(os.fspath(vault.path) + "/x" * 2048)
    (vault / "one").symlink_to("two")
    (vault / "two").symlink_to("one")
    for path in (vault / "one", vault / "one/inside"):
        with refused(errno.ELOOP):
            path.stat()
    with refused(errno.ELOOP):
        os.open(vault / "one", os.O_RDONLY | os.O_NOFOLLOW)
    vault.remount()
    assert os.readlink(vault / "longest") == "t" * 4095


def test_link_counts_of_folders_count_their_subfolders(vault: Mounted) -> None:
    root, one, two = vault.path, vault / "one", vault / "two"

    def counts() -> tuple[int, ...]:
        return root.stat().st_nlink, one.stat().st_nlink, two.stat().st_nlink

    one.mkdir()
    two.mkdir()
    assert counts() == (4, 2, 2)
    (one / "inner").mkdir()
    (one / "file").touch()
    assert counts() == (4, 3, 2)
    os.rename(one / "inner", two / "inner")
    assert counts() == (4, 2, 3)
    (one / "inner").mkdir()
    os.rename(one / "inner", two / "inner")
    assert counts() == (4, 2, 3)
    vault.remount()
    assert counts() == (4, 2, 3)
    (two / "inner").rmdir()
    assert counts() == (4, 2, 2)


@pytest.mark.needs("root", "git")
def test_hard_links_share_a_number_after_the_kernel_forgot_them(vault: Mounted) -> None:
    (vault / "source").mkdir()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for number in range(50):
        (vault / "source" / f"file {number}").write_text(f"content {number}")
    run("git", "init", "-q", vault / "source")
    run("git", "-C", vault / "source", "add", ".")
    run("git", "-C", vault / "source", *identity, "commit", "-qm", "all")
    forget_everything()
    run("git", "clone", "-q", "--local", vault / "source", vault / "clone")
    forget_everything()
    objects = [path for path in (vault / "source/.git/objects").rglob("*") if path.is_file()]
    assert len(objects) > 50
    for path in objects:
        twin = vault / "clone" / path.relative_to(vault / "source")
        assert (twin.stat().st_ino, twin.stat().st_nlink) == (path.stat().st_ino, 2)


class Stream:
    """A directory stream of man 3 readdir: Python's own has no telldir."""

    class _Entry(ctypes.Structure):
        _fields_ = (
            ("ino", ctypes.c_ulong),
            ("off", ctypes.c_long),
            ("length", ctypes.c_ushort),
            ("type", ctypes.c_ubyte),
            ("name", ctypes.c_char * 256),
        )

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.opendir.restype = ctypes.c_void_p
        libc.readdir.restype = ctypes.POINTER(self._Entry)
        libc.telldir.restype = ctypes.c_long
        for name in ("readdir", "telldir", "closedir"):
            getattr(libc, name).argtypes = (ctypes.c_void_p,)
        libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
        self._libc = libc
        self._stream = libc.opendir(os.fsencode(path))
        assert self._stream

    def take(self, count: int) -> list[str]:
        """The next names, fewer at the end."""
        names: list[str] = []
        while len(names) < count and (entry := self._libc.readdir(self._stream)):
            names.append(os.fsdecode(entry.contents.name))
        return names

    def tell(self) -> int:
        return int(self._libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        self._libc.seekdir(self._stream, position)

    def close(self) -> None:
        self._libc.closedir(self._stream)


def test_a_position_in_a_folder_stays_good_while_entries_come_and_go(vault: Mounted) -> None:
    folder = vault / "folder"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04}").touch()
    stream = Stream(folder)
    first = stream.take(1000)
    position = stream.tell()
    second = stream.take(500)
    gone = {*first[10:500], *second[100:300]} - {".", ".."}
    for name in gone:
        (folder / name).unlink()
    for number in range(500):
        (folder / f"new {number:04}").touch()
    stream.seek(position)
    rest = stream.take(10_000)
    stream.close()
    seen = [*first, *rest]
    assert rest[:100] == second[:100]
    assert len(seen) == len(set(seen))
    assert {f"{number:04}" for number in range(3000)} - gone <= set(seen)


# Content


def test_several_writers_append_whole_lines(vault: Mounted) -> None:
    script = "import os, sys\nfd = os.open('log', os.O_WRONLY | os.O_APPEND)\n"
    script += "for n in range(500): os.write(fd, (f'{sys.argv[1]} {n} ' + 'x' * 90 + '\\n').encode())"
    (vault / "log").touch()
    writers = [subprocess.Popen([sys.executable, "-c", script, str(who)], cwd=vault.path) for who in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    vault.remount()
    lines = (vault / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{who} {n} {'x' * 90}" for who in range(4) for n in range(500))
    for who in "0123":
        assert [int(line.split()[1]) for line in lines if line.startswith(f"{who} ")] == list(range(500))


@pytest.mark.parametrize("through", ["write", "mmap"])
def test_times_follow_what_is_written_through_the_kernels_cache(vault: Mounted, through: str) -> None:
    file = vault / "file"
    file.write_bytes(bytes(8192))
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    before = file.stat().st_ctime_ns
    until(lambda: time.time_ns() - before > 50_000_000, "the clock to go on")
    with file.open("r+b") as opened:
        if through == "write":
            opened.write(b"x")
            opened.flush()
        else:
            with mmap.mmap(opened.fileno(), 8192) as mapped:
                mapped[5000] = 1
                mapped.flush()
        seen = os.fstat(opened.fileno())
        assert seen.st_mtime_ns > before
        assert seen.st_ctime_ns > before
    after = file.stat()
    vault.remount()
    kept = file.stat()
    assert (kept.st_mtime_ns, kept.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert kept.st_mtime_ns > before


def test_what_is_written_never_looks_older_than_what_was_made_before(vault: Mounted) -> None:
    with (vault / "written").open("wb", buffering=0) as written:
        for number in range(500):
            (vault / f"made {number}").mkdir()  # stamped by the driver
            made = (vault / f"made {number}").stat().st_mtime_ns
            written.write(b"x")  # stamped by the kernel
            assert made <= (vault / "written").stat().st_mtime_ns


def test_times_before_1970_and_of_links_are_kept_to_the_nanosecond(vault: Mounted) -> None:
    (vault / "file").touch()
    (vault / "folder").mkdir()
    (vault / "link").symlink_to("file")
    times = {"file": (-1, -(10**18) - 1), "folder": (1, 4_000_000_000_123_456_789), "link": (-999_999_999, 7)}
    for name, given in times.items():
        os.utime(vault / name, ns=given, follow_symlinks=False)
    for _ in range(2):
        found = {name: (vault / name).lstat() for name in times}
        assert {name: (info.st_atime_ns, info.st_mtime_ns) for name, info in found.items()} == times
        vault.remount()


@pytest.mark.needs("root")
def test_a_hundred_thousand_open_files_take_no_descriptors_of_the_store(vault: Mounted) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = min(most - 100, HANDLES)
    script = f"import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n"
    script += f"opened = [os.open(str(n % {FILES}), os.O_RDWR) for n in range({each})]\n"
    script += "print(os.pread(opened[-1], 10, 0), flush=True)\ninput()"
    for number in range(FILES):
        (vault / str(number)).write_text("x")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{vault.pid}/fd"))

    before = descriptors()
    command = [sys.executable, "-c", script]
    users = [
        subprocess.Popen(command, cwd=vault.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(-(-HANDLES // each))
    ]
    for user in users:
        assert user.stdout is not None
        assert user.stdout.readline() == b"b'x'\n"
    assert descriptors() <= before + 2
    for user in users:
        user.communicate(b"\n")
        assert user.returncode == 0


def test_a_lock_that_is_waited_for_does_not_stop_the_driver(vault: Mounted) -> None:
    file = vault / "file"
    file.touch()
    script = "import fcntl, sys\nfile = open('file', 'r+b')\nprint('there', flush=True)\n"
    script += "fcntl.flock(file, fcntl.LOCK_EX)\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint('mine', flush=True)"
    with file.open("r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        waiting = subprocess.Popen([sys.executable, "-c", script], cwd=vault.path, stdout=subprocess.PIPE)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"there\n"
        blocked = Path(f"/proc/{waiting.pid}/wchan")
        until(lambda: "lock" in blocked.read_text() or "wait" in blocked.read_text(), "the other one to wait")
        (vault / "another").write_text("x")
        assert (vault / "another").read_text() == "x"
        assert waiting.poll() is None
    assert waiting.stdout.readline() == b"mine\n"
    assert waiting.wait() == 0
    waiting.stdout.close()


def test_a_program_that_runs_is_not_written_to(vault: Mounted) -> None:
    shutil.copy("/bin/sleep", vault / "program")
    running = subprocess.Popen([vault / "program", "60"])
    with refused(errno.ETXTBSY):
        os.open(vault / "program", os.O_WRONLY)
    running.kill()
    running.wait()
    os.close(os.open(vault / "program", os.O_WRONLY))


@pytest.mark.needs("fuse")
def test_a_file_is_ready_for_whoever_polls_and_the_kernel_knows_that_by_itself(vault: Mounted) -> None:
    """The first POLL is answered that there is no such call: for the kernel that means always ready, for good."""
    with (vault / "file").open("w+b", buffering=0) as file:
        poller = select.poll()
        poller.register(file, select.POLLIN | select.POLLOUT)
        assert poller.poll(0) == [(file.fileno(), select.POLLIN | select.POLLOUT)]
        before = vault.status()["requests"]
        for _ in range(100):
            assert select.select([file], [file], [], 0)[:2] == ([file], [file])
        with select.epoll() as events:
            events.register(file, select.EPOLLIN)
            assert events.poll(0) == [(file.fileno(), select.EPOLLIN)]
        assert vault.status()["requests"] - before < 10
