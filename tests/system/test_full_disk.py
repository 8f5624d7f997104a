"""A store whose disk is full: refused at the right call, and nothing lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.system.mounted import Mounted, atefs, run

pytestmark = pytest.mark.needs("fuse", "root")


@pytest.fixture
def small(place: Mounted) -> Iterator[Mounted]:
    """A vault whose store lies on a disk of 192 MiB."""
    disk = place.folder / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=192m", "none", disk)
    try:
        atefs("init", "--passphrase-file", place.passphrase_file, disk / "store")
        place.path.mkdir()
        atefs("mount", "--passphrase-file", place.passphrase_file, place.path, disk / "store")
        place.pid = place.status()["pid"]
        yield place
    finally:
        place.clean_up()
        run("umount", "-l", disk)


def fill(small: Mounted) -> int:
    """Write synced files until there is no room; how many were acknowledged."""
    content = os.urandom(4 << 20)
    for number in range(100):
        if code := refusal(small, f"{number}", content):
            assert code == errno.ENOSPC
            return number
    raise AssertionError("the disk never filled up")


def refusal(small: Mounted, name: str, content: bytes) -> int:
    """The errno that writing a synced file ends with, 0 for none."""
    try:
        small.write_synced(name, content)
    except OSError as error:
        return error.errno or 0
    return 0


def test_writes_fail_with_enospc_and_reads_deletes_and_unmount_work(small: Mounted) -> None:
    acknowledged = fill(small)
    assert acknowledged > 10
    assert all(len((small / f"{number}").read_bytes()) == 4 << 20 for number in range(acknowledged))
    (small / "0").unlink()
    assert "0" not in os.listdir(small.path)
    os.rename(small / "1", small / "renamed")
    small.umount()
    store = small.folder / "disk" / "store"
    assert "Nothing is wrong." in atefs("fsck", "--passphrase-file", small.passphrase_file, store).stdout
    names = atefs("ls", "--passphrase-file", small.passphrase_file, store).stdout.split()
    assert {"renamed", *map(str, range(2, acknowledged))} <= set(names)
    assert "0" not in names
