"""Names: looking them up, making and removing them. Every operation loads what it needs before it changes anything."""

from __future__ import annotations

import stat
from collections.abc import Callable

from atedb.errors import DamagedError
from atefs.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NameTooLongError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    StaleError,
    TooManyLinksError,
)
from atefs.vault import limits
from atefs.vault.directory import Directories, Entry, check_name
from atefs.vault.flags import FIXED, IMMUTABLE, INHERITED, refusal
from atefs.vault.inode import Caller, DirEntry, Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import sectors
from atefs.vault.limits import OBJECT_COST, SYMLINK_MAX
from atefs.vault.numbers import Numbers
from atefs.vault.ownership import heritage
from atefs.vault.reap import Reaper
from atefs.vault.space import Space

_KINDS = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
_NO_ENTRY = "There is no entry of that name."


class Namespace:
    """The tree of directories. Errors as in man 2 mkdir, mknod, symlink, link, unlink, rmdir."""

    def __init__(
        self, numbers: Numbers, inodes: Inodes, directories: Directories, reaper: Reaper,
        *, space: Space, clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._numbers = numbers
        self._inodes = inodes
        self._directories = directories
        self._reaper = reaper
        self._space = space
        self._clock = clock

    def lookup(self, parent: int, name: bytes) -> Inode:
        """Raises NotFoundError, NotDirectoryError, NameTooLongError. "." and ".." are understood."""
        entry = self._directories.lookup(parent, name)
        if entry:
            return self._named(entry)
        directory = self._inodes.get(parent)
        if not directory.is_dir:
            raise NotDirectoryError(f"Inode {parent} is not a directory.")
        if name == b".":
            return directory
        if name == b"..":
            return self._inodes.get(directory.parent)
        if len(name) > limits.NAME_MAX:
            raise NameTooLongError(f"A name of {len(name)} bytes; {limits.NAME_MAX} is the most.")
        raise NotFoundError(_NO_ENTRY)

    def make(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller, *, target: bytes = b"") -> Inode:
        """A new inode with its first name. mode: with its type. target: of a symbolic link."""
        directory = self.directory_for_change(parent)
        check_name(name)
        if self._directories.lookup(parent, name):
            raise ExistsError("There is an entry of that name already.")
        is_dir = stat.S_ISDIR(mode)
        if is_dir and directory.nlink >= limits.LINK_MAX:
            raise TooManyLinksError(f"A directory can have {limits.LINK_MAX} links.")
        self.check_room_for_one(len(target))
        now = self._clock()
        inode = self._add(directory, mode, caller, now, rdev=rdev, target=target)
        self._directories.put(parent, name, inode, 0)
        directory.size += 1
        directory.nlink += is_dir
        self.stamp_directory(directory, now)
        return inode

    def check_room_for_one(self, content: int = 0) -> None:
        """Raises NoSpaceError or QuotaError unless one more inode, with so many bytes in it, can have a name."""
        self._space.check_room(3 * OBJECT_COST + content)

    def tmpfile(self, parent: int, mode: int, caller: Caller) -> Inode:
        """A regular file without a name, made as if in `parent`."""
        directory = self.directory_for_change(parent)
        self._space.check_room(2 * OBJECT_COST)
        inode = self._add(directory, stat.S_IFREG | mode & 0o7777, caller, self._clock())
        inode.nlink = 0
        inode.keeper = self._numbers.keeper
        self._inodes.nameless.add(inode.ino)
        return inode

    def _add(
        self, directory: Inode, mode: int, caller: Caller, now: int, *, rdev: int = 0, target: bytes = b"",
    ) -> Inode:  # fmt: skip
        """A new inode as it begins in `directory`, which does not list it yet."""
        uid, gid, mode, xattrs = heritage(directory, mode, caller)
        nlink, inside = (2, directory.ino) if stat.S_ISDIR(mode) else (1, 0)
        inode = Inode(
            self._numbers.allocate(), mode, uid, gid, nlink, len(target), sectors(len(target)),
            now, now, now, now, rdev, directory.flags & INHERITED, 0, inside, xattrs, data=target,
        )  # fmt: skip
        self._inodes.add(inode)
        return inode

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Inode:
        """A regular file (also when the mode has no type), a FIFO, a socket or a device."""
        if not stat.S_IFMT(mode):
            mode |= stat.S_IFREG
        if stat.S_IFMT(mode) not in _KINDS:
            raise InvalidError("mknod makes regular files, FIFOs, sockets and devices.")
        return self.make(parent, name, mode, rdev, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Inode:
        """target: 1 to 4,095 bytes."""
        if len(target) > SYMLINK_MAX:
            raise NameTooLongError(f"A link target of {len(target)} bytes; {SYMLINK_MAX} is the most.")
        if not target:
            raise NotFoundError("An empty link target leads nowhere.")
        return self.make(parent, name, stat.S_IFLNK | 0o777, 0, caller._replace(umask=0), target=target)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """Another name for what is not a directory; the first one for a file that has none and is in use.

        Whether a file that has none was deleted, so that it must stay without (man 2 linkat), the kernel knows.
        """
        inode = self._inodes.get(ino)
        directory = self.directory_for_change(parent)
        check_name(name)
        if inode.is_dir:
            raise NotPermittedError("A directory has one name only.")
        if inode.flags & FIXED:
            raise refusal(inode)
        if inode.nlink == 0 and ino not in self._inodes.references:
            raise NotFoundError("The file was deleted; it cannot get a name again.")
        if self._directories.lookup(parent, name):
            raise ExistsError("There is an entry of that name already.")
        if inode.nlink >= limits.LINK_MAX:
            raise TooManyLinksError(f"A file can have {limits.LINK_MAX} links.")
        self._space.check_room(3 * OBJECT_COST)
        self._inodes.ready(inode)
        now = self._clock()
        self._directories.put(parent, name, inode, 0)
        if inode.nlink == 0:
            self._inodes.named(inode)
        inode.nlink += 1
        inode.ctime = now
        self._inodes.touch(inode)
        directory.size += 1
        self.stamp_directory(directory, now)
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of what is not a directory; the last one, and unused: the inode with it."""
        directory, entry, inode = self._doomed_entry(parent, name)
        if inode.is_dir:
            raise IsDirectoryError("A directory is removed with rmdir.")
        self.ready_to_drop(inode)
        now = self._clock()
        self._directories.remove(parent, name, entry)
        directory.size -= 1
        self.stamp_directory(directory, now)
        self.drop_link(inode, now)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        if name == b".":
            raise InvalidError("'.' cannot be removed.")
        if name == b"..":
            raise NotEmptyError("'..' is not empty.")
        directory, entry, inode = self._doomed_entry(parent, name)
        if not inode.is_dir:
            raise NotDirectoryError("What is not a directory is removed with unlink.")
        if inode.size:
            raise NotEmptyError("The directory still has entries.")
        now = self._clock()
        self._directories.remove(parent, name, entry)
        directory.size -= 1
        directory.nlink -= 1
        self.stamp_directory(directory, now)
        self.drop_link(inode, now)

    def readlink(self, ino: int) -> bytes:
        inode = self._inodes.get(ino)
        if not inode.is_link:
            raise InvalidError("Only a symbolic link has a target.")
        return self._inodes.content(inode)

    def readdir(self, ino: int) -> list[DirEntry]:
        """All entries as of now, "." and ".." first."""
        directory = self._inodes.get(ino)
        if not directory.is_dir:
            raise NotDirectoryError(f"Inode {ino} is not a directory.")
        return self._directories.listing(directory)

    # Parts shared with renaming

    def directory_for_change(self, ino: int) -> Inode:
        """A directory that may get or lose entries."""
        self._space.check_writable()
        directory = self._inodes.get(ino)
        if not directory.is_dir:
            raise NotDirectoryError(f"Inode {ino} is not a directory.")
        if directory.nlink == 0:
            raise NotFoundError("The directory was removed.")
        if directory.flags & IMMUTABLE:
            raise refusal(directory)
        return directory

    def stamp_directory(self, directory: Inode, now: int) -> None:
        """Its entries have changed."""
        directory.mtime = directory.ctime = now
        self._inodes.touch(directory)

    def ready_to_drop(self, inode: Inode) -> None:
        """What `drop_link` needs, to be called before anything is changed."""
        if inode.nlink > 1 or inode.ino in self._inodes.references:
            self._inodes.ready(inode)

    def drop_link(self, inode: Inode, now: int) -> None:
        """One name less, a directory's only one; unused without a name, the inode goes."""
        inode.nlink = 0 if inode.is_dir else inode.nlink - 1
        inode.ctime = now
        if inode.nlink == 0:
            if inode.ino not in self._inodes.references:
                self._reaper.dispose(inode)
                return
            self._inodes.nameless.add(inode.ino)
            inode.keeper = self._numbers.keeper
        self._inodes.touch(inode)

    def _doomed_entry(self, parent: int, name: bytes) -> tuple[Inode, Entry, Inode]:
        directory = self.directory_for_change(parent)
        check_name(name)
        entry = self._directories.lookup(parent, name)
        if not entry:
            raise NotFoundError(_NO_ENTRY)
        inode = self._named(entry)
        if (directory.flags | inode.flags) & FIXED:
            raise refusal(directory, inode)
        return directory, entry, inode

    def _named(self, entry: Entry) -> Inode:
        try:
            return self._inodes.get(entry >> 4)
        except StaleError as missing:
            raise DamagedError(f"An entry names inode {entry >> 4}, which is lost. Run: atefs fsck") from missing
