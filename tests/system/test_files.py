"""What files and folders can be, on a real mount and after a remount."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, run

pytestmark = pytest.mark.needs("fuse")

MANY = 100_000


def test_a_folder_with_a_hundred_thousand_entries(vault: Mounted) -> None:
    folder = vault / "many"
    folder.mkdir()
    names = {f"entry {number:06}" for number in range(MANY)}
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o644))
    assert set(os.listdir(folder)) == names
    vault.remount()
    assert set(os.listdir(folder)) == names
    assert all(entry.stat().st_size == 0 for entry in os.scandir(folder))


def test_names_of_255_bytes_and_names_that_are_not_utf8(vault: Mounted) -> None:
    names = [b"n" * 255, b"\xff\xfe\x80 not utf-8", b" ", b"-", "ä".encode() * 127, b"new\nline", b"\x01\x7f"]
    root = os.fsencode(vault.path)
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(name)
    with pytest.raises(OSError, match="too long") as refused:
        open(os.path.join(root, b"n" * 256), "wb")
    assert refused.value.errno == errno.ENAMETOOLONG
    vault.remount()
    assert sorted(os.listdir(root)) == sorted(names)
    for name in names:
        assert Path(os.fsdecode(os.path.join(root, name))).read_bytes() == name


def test_a_sparse_file_of_a_tebibyte_takes_next_to_nothing(vault: Mounted) -> None:
    sparse = vault / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"in the middle")
    assert sparse.stat().st_size == 1 << 40
    assert sparse.stat().st_blocks * 512 <= 1 << 20
    vault.remount()
    with sparse.open("rb") as file:
        file.seek((1 << 39) - 10)
        assert file.read(30) == bytes(10) + b"in the middle" + bytes(7)
        file.seek(-5, os.SEEK_END)
        assert file.read() == bytes(5)
    assert sum(p.stat().st_size for p in vault.store.rglob("*.seg")) < 256 << 20
    sparse.unlink()


def test_hard_links_are_one_file(vault: Mounted) -> None:
    (vault / "one").write_bytes(b"content")
    os.link(vault / "one", vault / "two")
    assert (vault / "one").stat().st_nlink == 2
    vault.remount()
    assert (vault / "one").stat().st_ino == (vault / "two").stat().st_ino
    (vault / "two").write_bytes(b"changed")
    (vault / "one").unlink()
    assert (vault / "two").read_bytes() == b"changed"
    assert (vault / "two").stat().st_nlink == 1


def test_extended_attributes(vault: Mounted) -> None:
    file = vault / "file"
    file.touch()
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "user.binary", bytes(range(256)))
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.empty", b"again", os.XATTR_CREATE)
    with pytest.raises(OSError) as missing:  # noqa: PT011 - the errno is looked at
        os.setxattr(file, "user.missing", b"", os.XATTR_REPLACE)
    assert missing.value.errno == errno.ENODATA
    vault.remount()
    assert set(os.listxattr(file)) == {"user.empty", "user.binary"}
    assert os.getxattr(file, "user.binary") == bytes(range(256))
    os.removexattr(file, "user.empty")
    assert os.listxattr(file) == ["user.binary"]


def test_an_unlinked_file_lives_until_it_is_closed(vault: Mounted) -> None:
    with (vault / "gone").open("w+b") as file:
        file.write(b"x" * 300_000)
        file.flush()
        (vault / "gone").unlink()
        assert os.listdir(vault.path) == []
        assert os.fstat(file.fileno()).st_nlink == 0
        file.seek(0)
        assert file.read() == b"x" * 300_000
    vault.remount()
    assert os.listdir(vault.path) == []


def test_links_fifos_sockets_and_times(vault: Mounted) -> None:
    os.symlink("t" * 4000, vault / "link")
    os.mkfifo(vault / "fifo")
    (vault / "file").touch()
    os.utime(vault / "file", ns=(-1_500_000_001, 1_234_567_890_123_456_789))
    os.utime(vault / "link", ns=(1, 2), follow_symlinks=False)
    vault.remount()
    assert os.readlink(vault / "link") == "t" * 4000
    assert stat.S_ISFIFO((vault / "fifo").stat().st_mode)
    info = (vault / "file").stat()
    assert (info.st_atime_ns, info.st_mtime_ns) == (-1_500_000_001, 1_234_567_890_123_456_789)
    assert (vault / "link").lstat().st_mtime_ns == 2


def test_renames(vault: Mounted) -> None:
    (vault / "a").write_text("a")
    (vault / "b").write_text("b")
    (vault / "full").mkdir()
    (vault / "full/inside").touch()
    (vault / "empty").mkdir()
    os.rename(vault / "a", vault / "b")
    assert (vault / "b").read_text() == "a"
    with pytest.raises(OSError, match="not empty"):
        os.rename(vault / "empty", vault / "full")
    os.rename(vault / "full", vault / "empty")
    assert os.listdir(vault / "empty") == ["inside"]
    with pytest.raises(OSError, match="not empty"):
        (vault / "empty").rmdir()
    run("mv", "--no-clobber", "--no-target-directory", vault / "b", vault / "c")
    vault.remount()
    assert sorted(os.listdir(vault.path)) == ["c", "empty"]


def test_a_folder_read_while_it_changes_shows_no_ghosts(vault: Mounted) -> None:
    folder = vault / "folder"
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number:04}").touch()
    os.link(folder / "1999", vault / "kept")
    with os.scandir(folder) as entries:
        next(entries)
        for number in range(1000, 2000):
            (folder / f"{number:04}").unlink()
        seen = [entry.name for entry in entries]
    assert len(seen) == len(set(seen))
    assert not (folder / "1999").exists()
    assert sorted(os.listdir(folder)) == [f"{number:04}" for number in range(1000)]


def test_sizes_that_df_and_du_tell(vault: Mounted) -> None:
    info = os.statvfs(vault.path)
    assert info.f_namemax == 255
    assert 0 < info.f_bavail <= info.f_blocks
    (vault / "megabyte").write_bytes(os.urandom(1 << 20))
    assert (vault / "megabyte").stat().st_blocks == 2048
    used = int(run("du", "-s", "--block-size=1", vault.path).stdout.split()[0])
    assert 1 << 20 <= used <= (1 << 20) + 65536
