"""Requests about inodes: attributes, extended attributes, access, the whole filesystem."""

from __future__ import annotations

import errno
import os
import stat
import time

from atefs.errors import NoAttributeError, NotSupportedError
from atefs.mount.direct import answers
from atefs.mount.direct.protocol import (
    ACCESS_IN,
    BODY,
    GETXATTR_IN,
    GETXATTR_OUT,
    SETATTR_IN,
    SETXATTR_ACL_KILL_SGID,
    SETXATTR_IN,
    Opcode,
    Set,
)
from atefs.mount.direct.request import Handler, Request
from atefs.mount.direct.services import UNPRIVILEGED, Services
from atefs.mount.xattr_names import is_carried, visible
from atefs.vault import acl
from atefs.vault.inode import Attributes

_SECOND = 1_000_000_000


class Nodes:
    """Handlers, as `Handler` describes them."""

    def __init__(self, services: Services) -> None:
        self._vault = services.vault
        self._touch = services.committer.touch
        self._attributes = services.attributes
        self._services = services

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.STATX: self.statx,
            Opcode.ACCESS: self.access,
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
            Opcode.STATFS: self.statfs,
        }

    def getattr(self, request: Request) -> bytes:
        return self._attributes.attr(self._vault.getattr(request.node))

    def statx(self, request: Request) -> bytes:
        return answers.statx(self._vault.getattr(request.node), self._services.ids)

    def setattr(self, request: Request) -> bytes:
        fields = SETATTR_IN.unpack_from(request.data, BODY)
        caller = UNPRIVILEGED if fields[0] & Set.KILL_SUIDGID else None
        inode = self._vault.setattr(request.node, self._services.ids.wanted(_wanted(fields)), caller)
        self._touch()
        return self._attributes.attr(inode)

    def access(self, request: Request) -> bytes:
        """Asked only where the kernel checks no permissions, which is when none but root is let in.

        Root may do everything, except execute what nobody may execute.
        """
        mask, _ = ACCESS_IN.unpack_from(request.data, BODY)
        if mask & os.X_OK:
            mode = self._vault.getattr(request.node).mode
            if stat.S_ISREG(mode) and not mode & 0o111:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return b""

    def getxattr(self, request: Request) -> bytes:
        name = request.name(BODY + GETXATTR_IN.size)
        self._check_carried(name)
        attributes = self._vault.getattr(request.node).xattrs
        value = attributes.get(name) if attributes else None
        if value is None:
            raise NoAttributeError("There is no extended attribute of that name.")
        return _sized(request, self._services.ids.xattr(name, value))

    def listxattr(self, request: Request) -> bytes:
        held = self._vault.listxattr(request.node)
        names = visible(held, acls=self._services.acl, root=request.uid == 0)
        return _sized(request, b"".join([name + b"\0" for name in names]))

    def setxattr(self, request: Request) -> bytes:
        size, flags, how, _ = SETXATTR_IN.unpack_from(request.data, BODY)
        name = request.name(BODY + SETXATTR_IN.size)
        self._check_carried(name)
        at = BODY + SETXATTR_IN.size + len(name) + 1
        value = request.data[at : at + size]
        if len(value) != size:
            raise ValueError("a value is cut short")
        value = self._services.ids.xattr(name, value)
        self._vault.setxattr(request.node, name, value, flags, in_group=not how & SETXATTR_ACL_KILL_SGID)
        self._touch()
        if name in acl.NAMES and not self._services.acl_in_kernel:
            self._services.stale(request.node)  # the mode may have changed, which the kernel does not expect
        return b""

    def removexattr(self, request: Request) -> bytes:
        name = request.name()
        self._check_carried(name)
        self._vault.removexattr(request.node, name)
        self._touch()
        return b""

    def _check_carried(self, name: bytes) -> None:
        if not is_carried(name, acls=self._services.acl):
            raise NotSupportedError("Of the attributes of the system, a vault keeps access control lists.")

    def statfs(self, _request: Request) -> bytes:
        return answers.statfs(self._vault.statfs())


def _sized(request: Request, value: bytes) -> bytes:
    """`value`, or its size where that is all that was asked for. Raises OSError (ERANGE)."""
    size, _ = GETXATTR_IN.unpack_from(request.data, BODY)
    if size == 0:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def _wanted(fields: tuple[int, ...]) -> Attributes:
    """What the fields of SETATTR_IN ask for."""
    (
        valid, _, _, size, _, access, modify, change, access_ns, modify_ns, change_ns, mode, _, uid, gid, _,
    ) = fields  # fmt: skip
    atime = mtime = None
    if valid & (Set.ATIME | Set.MTIME):
        now = time.time_ns() if valid & (Set.ATIME_NOW | Set.MTIME_NOW) else 0
        if valid & Set.ATIME:
            atime = now if valid & Set.ATIME_NOW else access * _SECOND + access_ns
        if valid & Set.MTIME:
            mtime = now if valid & Set.MTIME_NOW else modify * _SECOND + modify_ns
    return Attributes(
        mode & 0o7777 if valid & Set.MODE else None,
        uid if valid & Set.UID else None,
        gid if valid & Set.GID else None,
        size if valid & Set.SIZE else None,
        atime,
        mtime,
        change * _SECOND + change_ns if valid & Set.CTIME else None,
    )
