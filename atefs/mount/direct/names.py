"""Requests about names: looking up, making, moving, removing, forgetting."""

from __future__ import annotations

from atedb.errors import NotResident
from atefs.errors import NotFoundError
from atefs.mount.direct.answers import NOWHERE
from atefs.mount.direct.protocol import (
    BATCH_FORGET_IN,
    BODY,
    FORGET_IN,
    FORGET_ONE,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    RENAME2_IN,
    RENAME_IN,
    Opcode,
)
from atefs.mount.direct.request import Handler, Request
from atefs.mount.direct.services import Services
from atefs.vault.inode import Inode


class Names:
    """Handlers, as `Handler` describes them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._vault = services.vault
        self._touch = services.committer.touch
        self._plain = services.hints.plain
        self._outdated = services.vault.outdated_names

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.READLINK: self.readlink,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
        }

    def lookup(self, request: Request) -> bytes:
        name = request.name()
        try:
            inode = self._vault.lookup(request.node, name)
        except NotFoundError:
            self._outdated.discard((request.node, name))
            return NOWHERE
        self._outdated.discard((request.node, name))
        if request.node in self._plain and not inode.is_dir:
            self._services.hints.looked_up(request.node)
        return self._services.known(request, inode)

    def mknod(self, request: Request) -> bytes:
        self._services.brake()
        mode, rdev, umask, _ = MKNOD_IN.unpack_from(request.data, BODY)
        caller = self._services.caller(request, umask)
        name = request.name(BODY + MKNOD_IN.size)
        return self._made(request, self._vault.mknod(request.node, name, mode, rdev, caller))

    def mkdir(self, request: Request) -> bytes:
        self._services.brake()
        mode, umask = MKDIR_IN.unpack_from(request.data, BODY)
        caller = self._services.caller(request, umask)
        name = request.name(BODY + MKDIR_IN.size)
        return self._made(request, self._vault.mkdir(request.node, name, mode, caller))

    def symlink(self, request: Request) -> bytes:
        self._services.brake()
        name, target = request.names()
        caller = self._services.caller(request)
        return self._made(request, self._vault.symlink(request.node, name, target, caller))

    def link(self, request: Request) -> bytes:
        self._services.brake()
        (node,) = LINK_IN.unpack_from(request.data, BODY)
        return self._made(request, self._vault.link(node, request.node, request.name(BODY + LINK_IN.size)))

    def _made(self, request: Request, inode: Inode) -> bytes:
        self._touch()
        return self._services.known(request, inode)

    def unlink(self, request: Request) -> bytes:
        name = request.name()
        self._vault.require_told(request.node, name)
        self._vault.unlink(request.node, name)
        self._touch()
        return b""

    def rmdir(self, request: Request) -> bytes:
        name = request.name()
        self._vault.require_told(request.node, name)
        self._vault.rmdir(request.node, name)
        self._touch()
        return b""

    def rename(self, request: Request) -> bytes:
        (parent,) = RENAME_IN.unpack_from(request.data, BODY)
        return self._rename(request, parent, 0, BODY + RENAME_IN.size)

    def rename2(self, request: Request) -> bytes:
        parent, flags, _ = RENAME2_IN.unpack_from(request.data, BODY)
        return self._rename(request, parent, flags, BODY + RENAME2_IN.size)

    def _rename(self, request: Request, parent: int, flags: int, at: int) -> bytes:
        old, new = request.names(at)
        self._vault.require_told(request.node, old)
        self._vault.require_told(parent, new)
        caller = self._services.caller(request)
        self._vault.rename(request.node, old, parent, new, flags, caller=caller)
        self._touch()
        return b""

    def readlink(self, request: Request) -> bytes:
        self._services.note_access(request.node)
        return self._vault.readlink(request.node)

    def forget(self, request: Request) -> None:
        """Gets no answer."""
        (count,) = FORGET_IN.unpack_from(request.data, BODY)
        self.let_go(request.node, count)

    def batch_forget(self, request: Request) -> None:
        """Gets no answer."""
        count, _ = BATCH_FORGET_IN.unpack_from(request.data, BODY)
        at = BODY + BATCH_FORGET_IN.size
        for node, times in FORGET_ONE.iter_unpack(request.data[at : at + count * FORGET_ONE.size]):
            self.let_go(node, times)

    def let_go(self, node: int, count: int) -> None:
        """The kernel knows the inode `count` times less."""
        while True:
            try:
                self._vault.forget(node, count)
                break
            except NotResident as absent:
                absent.fetch()  # seldom, and it must not be done twice: on the spot
        self._services.attributes.drop(node)
