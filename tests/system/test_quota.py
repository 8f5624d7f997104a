"""A vault whose quota is used up: refused with EDQUOT at the right call, until something is deleted."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.system.mounted import ONCE, Mounted, atefs, until
from tests.system.test_full_disk import PIECE, refused

pytestmark = [pytest.mark.needs("fuse"), ONCE]


@pytest.fixture
def bounded(place: Mounted) -> Mounted:
    """A vault that may hold 8 MiB."""
    store = place.folder / "store"
    atefs("init", "--passphrase-file", place.passphrase_file, "--quota", "8M", store)
    place.path.mkdir()
    atefs("mount", "--passphrase-file", place.passphrase_file, place.path, store)
    place.pid = place.status()["pid"]
    return place


def use_up(vault: Mounted) -> None:
    """Fill what is left of the quota with less and less. What it really takes is known at the commit only."""
    for size in (PIECE, 64 << 10):
        while not (code := refused(lambda size=size: vault.write_synced("next", os.urandom(size)))):  # type: ignore[misc]
            os.rename(vault / "next", vault / os.urandom(6).hex())
        assert code == errno.EDQUOT
    while not (code := refused((vault / os.urandom(6).hex()).mkdir)):
        pass
    assert code == errno.EDQUOT
    while not (code := refused(lambda: os.setxattr(vault.path, f"user.{os.urandom(6).hex()}", bytes(200)))):
        pass
    assert code == errno.EDQUOT


ADDITIONS: dict[str, Callable[[Path], object]] = {
    "write": lambda folder: write_direct(folder / "old"),
    "create": lambda folder: (folder / os.urandom(6).hex()).touch(),
    "symlink": lambda folder: os.symlink("old", folder / os.urandom(6).hex()),
    "link": lambda folder: os.link(folder / "old", folder / os.urandom(6).hex()),
    "setxattr": lambda folder: os.setxattr(folder / "old", b"user.a", os.urandom(2000)),
    "truncate": lambda folder: os.truncate(folder / "old", (folder / "old").stat().st_size + PIECE),
}


def write_direct(path: Path) -> None:
    """Past the kernel's cache: the call itself is answered."""
    memory = mmap.mmap(-1, PIECE)
    file = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        os.write(file, memory)
    finally:
        os.close(file)


def refuses(vault: Mounted, addition: Callable[[Path], object]) -> bool:
    use_up(vault)
    code = refused(lambda: addition(vault.path))
    assert code in (0, errno.EDQUOT)  # 0: a commit came between, and there is a little room again
    return code != 0


def test_a_quota_refuses_with_edquot_at_the_call_and_deleting_gives_room(bounded: Mounted) -> None:
    bounded.write_synced("old", b"old")
    bounded.write_synced("large", os.urandom(3 * PIECE))
    for name, addition in ADDITIONS.items():
        until(partial(refuses, bounded, addition), f"{name} to be refused")
    # The kernel keeps no other errors than these two for close when it writes back (mapping_set_error).
    assert refused(lambda: (bounded / "old").write_bytes(bytes(PIECE))) == errno.EIO
    (bounded / "large").unlink()
    until(lambda: not refused(lambda: bounded.write_synced("new", os.urandom(2 * PIECE))), "room after deleting", 20)
    bounded.umount()
    assert "Nothing is wrong." in atefs(
        "fsck", "--passphrase-file", bounded.passphrase_file, bounded.folder / "store"
    ).stdout  # fmt: skip
