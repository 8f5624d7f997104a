"""Mounts where the vault's owner has other numbers: what is shown, made, given away and allowed."""

from __future__ import annotations

import os
import struct
import subprocess

import pytest

from tests.system.mounted import Mounted

pytestmark = [pytest.mark.needs("fuse", "root")]

HERE = 4321
ACL = "system.posix_acl_access"


def owner(path: os.PathLike[str]) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_uid, about.st_gid


def copies(uid: int, old: os.PathLike[str], new: os.PathLike[str]) -> bool:
    """Whether somebody may read the one file and make the other."""
    command = ["/bin/sh", "-c", 'cat "$1" > "$2"', "sh", os.fspath(old), os.fspath(new)]
    done = subprocess.run(command, user=uid, group=uid, extra_groups=[], cwd="/", capture_output=True, check=False)
    return done.returncode == 0


def listed(uid: int) -> bytes:
    """An access control list that lets somebody read."""
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, uid), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_the_vault_s_owner_is_somebody_else_here(place: Mounted) -> None:
    """The vault is root's. Here, HERE stands for its owner, and root for HERE."""
    for folder in (place.folder, *place.folder.parents):
        if folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)  # as pytest makes them
    place.mount("--allow-other")
    (place / "before").write_text("of the owner")
    (place / "before").chmod(0o600)
    place.umount()
    place.mount("--allow-other", "--uid", str(HERE), "--gid", str(HERE))
    assert owner(place.path) == owner(place / "before") == (HERE, HERE)
    assert copies(HERE, place / "before", place / "made")
    assert not copies(HERE + 1, place / "before", place / "refused")
    assert owner(place / "made") == (HERE, HERE)
    (place / "root").write_text("made by root")
    assert owner(place / "root") == (0, 0)
    (place / "given").write_text("")
    os.chown(place / "given", HERE, 7)
    assert owner(place / "given") == (HERE, 7)
    os.setxattr(place / "given", ACL, listed(HERE))
    assert os.getxattr(place / "given", ACL) == listed(HERE)
    place.umount()
    place.mount("--allow-other")
    shown = {name: owner(place / name) for name in ("before", "made", "root", "given")}
    assert shown == {"before": (0, 0), "made": (0, 0), "root": (HERE, HERE), "given": (0, 7)}
    assert os.getxattr(place / "given", ACL) == listed(0)
    place.umount()


def test_impersonate_uid_is_who_mounts(place: Mounted) -> None:
    place.mount()
    os.chown(place.path, 5, 6)
    place.umount()
    place.mount("--impersonate-uid")
    assert owner(place.path) == (os.getuid(), os.getgid())
    place.umount()
