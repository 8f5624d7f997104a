"""The vault: a whole filesystem as plain synchronous calls, without kernel types."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable

from atedb.chain.event import Change
from atefs.errors import ExistsError, InvalidError, IsDirectoryError, StaleError
from atefs.vault.allocation import Allocation
from atefs.vault.atime import AccessTimes, AtimePolicy, AtimeRule
from atefs.vault.attributes import AttributeChanges
from atefs.vault.blockcache import BlockCache
from atefs.vault.codec import inode_change, inode_key, orphans_group, superblock_change, superblock_key
from atefs.vault.commit import Commits, Frozen
from atefs.vault.conflicts import Conflicts
from atefs.vault.copying import Copying
from atefs.vault.directory import Directories
from atefs.vault.flags import IMMUTABLE, Flags, check_open, refusal
from atefs.vault.holes import Holes
from atefs.vault.inode import Attributes, Caller, DirEntry, Inode, StatFs
from atefs.vault.inodes import Inodes
from atefs.vault.limits import DEFAULT_CACHES, ROOT_INO, CacheSizes
from atefs.vault.maps import Maps
from atefs.vault.namespace import Namespace
from atefs.vault.numbers import Numbers
from atefs.vault.objects import Log, Objects
from atefs.vault.ownership import without_set_ids
from atefs.vault.readahead import ReadAhead
from atefs.vault.reader import Reader
from atefs.vault.reap import Reaper
from atefs.vault.refresh import Refresh, Stale, Touched
from atefs.vault.rename import Renaming
from atefs.vault.shared import Shared
from atefs.vault.space import Space
from atefs.vault.superblock import Superblock
from atefs.vault.truncation import Truncation
from atefs.vault.writer import Writer
from atefs.vault.xattrs import Xattrs

DEFAULT_ATIME = AtimePolicy()
BY_ROOT = Caller()


class Vault:
    """Files and directories as objects of one chain. For one thread.

    Every operation either does all it says, or raises and has changed nothing. Besides its own `VaultError`s, each may
    raise what the chain raises: NotResident (fetch, then call again), DamagedError, StorageError. Operations that
    change something raise ReadOnlyError, and those that add something NoSpaceError and QuotaError.

    An `Inode` that is returned is live and belongs to the vault: read it at once, do not keep it.
    """

    def __init__(
        self, chain: Log, clock: Callable[[], int] = time.time_ns, read_only: bool = False,
        *, caches: CacheSizes = DEFAULT_CACHES, kernel_times: bool = False, atime: AtimePolicy = DEFAULT_ATIME,
    ) -> None:  # fmt: skip
        """Raises StoreNotFoundError when the chain holds no vault. clock: nanoseconds since 1970.

        kernel_times: mtime and ctime of files that are written or cut come by setattr, as from a kernel with a
        write-back cache: it has stamped them when programs wrote, and shows what it has. atime: the rules that
        `note_access` goes by.
        """
        self.chain = chain
        self._clock = clock
        self._kernel_times = kernel_times
        self._objects = objects = Objects(chain)
        self._superblock = Superblock(objects)
        self._numbers = numbers = Numbers(objects)
        self._space = space = Space(chain, self._superblock, read_only)
        cache = BlockCache(caches.content)
        self._inodes = inodes = Inodes(objects, space, cache, caches.inodes)
        directories = Directories(objects, space, caches.dentries)
        shared = Shared(inodes, numbers)
        maps = Maps(objects, space, cache, shared, caches.maps)
        self._reader = Reader(objects, inodes, maps, shared, cache)
        self._writer = Writer(inodes, maps, self._reader, space)
        truncation = Truncation(inodes, maps, shared, space)
        self._reaper = Reaper(objects, inodes, maps, shared, truncation, keeper=numbers.keeper, clock=clock)
        self._copying = Copying(
            inodes, maps, shared, self._reader, writer=self._writer, truncation=truncation, space=space
        )
        self._holes = Holes(inodes, maps, self._writer, truncation)
        self._allocation = Allocation(
            inodes, self._holes, truncation, self._reaper, space=space, clock=None if kernel_times else clock
        )
        self._attributes = AttributeChanges(inodes, truncation, self._reaper, space, clock, kernel_times=kernel_times)
        self._xattrs = Xattrs(inodes, space, clock)
        self._access_times = AccessTimes(inodes, space, clock, atime)
        self.notes_every_read = atime.files is AtimeRule.STRICTATIME
        """Whether `note_access` is due at each read of a file, and not only when it is opened for that."""
        self._flags = Flags(inodes, space, clock, kernel_times=kernel_times)
        self._namespace = Namespace(numbers, inodes, directories, self._reaper, space=space, clock=clock)
        self.read_ahead = ReadAhead(inodes, directories).step
        """Load a little of what may be asked for next; False: there is nothing to do. To be called in idle moments."""
        self._renaming = Renaming(self._namespace, inodes, directories, clock)
        self._refresh = Refresh(inodes, directories, maps, cache, self._reaper)
        self.outdated: set[int] = set()
        """Inodes of which the kernel may hold content from before others have changed it (`refresh`, `told`)."""
        self.outdated_names: set[tuple[int, bytes]] = set()
        """The same of names, as (parent, name)."""
        self.conflicts = Conflicts(objects)
        self._commits = Commits(
            objects, self._superblock, numbers=numbers, inodes=inodes, directories=directories, maps=maps,
            conflicts=self.conflicts, space=space,
        )  # fmt: skip

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

    def tmpfile(self, parent: int, mode: int, caller: Caller) -> Inode:
        """A regular file without a name (man 2 open, O_TMPFILE), for as long as it is remembered or until it is linked.

        parent: the directory it takes after; it may be linked anywhere.
        """
        return self._namespace.tmpfile(parent, mode, caller)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode (man 2 link), or the first one for one without that is remembered."""
        return self._namespace.link(ino, parent, name)

    def unlink(self, parent: int, name: bytes) -> None:
        """Take away a name (man 2 unlink)."""
        self._namespace.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory (man 2 rmdir)."""
        self._namespace.rmdir(parent, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0, *, caller: Caller = BY_ROOT
    ) -> None:  # fmt: skip
        """Move a name (man 2 rename). flags: as in `atefs.vault.rename`; with WHITEOUT, `caller` owns what is made."""
        self._renaming.rename(parent, name, new_parent, new_name, flags, caller=caller)

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

    def is_at_hand(self, ino: int) -> bool:
        """Whether `getattr` needs to load nothing."""
        return ino in self._inodes

    def setattr(self, ino: int, wanted: Attributes, caller: Caller | None = None) -> Inode:
        """Change mode, owner, size or times (man 2 chmod, chown, truncate, utimensat). ctime becomes now, if not given.

        chown clears the set-id bits of files, and a change of size does so for callers other than root, unless the
        mode is given as well. caller: None when the kernel sees to that.
        """
        return self._attributes.change(ino, wanted, caller)

    def note_access(self, ino: int) -> bool:
        """It is being read: its access time becomes now, where the mount's rules ask for that. True: it has changed.

        `read`, `readdir` and `readlink` leave it to the caller to say so, who knows on whose behalf they read.
        """
        return self._access_times.note(ino)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Raises NoAttributeError."""
        return self._xattrs.get(ino, name)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0, *, in_group: bool = True) -> None:
        """flags: 0, `xattrs.CREATE` or `xattrs.REPLACE` (man 2 setxattr); they do not count for access control lists.

        in_group: whether the caller is of the inode's group or privileged; the set-group bit falls otherwise when an
        access control list is set.
        """
        self._xattrs.set(ino, name, value, flags, in_group=in_group)

    def listxattr(self, ino: int) -> list[bytes]:
        """The names of an inode's extended attributes."""
        return self._xattrs.names(ino)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Raises NoAttributeError."""
        self._xattrs.remove(ino, name)

    def get_flags(self, ino: int) -> int:
        """The flags of `atefs.vault.flags` (man 2 ioctl_iflags). Raises NotSupportedError for what has none."""
        return self._flags.get(ino)

    def set_flags(self, ino: int, flags: int) -> Inode:
        """Give a file or directory these flags and no others; who may do that is left to the kernel.

        With IMMUTABLE or APPEND, every operation that would change what they protect raises NotPermittedError, except
        for a `write` to an append-only file: how it is opened decides that (`check_open`), since what was appended
        comes from the kernel's cache in whole pages. Raises NotSupportedError for other flags.
        """
        return self._flags.set(ino, flags)

    def check_open(self, ino: int, how: int) -> None:
        """Raises NotPermittedError for opening to change what may not change so. how: the flags of man 2 open.

        Raises StaleError for what others have deleted, or replaced, if the kernel may not know: as for `require_told`.
        """
        inode = self._inodes.get(ino)
        if not inode.nlink and ino in self.outdated:
            raise StaleError("Another machine has deleted it; look again.")
        check_open(inode, how)

    # Content

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a regular file from `offset`; less only at its end."""
        inode = self._inodes.get(ino)
        if not inode.is_file:
            _refuse_content(inode)
        return self._reader.read(inode, offset, size)

    def write(self, ino: int, offset: int, data: bytes | memoryview, caller: Caller | None = None) -> int:
        """Put `data` into a regular file; it is kept by reference until it is committed. Returns its length.

        data: bytes, where they may fit the inode (up to `limits.INLINE_MAX`). caller: one other than root clears the
        set-id bits; None when the kernel sees to that.
        """
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if not inode.is_file:
            _refuse_content(inode)
        if inode.flags & IMMUTABLE:
            raise refusal(inode)
        if data:
            self._writer.write(inode, offset, data, None if self._kernel_times else self._clock())
            if caller is not None and caller.uid:
                inode.mode = without_set_ids(inode.mode)
        return len(data)

    def punch_hole(self, ino: int, offset: int, size: int) -> None:
        """Make bytes of a regular file zeros and free their blocks (man 2 fallocate, FALLOC_FL_PUNCH_HOLE).

        Raises InvalidError, IsDirectoryError, NotRegularError.
        """
        self._allocation.punch(ino, offset, size)

    def allocate(self, ino: int, offset: int, size: int, *, keep_size: bool = False) -> None:
        """See that there is room for these bytes of a regular file, which grows to hold them unless `keep_size` (man 2
        fallocate). Nothing is kept for them: the room may be gone when they are written.

        Raises InvalidError, FileTooBigError, IsDirectoryError, NotRegularError, and NoSpaceError or QuotaError.
        """
        self._allocation.allocate(ino, offset, size, keep_size=keep_size)

    def zero_range(self, ino: int, offset: int, size: int, *, keep_size: bool = False) -> None:
        """As `allocate`, and the bytes become zeros (man 2 fallocate, FALLOC_FL_ZERO_RANGE)."""
        self._allocation.zero(ino, offset, size, keep_size=keep_size)

    def copy_range(
        self, source: int, source_offset: int, target: int, target_offset: int, length: int,
        *, caller: Caller | None = None,
    ) -> int:  # fmt: skip
        """Copy up to `length` bytes of a regular file to another, or within it; returns how many (man 2
        copy_file_range): 0 at the source's end, and less than asked for where it suits.

        Blocks that lie in their files alike (the offsets differ by a multiple of `limits.BLOCK`) are shared, which
        takes no room. caller: as for `write`. Raises InvalidError, IsDirectoryError, FileTooBigError, and NoSpaceError
        or QuotaError.
        """
        self._space.check_writable()
        first, second = self._inodes.get(source), self._inodes.get(target)
        for inode in (first, second):
            if not inode.is_file:
                _refuse_content(inode)
        if second.flags & IMMUTABLE:
            raise refusal(second)
        now = None if self._kernel_times else self._clock()
        copied = self._copying.copy(first, source_offset, second, target_offset, length=length, now=now)
        if copied and caller is not None and caller.uid:
            second.mode = without_set_ids(second.mode)
        if second.layout is not None and second.layout.waits:
            self._reaper.add(target)
        return copied

    def seek_data(self, ino: int, offset: int) -> int:
        """The next allocated byte (man 2 lseek, SEEK_DATA). Raises NoDataError."""
        return self._holes.seek_data(self._inodes.get(ino), offset)

    def seek_hole(self, ino: int, offset: int) -> int:
        """The next byte of a hole, or the end of the file (man 2 lseek, SEEK_HOLE). Raises NoDataError."""
        return self._holes.seek_hole(self._inodes.get(ino), offset)

    def regions(self, ino: int) -> list[int]:
        """The parts of a file that `content_keys` can be asked for; none for what has no content of its own objects."""
        layout = self._inodes.get(ino).layout
        return list(layout.regions()) if layout is not None else []

    def content_keys(self, ino: int, region: int) -> list[bytes]:
        """The keys of the objects in the chain that hold this part of a file's content."""
        return self._reader.keys(self._inodes.get(ino), region)

    # The whole

    def statfs(self) -> StatFs:
        """Size and free space (man 3 statvfs)."""
        return self._space.statfs()

    def forbid(self, reason: str) -> None:
        """Let nothing be changed for now, which is refused with ReadOnlyError and the reason; "" allows it again."""
        self._space.forbid(reason)

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
            self._reaper.let_go(inode)
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

    def promised(self, frozen: Frozen) -> None:
        """The chain has promised it (`Chain.promise`), and it goes out with the next freeze, under what is newer."""
        self._commits.promised(frozen)

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

    def refresh(self, touched: Touched) -> Stale:
        """The chain has taken in changes that did not come from here: nothing of them may be answered from memory.

        To be called when nothing is dirty and no commit is in flight. Returns what the kernel has to forget. `reap` has
        work again afterwards. May raise NotResident, with nothing changed.
        """
        assert not self._commits.dirty_objects
        if touched.superblock:
            self._superblock.load(self._objects)
        if touched.numbers:
            self._numbers.load(self._objects)
        self._space.commit_done()
        stale = self._refresh.forget(touched)
        self.outdated |= stale.pages
        self.outdated_names |= stale.entries
        return stale

    def told(self, stale: Stale, newer: Stale) -> None:
        """The kernel has forgotten what is in `stale`. newer: what it is still to be told of."""
        self.outdated -= stale.pages - newer.pages
        self.outdated_names -= stale.entries - newer.entries

    def require_told(self, parent: int, name: bytes) -> None:
        """To be called before a name is moved or removed. Raises StaleError if the kernel may take it for another file.

        It would go on to do so under the new name, for as long as it remembers names. It looks the name up anew then,
        once, and tries again (Linux, fs/namei.c, `retry_estale`).
        """
        if (parent, name) in self.outdated_names:
            raise StaleError("Another machine has changed what has this name; look again.")

    def when_left(self, told: Callable[[], None]) -> None:
        """Have `told` called whenever a call has left something for `reap`. It must not call the vault."""
        self._reaper.when_left(told)

    def reap(self, max_events: int = 1024, shrunk: Callable[[int], None] = lambda _ino: None) -> bool:
        """One bounded step of deferred deletion, to be committed like any change. True: there is more to do.

        shrunk: called with the number of each inode whose st_blocks are less now.
        """
        return self._reaper.reap(max_events, shrunk)


def _refuse_content(inode: Inode) -> None:
    if inode.is_dir:
        raise IsDirectoryError("A directory's content is read with readdir.")
    raise InvalidError("Only a regular file has content.")
