"""What all handlers share."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from atefs.mount.committer import Committer
from atefs.mount.direct.answers import Attributes
from atefs.mount.direct.hints import StatHints
from atefs.mount.direct.protocol import FOPEN_KEEP_CACHE
from atefs.mount.direct.request import Later, Request
from atefs.mount.ids import Ids
from atefs.vault.inode import Caller, Inode
from atefs.vault.vault import Vault

UNPRIVILEGED = Caller(uid=65_534)
"""On whose behalf a file is changed of which the kernel says that its set-id bits fall."""


class Services(NamedTuple):
    """One mount's. stale: tells the kernel that the attributes of an inode are out of date. outdated: and its content,
    soon; until then the inode is among `untold`.

    shared: others change the vault, too, and the kernel hands over at once what is written. acl: access control lists
    are kept. acl_in_kernel: and the kernel goes by them. ids: whose numbers are whose.
    """

    vault: Vault
    committer: Committer
    attributes: Attributes
    hints: StatHints
    stale: Callable[[int], None]
    outdated: Callable[[int], None]
    untold: Container[int]
    shared: bool
    acl: bool
    acl_in_kernel: bool
    ids: Ids

    def caller(self, request: Request, umask: int = 0) -> Caller:
        """Who asks, as the vault knows them."""
        return self.ids.caller(request.uid, request.gid, umask)

    def note_access(self, ino: int) -> bool:
        """It is being read; True: its access time has changed. Not worth waiting for: a later request does it."""
        if self.committer.full or not self.vault.note_access(ino):
            return False
        self.committer.touch()
        return True

    def caching(self, ino: int) -> int:
        """For the answer to whoever opens it: may the kernel keep its content?

        Not if it goes by something else than what is here and was not told yet: who opens a file sees all that was here
        before.
        """
        if ino not in self.vault.outdated and ino not in self.untold:
            return FOPEN_KEEP_CACHE
        self.stale(ino)
        return 0

    def known(self, request: Request, inode: Inode) -> bytes:
        """The inode's entry, for an answer after which the kernel knows it once more."""
        self.vault.remember(inode.ino)
        request.known = (inode.ino,)
        return self.attributes.entry(inode)

    def brake(self) -> None:
        """To be called before anything new is taken. Raises Later while more has gathered than memory should hold."""
        if self.committer.full:
            raise Later(self.committer.room)
