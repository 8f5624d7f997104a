"""The structures have the sizes that linux/fuse.h gives them."""

from __future__ import annotations

import struct

import pytest

from atefs.mount.direct import protocol

SIZES = {
    "IN_HEADER": 40, "OUT_HEADER": 16, "INIT_IN": 16, "INIT_OUT": 64, "ATTR": 88, "ENTRY": 40, "ATTR_OUT": 16,
    "STATX_IN": 24, "STATX_OUT": 288, "SETATTR_IN": 88, "MKNOD_IN": 16, "MKDIR_IN": 8, "CREATE_IN": 16,
    "RENAME_IN": 8, "RENAME2_IN": 16, "LINK_IN": 8, "OPEN_IN": 8, "OPEN_OUT": 16, "READ_IN": 40, "WRITE_IN": 40,
    "WRITE_OUT": 8, "LSEEK_IN": 24, "LSEEK_OUT": 8, "FALLOCATE_IN": 32, "GETXATTR_IN": 8, "GETXATTR_OUT": 8,
    "SETXATTR_IN": 16, "ACCESS_IN": 8, "STATFS_OUT": 80, "DIRENT": 24, "FORGET_IN": 8, "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16, "HANDLE_IN": 8, "INTERRUPT_IN": 8,
    "COPY_FILE_RANGE_IN": 56, "COPY_FILE_RANGE_OUT": 8, "IOCTL_IN": 32, "IOCTL_OUT": 16, "INVAL_INODE": 24,
    "INVAL_ENTRY": 16, "FLUSH_IN": 24, "RELEASE_IN": 24, "LK_IN": 48, "LK_OUT": 24,
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_a_structure_has_its_size(name: str, size: int) -> None:
    assert getattr(protocol, name).size == size


def test_no_structure_is_left_out() -> None:
    named = {name for name, value in vars(protocol).items() if isinstance(value, struct.Struct)}
    assert named == set(SIZES)
