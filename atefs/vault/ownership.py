"""Set-id rules: who owns what is made, and when the set-user and set-group bits fall (man 7 inode, man 2 chown)."""

from __future__ import annotations

import stat

from atefs.vault.inode import Caller, Inode


def owner_and_mode(parent: Inode, mode: int, caller: Caller) -> tuple[int, int, int]:
    """Owner, group and mode of a new inode: in a set-group directory it takes the group, and a directory the bit."""
    permissions = mode & ~caller.umask & 0o7777
    gid = caller.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if stat.S_ISDIR(mode):
            permissions |= stat.S_ISGID
    return caller.uid, gid, stat.S_IFMT(mode) | permissions


def without_set_ids(mode: int) -> int:
    """The mode after its owner or its content changed. Set-group without group execution means something else."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
