"""Requests of chattr and lsattr (man 2 ioctl_iflags, man 2 ioctl_xfs_fsgetxattr)."""

from __future__ import annotations

import errno
import os
import struct

from atefs.mount.direct.protocol import BODY, IOCTL_IN, IOCTL_OUT, Opcode
from atefs.mount.direct.request import Handler, Request
from atefs.mount.direct.services import Services
from atefs.vault import flags

GET, SET = 0x80086601, 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (linux/fs.h) on 64-bit machines; what is handed over has 4 bytes all the same."""
GET_EXTENDED, SET_EXTENDED = 0x801C581F, 0x401C5820
"""FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR. The kernel asks the first before it sets anything."""
_FLAGS = struct.Struct("=I")
_EXTENDED = struct.Struct("=I24x")
"""struct fsxattr, of whose fields a vault has the flags only."""
_DONE = IOCTL_OUT.pack(0, 0, 0, 0)
_TRANSLATED = ((flags.IMMUTABLE, 0x08), (flags.APPEND, 0x10), (flags.NOATIME, 0x40), (flags.NODUMP, 0x80))


class InodeFlags:
    """Handlers, as `Handler` describes them."""

    def __init__(self, services: Services) -> None:
        self._vault = services.vault
        self._touch = services.committer.touch
        self._stale = services.stale

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {Opcode.IOCTL: self.ioctl}

    def ioctl(self, request: Request) -> bytes:
        """Raises OSError (ENOTTY) for every other command."""
        _, _, command, _, _, _ = IOCTL_IN.unpack_from(request.data, BODY)
        if command == GET:
            return _DONE + _FLAGS.pack(self._vault.get_flags(request.node))
        if command == GET_EXTENDED:
            found = self._vault.get_flags(request.node)
            return _DONE + _EXTENDED.pack(sum(theirs for ours, theirs in _TRANSLATED if found & ours))
        if command not in (SET, SET_EXTENDED):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        layout = _FLAGS if command == SET else _EXTENDED
        (wanted,) = layout.unpack_from(request.data, BODY + IOCTL_IN.size)
        if command == SET_EXTENDED:
            wanted = sum(ours for ours, theirs in _TRANSLATED if wanted & theirs)
        self._vault.set_flags(request.node, wanted)
        self._touch()
        self._stale(request.node)  # ctime may have changed, which the kernel does not expect
        return _DONE
