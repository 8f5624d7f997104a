"""Who owns and may use what is made, and when the set-user and set-group bits fall (man 7 inode, man 2 chown)."""

from __future__ import annotations

import stat

from atefs.vault import acl
from atefs.vault.inode import Caller, Inode


def heritage(parent: Inode, mode: int, caller: Caller) -> tuple[int, int, int, dict[bytes, bytes] | None]:
    """Owner, group, mode and access control lists of a new inode; mode: as asked for, with its type.

    In a set-group directory it takes the group, and a directory the bit. The umask counts unless the parent has a
    default access control list, which takes its place (man 2 umask); links have none. Raises DamagedError.
    """
    permissions, xattrs = mode & 0o7777, None
    default = acl.held(parent, acl.DEFAULT) if parent.xattrs is not None and not stat.S_ISLNK(mode) else None
    if default is None:
        permissions &= ~caller.umask
    else:
        permissions, access = acl.inherited(default, permissions)
        xattrs = {} if access is None else {acl.ACCESS: access}
        if stat.S_ISDIR(mode):
            xattrs[acl.DEFAULT] = default.encode()
    gid = caller.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        if stat.S_ISDIR(mode):
            permissions |= stat.S_ISGID
    return caller.uid, gid, stat.S_IFMT(mode) | permissions, xattrs or None


def without_set_ids(mode: int) -> int:
    """The mode after its owner or its content changed. Set-group without group execution means something else."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode
