"""Events of a vault in a few words, for `atefs dump` and `atefs fsck`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from atedb.errors import DamagedError
from atefs.vault import codec

_TYPES = {0o04: "folder", 0o10: "file", 0o12: "symlink", 0o01: "fifo", 0o14: "socket", 0o02: "device", 0o06: "device"}


def describer(keys: codec.Keys) -> Callable[[bool, bytes], str]:
    """The function that describes one event of the meta lane: (tombstone, plaintext) -> words."""

    def describe(tombstone: bool, body: bytes) -> str:
        try:
            return ("end of " if tombstone else "") + _words(keys, tombstone, body)
        except DamagedError:
            return "an object of an unknown kind"

    return describe


def _words(keys: codec.Keys, tombstone: bool, body: bytes) -> str:
    kind = body[:1]
    if kind == codec.ENTRY:
        entry = codec.decode_entry(body)
        name = os.fsdecode(entry.name).encode("utf-8", "backslashreplace").decode()
        return f"entry {name!r} in folder {entry.parent}: {_TYPES.get(entry.type, 'thing')} {entry.ino}"
    if kind == codec.INODE and not tombstone:
        inode = codec.decode_inode(keys, body)
        return f"inode {inode.ino}: {stat.filemode(inode.mode)}, {inode.nlink} links, {inode.size} bytes"
    if kind == codec.SUPERBLOCK:
        quota = codec.decode_superblock(body).quota
        return f"superblock: quota of {quota} bytes" if quota else "superblock: no quota"
    if kind == codec.NUMBERS:
        numbers = codec.decode_numbers(body)
        return f"inode numbers from {numbers.start} up to {numbers.limit} for device {numbers.device.hex()[:16]}"
    if kind == codec.CONFLICT:
        conflict = codec.decode_conflict(body)
        name = os.fsdecode(conflict.name).encode("utf-8", "backslashreplace").decode()
        return f"conflict: {name!r} in folder {conflict.parent}"
    if kind == codec.MAP:
        return "map of a file's blocks"
    return "an inode" if kind == codec.INODE else "a map" if not body else "an object"
