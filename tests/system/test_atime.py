"""Access times of a mount follow the rules of man 8 mount, as far as the kernel lets the driver see."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, run, until

LONG_AGO = 10**18
RECENTLY = 3600 * 10**9


def age(path: Path, *, atime: int = LONG_AGO, mtime: int = LONG_AGO - 1) -> int:
    """Give it old times; the change time, which is now, is left behind. Returns its access time."""
    os.utime(path, ns=(atime, mtime), follow_symlinks=False)
    return path.lstat().st_atime_ns


def was_noted(path: Path) -> bool:
    """Whether its access time is about now."""
    return time.time_ns() - path.lstat().st_atime_ns < RECENTLY


def look(path: Path) -> None:
    """Read it, whatever it is."""
    if path.is_symlink():
        os.readlink(path)
    elif path.is_dir():
        os.listdir(path)
    else:
        path.read_bytes()


def one_of_each(vault: Mounted) -> list[Path]:
    """A small file, a large one, a link and a folder."""
    paths = [vault / name for name in ("small", "large", "link", "folder")]
    paths[0].write_bytes(b"x")
    paths[1].write_bytes(bytes(1 << 20))
    paths[2].symlink_to("nowhere")
    paths[3].mkdir()
    (paths[3] / "inside").touch()
    return paths


def test_relatime_notes_the_first_reading_after_a_change_and_keeps_it(vault: Mounted) -> None:
    paths = one_of_each(vault)
    for path in paths:
        age(path)
        look(path)
        assert was_noted(path), path
    noted = {path: path.lstat().st_atime_ns for path in paths}
    vault.remount()
    assert {path: path.lstat().st_atime_ns for path in paths} == noted


def test_relatime_leaves_what_was_read_since_its_change(vault: Mounted) -> None:
    for path in one_of_each(vault):
        soon = time.time_ns() + RECENTLY
        os.utime(path, ns=(soon, LONG_AGO), follow_symlinks=False)
        look(path)
        assert path.lstat().st_atime_ns == soon, path


def test_what_is_read_once_is_not_noted_again_and_again(vault: Mounted) -> None:
    (vault / "file").write_bytes(b"x")
    until(lambda: time.time_ns() - (vault / "file").stat().st_ctime_ns > 50_000_000, "the clock to go on")
    look(vault / "file")
    noted = (vault / "file").stat().st_atime_ns
    assert noted > (vault / "file").stat().st_mtime_ns
    look(vault / "file")
    assert (vault / "file").stat().st_atime_ns == noted


def test_writing_and_opening_to_write_is_no_access(vault: Mounted) -> None:
    (vault / "file").write_bytes(b"x")
    old = age(vault / "file")
    with (vault / "file").open("ab") as file:
        file.write(b"more")
    (vault / "file").write_bytes(b"new")
    assert (vault / "file").stat().st_atime_ns == old


def test_strictatime_notes_each_reading(place: Mounted) -> None:
    place.mount("-o", "strictatime")
    for path in one_of_each(place):
        before = time.time_ns() - 10**9
        os.utime(path, ns=(before, LONG_AGO), follow_symlinks=False)
        for _ in range(1 if path.is_symlink() else 2):  # the kernel may keep a target and ask no more
            look(path)
            noted = path.lstat().st_atime_ns
            assert noted > before, path
            until(lambda noted=noted: time.time_ns() - noted > 50_000_000, "the clock to go on")  # type: ignore[misc]
            before = noted
    assert not place.complaints()


@pytest.mark.needs("root")
def test_strictatime_notes_each_request_of_a_file_that_stays_open(place: Mounted) -> None:
    place.mount("-o", "strictatime")
    (place / "file").write_bytes(bytes(1 << 20))
    with (place / "file").open("rb", buffering=0) as file:
        for _ in range(2):
            age(place / "file")
            run("sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches")
            file.seek(0)
            file.read(100)
            assert was_noted(place / "file")


def test_noatime_and_nodiratime_leave_them_alone(place: Mounted) -> None:
    place.mount("-o", "noatime")
    for path in one_of_each(place):
        old = age(path)
        look(path)
        assert path.lstat().st_atime_ns == old, path
    place.umount()
    place.mount("-o", "nodiratime")
    look(place / "folder")
    look(place / "small")
    assert (place / "folder").stat().st_atime_ns == LONG_AGO
    assert was_noted(place / "small")
    assert not place.complaints()


def test_o_noatime_leaves_it_alone(place: Mounted) -> None:
    place.mount("-o", "strictatime")
    (place / "file").write_bytes(b"x")
    old = age(place / "file")
    place.umount()
    place.mount("-o", "strictatime")
    fd = os.open(place / "file", os.O_RDONLY | os.O_NOATIME)
    assert os.read(fd, 10) == b"x"
    os.close(fd)
    assert (place / "file").stat().st_atime_ns == old
    look(place / "file")
    assert was_noted(place / "file")


def test_reading_a_read_only_mount_changes_nothing(vault: Mounted) -> None:
    paths = one_of_each(vault)
    old = {path: age(path) for path in paths}
    vault.umount()
    before = {path: path.read_bytes() for path in vault.store.rglob("*.seg")}
    vault.mount("--read-only", "-o", "strictatime")
    for path in paths:
        look(path)
    assert {path: path.lstat().st_atime_ns for path in paths} == old
    vault.umount()
    assert {path: path.read_bytes() for path in vault.store.rglob("*.seg")} == before
