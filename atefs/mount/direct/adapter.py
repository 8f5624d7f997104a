"""The adapter that speaks the kernel's protocol itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from atefs.mount.committer import Committer
from atefs.mount.direct.answers import Attributes
from atefs.mount.direct.connection import connect
from atefs.mount.direct.files import Files
from atefs.mount.direct.folders import Folders
from atefs.mount.direct.hints import StatHints
from atefs.mount.direct.inode_flags import InodeFlags
from atefs.mount.direct.locking import Locking
from atefs.mount.direct.names import Names
from atefs.mount.direct.nodes import Nodes
from atefs.mount.direct.protocol import Init
from atefs.mount.direct.services import Services
from atefs.mount.direct.session import Session
from atefs.mount.ids import SAME
from atefs.mount.locks import SharedLocks
from atefs.vault.vault import Vault

_LOCKS = Init.POSIX_LOCKS | Init.FLOCK_LOCKS


class DirectAdapter:
    """One mount over /dev/fuse: a `KernelAdapter`."""

    def __init__(self, vault: Vault, committer: Committer, session: Session) -> None:
        self._vault = vault
        self._committer = committer
        self._session = session
        self._locks: SharedLocks | None = None
        self.ids = SAME

    def attach(self, mountpoint: Path, options: frozenset[str]) -> None:
        acl = "noacl" not in options
        in_kernel = acl and "default_permissions" in options  # with lists, the kernel sets that in any case
        self.prepare(acl=acl, acl_in_kernel=in_kernel, shared="shared" in options)
        self._session.attach(
            connect(mountpoint, options - {"noacl", "shared"}),
            (Init.POSIX_ACL if in_kernel else Init(0)) | (_LOCKS if self._locks is not None else Init(0)),
            Init.WRITEBACK_CACHE if "shared" in options else Init(0),
        )

    def prepare(self, *, acl: bool, acl_in_kernel: bool, shared: bool = False) -> None:
        """Let the session know its handlers; as `Services` has it."""
        services = Services(
            self._vault,
            self._committer,
            Attributes(self.ids),
            StatHints(),
            self._session.stale,
            self._session.outdated,
            self._session.untold,
            shared,
            acl,
            acl_in_kernel,
            self.ids,
        )
        names, files = Names(services), Files(services)
        parts = (names, Nodes(services), files, Folders(services), InodeFlags(services))
        handlers = [part.handlers() for part in parts]
        if self._locks is not None:
            handlers.append(Locking(self._locks, files).handlers())
        self._session.serve_with({opcode: one for some in handlers for opcode, one in some.items()}, names.let_go)

    def share_locks(self, locks: SharedLocks) -> bool:
        self._locks = locks
        return True

    async def serve(self) -> None:
        await self._session.serve()

    def stop(self) -> None:
        self._session.stop()

    def detach(self) -> None:
        self._session.detach()

    def outdate(self, attributes: Iterable[int], pages: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        for ino in attributes:
            self._session.stale(ino)
        for ino in pages:
            self._session.changed(ino)
        for folder, name in entries:
            self._session.renamed(folder, name)

    @property
    def requests(self) -> int:
        return self._session.requests
