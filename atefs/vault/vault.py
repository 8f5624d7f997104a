"""The vault: a whole filesystem as plain synchronous calls, without kernel types."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable

from atedb.chain.event import Change
from atefs.errors import ExistsError, InvalidError, IsDirectoryError
from atefs.vault.attributes import AttributeChanges
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import inode_change, inode_key, orphans_group, superblock_change, superblock_key
from atefs.vault.commit import Commits, Frozen
from atefs.vault.directory import Directories
from atefs.vault.holes import Holes
from atefs.vault.inode import Attributes, Caller, DirEntry, Inode, StatFs
from atefs.vault.inodes import Inodes
from atefs.vault.limits import DEFAULT_CACHES, ROOT_INO, CacheSizes
from atefs.vault.maps import Maps
from atefs.vault.namespace import Namespace
from atefs.vault.objects import Log, Objects
from atefs.vault.ownership import without_set_ids
from atefs.vault.reader import Reader
from atefs.vault.reap import Reaper
from atefs.vault.rename import Renaming
from atefs.vault.space import Space
from atefs.vault.superblock import Superblock
from atefs.vault.truncation import Truncation
from atefs.vault.writer import Writer
from atefs.vault.xattrs import Xattrs


class Vault:
    """Files and directories as objects of one chain. For one thread.

    Every operation either does all it says, or raises and has changed nothing. Besides its own `VaultError`s, each may
    raise what the chain raises: NotResident (fetch, then call again), DamagedError, StorageError. Operations that
    change something raise ReadOnlyError, and those that add something NoSpaceError and QuotaError.

    An `Inode` that is returned is live and belongs to the vault: read it at once, do not keep it.
    """

    def __init__(
        self, chain: Log, clock: Callable[[], int] = time.time_ns, read_only: bool = False,
        caches: CacheSizes = DEFAULT_CACHES,
    ) -> None:  # fmt: skip
        """Raises StoreNotFoundError when the chain holds no vault. clock: nanoseconds since 1970."""
        self.chain = chain
        self._clock = clock
        self._objects = objects = Objects(chain)
        self._superblock = Superblock(objects)
        self._space = space = Space(chain, self._superblock, read_only)
        cache = BlockCache(caches.content)
        self._inodes = inodes = Inodes(objects, space, cache, caches.inodes)
        directories = Directories(objects, space, caches.dentries)
        maps = Maps(objects, cache, caches.maps)
        self._reader = Reader(objects, inodes, maps, cache)
        self._writer = Writer(inodes, maps, self._reader, space)
        truncation = Truncation(inodes, maps, space)
        self._reaper = Reaper(objects, inodes, maps, truncation)
        self._holes = Holes(inodes, maps, self._writer, truncation)
        self._attributes = AttributeChanges(inodes, truncation, self._reaper, space, clock)
        self._xattrs = Xattrs(inodes, space, clock)
        self._namespace = Namespace(self._superblock, inodes, directories, self._reaper, space=space, clock=clock)
        self._renaming = Renaming(self._namespace, inodes, directories, clock)
        self._commits = Commits(
            objects, self._superblock, inodes=inodes, directories=directories, maps=maps, space=space
        )

    @staticmethod
    def make(
        chain: Log, clock: Callable[[], int] = time.time_ns, uid: int = 0, gid: int = 0, *, mode: int = 0o755,
        quota: int = 0,
    ) -> Vault:  # fmt: skip
        """Make an empty vault in an empty chain; its superblock and root directory are the first commit.

        uid, gid, mode: of the root directory. quota: bytes, 0 for none. Raises ExistsError when there is one already.
        """
        if chain.load(superblock_key(chain)) is not None:
            raise ExistsError("The chain holds a vault already; nothing was changed.")
        now = clock()
        root = Inode(ROOT_INO, stat.S_IFDIR | mode & 0o7777, uid, gid, 2, 0, 0, now, now, now, now, parent=ROOT_INO)
        root.key = inode_key(chain, ROOT_INO)
        first: list[Change] = [
            superblock_change(chain, now, ROOT_INO + 1, quota),
            inode_change(chain, root, orphans_group(chain)),
        ]
        chain.commit(first)
        return Vault(chain, clock)

    # Names

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode that a name stands for. Raises NotFoundError, NotDirectoryError, NameTooLongError."""
        return self._namespace.lookup(parent, name)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A regular file, FIFO, socket or device (man 2 mknod)."""
        return self._namespace.mknod(parent, name, mode, rdev, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Inode:
        """A directory (man 2 mkdir)."""
        return self._namespace.make(parent, name, stat.S_IFDIR | mode & 0o7777, 0, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """A symbolic link (man 2 symlink)."""
        return self._namespace.symlink(parent, name, target, caller)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode (man 2 link)."""
        return self._namespace.link(ino, parent, name)

    def unlink(self, parent: int, name: bytes) -> None:
        """Take away a name (man 2 unlink)."""
        self._namespace.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory (man 2 rmdir)."""
        self._namespace.rmdir(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """Move a name (man 2 rename). flags: 0, `rename.NOREPLACE` or `rename.EXCHANGE`."""
        self._renaming.rename(parent, name, new_parent, new_name, flags)

    def readlink(self, ino: int) -> bytes:
        """A symbolic link's target (man 2 readlink)."""
        return self._namespace.readlink(ino)

    def readdir(self, ino: int) -> list[DirEntry]:
        """All entries of a directory as of now, "." and ".." first, the others in no order."""
        return self._namespace.readdir(ino)

    # Inodes

    def getattr(self, ino: int) -> Inode:
        """The inode of a number. Raises StaleError."""
        return self._inodes.get(ino)

    def setattr(self, ino: int, wanted: Attributes, caller: Caller | None = None) -> Inode:
        """Change mode, owner, size or times (man 2 chmod, chown, truncate, utimensat). ctime becomes now, if not given.

        chown clears the set-id bits of files, and a change of size does so for callers other than root, unless the
        mode is given as well. caller: None when the kernel sees to that.
        """
        return self._attributes.change(ino, wanted, caller)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Raises NoAttributeError."""
        return self._xattrs.get(ino, name)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """flags: 0, `xattrs.CREATE` or `xattrs.REPLACE` (man 2 setxattr)."""
        self._xattrs.set(ino, name, value, flags)

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of an inode's extended attributes."""
        return self._xattrs.names(ino)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Raises NoAttributeError."""
        self._xattrs.remove(ino, name)

    # Content

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a regular file from `offset`; less only at its end."""
        inode = self._inodes.get(ino)
        if not inode.is_file:
            _refuse_content(inode)
        return self._reader.read(inode, offset, size)

    def write(self, ino: int, offset: int, data: bytes, caller: Caller | None = None) -> int:
        """Put `data` into a regular file; it is kept by reference until it is committed. Returns its length.

        caller: one other than root clears the set-id bits; None when the kernel sees to that.
        """
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if not inode.is_file:
            _refuse_content(inode)
        if data:
            self._writer.write(inode, offset, data, self._clock())
            if caller is not None and caller.uid:
                inode.mode = without_set_ids(inode.mode)
        return len(data)

    def punch_hole(self, ino: int, offset: int, size: int) -> None:
        """Make bytes of a regular file zeros and free their blocks (man 2 fallocate, FALLOC_FL_PUNCH_HOLE)."""
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if not inode.is_file:
            _refuse_content(inode)
        self._holes.punch(inode, offset, size, self._clock())
        if inode.layout is not None and inode.layout.doomed:
            self._reaper.add(ino)

    def seek_data(self, ino: int, offset: int) -> int:
        """The next allocated byte (man 2 lseek, SEEK_DATA). Raises NoDataError."""
        return self._holes.seek_data(self._inodes.get(ino), offset)

    def seek_hole(self, ino: int, offset: int) -> int:
        """The next byte of a hole, or the end of the file (man 2 lseek, SEEK_HOLE). Raises NoDataError."""
        return self._holes.seek_hole(self._inodes.get(ino), offset)

    # The whole

    def statfs(self) -> StatFs:
        """Size and free space (man 3 statvfs)."""
        return self._space.statfs()

    def set_quota(self, quota: int) -> None:
        """quota: bytes of live data, sealed and compressed as they are stored; 0 for no bound."""
        self._space.check_writable()
        self._superblock.set_quota(quota)
        self._space.commit_done()

    # Who uses what

    def remember(self, ino: int, n: int = 1) -> None:
        """The kernel got `n` more references to this inode: without a name, it lives on."""
        references = self._inodes.references
        references[ino] = references.get(ino, 0) + n

    def forget(self, ino: int, n: int = 1) -> None:
        """The kernel gave `n` references back; the last one of an inode without a name deletes it.

        Raises NotResident with nothing changed, like every operation.
        """
        references = self._inodes.references
        left = references.get(ino, 0) - n
        if left > 0:
            references[ino] = left
            return
        if ino in self._inodes.nameless:
            inode = self._inodes.get(ino)
            self._inodes.nameless.discard(ino)
            references.pop(ino, None)
            self._reaper.dispose(inode)
        else:
            references.pop(ino, None)

    # Commits

    @property
    def dirty_bytes(self) -> int:
        """About what the next commit would append."""
        return self._space.dirty

    @property
    def dirty_objects(self) -> int:
        """How many objects the next commit would carry, blocks of content not counted."""
        return self._commits.dirty_objects

    def freeze(self) -> Frozen | None:
        """Take everything dirty, as one consistent cut; None when nothing is. At most one may be in flight."""
        return self._commits.freeze()

    def settled(self, frozen: Frozen) -> None:
        """The chain has settled it."""
        self._commits.settled(frozen)

    def thaw(self, frozen: Frozen) -> None:
        """It could not be written, and goes out with the next freeze, under what is newer."""
        self._commits.thaw(frozen)

    def commit(self) -> int:
        """Commit everything dirty, at once; returns the chain's sequence, 0 when there was nothing to do."""
        frozen = self._commits.freeze()
        if frozen is None:
            return 0
        try:
            sequence = self.chain.commit(frozen.changes)
        except BaseException:
            self._commits.thaw(frozen)
            raise
        self._commits.settled(frozen)
        return sequence

    def reap(self, max_events: int = 1024) -> bool:
        """One bounded step of deferred deletion, to be committed like any change. True: there is more to do."""
        return self._reaper.reap(max_events)


def _refuse_content(inode: Inode) -> None:
    if inode.is_dir:
        raise IsDirectoryError("A directory's content is read with readdir.")
    raise InvalidError("Only a regular file has content.")
