"""The adapter over pyfuse3: requests in, vault calls, attributes out.

Nothing is decided here that the vault could decide. Handlers whose work needs no disk never suspend. Only FUSEError
may leave a handler: pyfuse3 ends the mount for anything else.

What pyfuse3 3.5 cannot carry (fallocate, SEEK_HOLE, copy_file_range, locks between mounts, O_TMPFILE, ioctl) it
refuses by itself. Permissions are checked by the kernel (default_permissions; see `driver.kernel_options`).

A file handle is (inode number << 2 | reads are noted << 1 | open for writing), so that open files cost nothing here; a
directory handle is the number of a listing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from atedb.errors import Absent, NotResident
from atefs.errors import ExistsError, NotFoundError, StaleError
from atefs.mount import errnos
from atefs.mount.committer import Committer
from atefs.mount.ids import SAME
from atefs.mount.init_reply import InitReply
from atefs.mount.listing import Listing
from atefs.mount.loop import RequestLoop
from atefs.mount.preflight import NoFuseError
from atefs.mount.xattr_names import is_carried, visible
from atefs.vault import acl
from atefs.vault.inode import Attributes, Caller, Inode
from atefs.vault.vault import Vault

if TYPE_CHECKING:
    from atefs.mount.locks import SharedLocks

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT = 86_400.0
"""Seconds that the kernel may rely on names and attributes: nobody else changes them."""
ATTRIBUTES_MAX = 65_536
FETCHES_MAX = 3
WORKERS_IDLE, WORKERS_MAX = 4, 128
_WRITING = os.O_WRONLY | os.O_RDWR
_UNNOTICED = os.O_WRONLY | os.O_NOATIME
"""Flags of open that leave the access time alone."""
_NOTHING_TO_FORGET = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.EBADF))
"""Why a notice is of no use: the kernel does not know the inode or the name, or the mount has gone."""


class PyfuseAdapter(pyfuse3.Operations):
    """One mount. pyfuse3 allows one per process."""

    supports_dot_lookup = True
    enable_writeback_cache = True

    def __init__(self, vault: Vault, committer: Committer, loop: RequestLoop) -> None:
        super().__init__()
        self._vault = vault
        self._committer = committer
        self._loop = loop
        self._touch = committer.touch
        self._attributes: dict[int, tuple[int, EntryAttributes]] = {}
        self._listings: dict[int, Listing] = {}
        self._numbers = itertools.count(1)
        self._init_reply = InitReply()
        self._acl = True
        self.ids = SAME
        self._nowhere = EntryAttributes()
        self._nowhere.st_ino = 0
        self._nowhere.entry_timeout = TIMEOUT

    # -- the adapter interface

    def attach(self, mountpoint: Path, options: frozenset[str]) -> None:
        wanted = {"fsname=atefs", "subtype=atefs", *options} - {"noacl", "shared"}
        self.enable_writeback_cache = "shared" not in options
        self._acl = "noacl" not in options
        self.enable_acl = self._acl and "default_permissions" in options  # with it, the kernel sets that in any case
        self._loop.opening = self._init_reply.waits
        pyfuse3.trio = self._loop  # type: ignore[attr-defined]
        try:
            pyfuse3.init(self, os.fspath(mountpoint), wanted)
        except RuntimeError as error:
            raise NoFuseError(
                f"the kernel refused to mount {mountpoint} ({error}); the vault is closed and whole; "
                "libfuse says why in the driver's log; see also: fusermount3 -V; ls -l /dev/fuse"
            ) from None

    def init(self) -> None:
        self._init_reply.divert()

    async def serve(self) -> None:
        await pyfuse3.main(WORKERS_IDLE, WORKERS_MAX)

    def stop(self) -> None:
        pyfuse3.terminate()

    def detach(self) -> None:
        pyfuse3.close(unmount=True)

    def share_locks(self, locks: SharedLocks) -> bool:
        return False  # pyfuse3 has no requests about locks

    def outdate(self, attributes: Iterable[int], pages: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        failure: OSError | None = None
        for tell in (
            *(partial(pyfuse3.invalidate_inode, ino, True) for ino in attributes),
            *(partial(pyfuse3.invalidate_inode, ino, False) for ino in pages),
            *(partial(pyfuse3.invalidate_entry, folder, name) for folder, name in entries),
        ):
            try:
                tell()
            except OSError as error:
                if error.errno not in _NOTHING_TO_FORGET:
                    failure = error
        if failure is not None:
            log.error("the kernel did not take that something has changed: %s", failure)

    @property
    def requests(self) -> int:
        return self._loop.requests

    # -- what handlers share

    async def _again(self, error: Exception, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`operation` has raised. What it needs is fetched by a thread and it is tried again, or it has failed."""
        fetches = 0
        while isinstance(error, NotResident):
            try:
                if isinstance(error, Absent) or fetches < FETCHES_MAX:
                    fetches += not isinstance(error, Absent)
                    await self._loop.fetch(error)
                else:
                    error.fetch()  # memory is so short that what was fetched is gone before it is used
                await self._loop.opened()
                return operation(*args, **kwargs)
            except Exception as newer:
                error = newer
        raise FUSEError(errnos.answer(error)) from error

    async def _brake(self) -> None:
        """More has gathered than memory should hold: wait for a commit."""
        try:
            await self._committer.room()
            await self._loop.opened()
        except Exception as error:
            raise FUSEError(errnos.answer(error)) from error

    def _entry(self, inode: Inode) -> EntryAttributes:
        """The inode's attributes for the kernel, built anew only when it has changed."""
        known = self._attributes.get(inode.ino)
        if known is not None and known[0] == inode.stamp:
            return known[1]
        entry = EntryAttributes()
        entry.st_ino = inode.ino
        entry.generation = inode.generation
        entry.entry_timeout = entry.attr_timeout = TIMEOUT
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = self.ids.user(inode.uid)
        entry.st_gid = self.ids.group(inode.gid)
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blocks = inode.blocks
        entry.st_atime_ns = inode.atime
        entry.st_mtime_ns = inode.mtime
        entry.st_ctime_ns = inode.ctime
        if len(self._attributes) >= ATTRIBUTES_MAX:
            self._attributes.clear()
        self._attributes[inode.ino] = inode.stamp, entry
        return entry

    def _known(self, inode: Inode) -> EntryAttributes:
        """As `_entry`, for an answer after which the kernel knows the inode once more."""
        self._vault.remember(inode.ino)
        return self._entry(inode)

    # -- names

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            inode = self._find(parent_inode, name)
        except NotFoundError:
            return self._nowhere
        except Exception as error:
            try:
                inode = await self._again(error, self._find, parent_inode, name)
            except FUSEError as refused:
                if refused.errno != errno.ENOENT:
                    raise
                return self._nowhere
        finally:
            self._vault.outdated_names.discard((parent_inode, name))
        return self._known(inode)

    def _find(self, parent: int, name: bytes) -> Inode:
        if name == b".":
            return self._vault.getattr(parent)
        if name == b"..":
            return self._vault.getattr(self._vault.getattr(parent).parent)
        return self._vault.lookup(parent, name)

    def _require_told(self, parent: int, name: bytes) -> None:
        try:
            self._vault.require_told(parent, name)
        except StaleError as error:
            raise FUSEError(error.errno) from None

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        caller = self.ids.caller(ctx.uid, ctx.gid, ctx.umask)
        return await self._make(self._vault.mknod, parent_inode, name, mode, rdev, caller)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return await self._make(
            self._vault.mkdir, parent_inode, name, mode, self.ids.caller(ctx.uid, ctx.gid, ctx.umask)
        )

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return await self._make(
            self._vault.symlink, parent_inode, name, target, self.ids.caller(ctx.uid, ctx.gid, ctx.umask)
        )

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return await self._make(self._vault.link, inode, new_parent_inode, new_name)

    async def _make(self, operation: Callable[P, Inode], *args: P.args, **kwargs: P.kwargs) -> EntryAttributes:
        if self._committer.full:
            await self._brake()
        try:
            inode = operation(*args, **kwargs)
        except Exception as error:
            inode = await self._again(error, operation, *args, **kwargs)
        self._touch()
        return self._known(inode)

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._require_told(parent_inode, name)
        try:
            self._vault.unlink(parent_inode, name)
        except Exception as error:
            await self._again(error, self._vault.unlink, parent_inode, name)
        self._touch()

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._require_told(parent_inode, name)
        try:
            self._vault.rmdir(parent_inode, name)
        except Exception as error:
            await self._again(error, self._vault.rmdir, parent_inode, name)
        self._touch()

    async def rename(  # noqa: PLR0917 - the library's signature
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes,
        flags: int, ctx: RequestContext,
    ) -> None:  # fmt: skip
        self._require_told(parent_inode_old, name_old)
        self._require_told(parent_inode_new, name_new)
        operation = partial(
            self._vault.rename, parent_inode_old, name_old, parent_inode_new, name_new, flags,
            caller=self.ids.caller(ctx.uid, ctx.gid),
        )  # fmt: skip
        try:
            operation()
        except Exception as error:
            await self._again(error, operation)
        self._touch()

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        await self._note_access(inode)
        try:
            return self._vault.readlink(inode)
        except Exception as error:
            return await self._again(error, self._vault.readlink, inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            try:
                self._vault.forget(ino, count)
            except Exception as error:
                with contextlib.suppress(FUSEError):  # nobody waits for an answer
                    await self._again(error, self._vault.forget, ino, count)
            self._attributes.pop(ino, None)

    # -- attributes

    async def _note_access(self, ino: int) -> bool:
        """Its access time becomes now, if the rules ask for it. Not worth waiting for: a later request does it."""
        if self._committer.full:
            return False
        try:
            noted = self._vault.note_access(ino)
        except Exception as error:
            noted = await self._again(error, self._vault.note_access, ino)
        if noted:
            self._touch()
        return noted

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        try:
            return self._entry(self._vault.getattr(inode))
        except Exception as error:
            return self._entry(await self._again(error, self._vault.getattr, inode))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        wanted = Attributes(
            attr.st_mode if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
            attr.st_ctime_ns if fields.update_ctime else None,
        )
        wanted = self.ids.wanted(wanted)
        try:
            changed = self._vault.setattr(inode, wanted)
        except Exception as error:
            changed = await self._again(error, self._vault.setattr, inode, wanted)
        self._touch()
        return self._entry(changed)

    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Asked only where the kernel checks no permissions, which is when none but root is let in.

        Root may do everything, except execute what nobody may execute.
        """
        if not mode & os.X_OK:
            return True
        try:
            found = self._vault.getattr(inode)
        except Exception as error:
            found = await self._again(error, self._vault.getattr, inode)
        return not found.is_file or bool(found.mode & 0o111)

    def _check_carried(self, name: bytes) -> None:
        if not is_carried(name, acls=self._acl):
            raise FUSEError(errno.EOPNOTSUPP)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._check_carried(name)
        try:
            attributes = self._vault.getattr(inode).xattrs
        except Exception as error:
            attributes = (await self._again(error, self._vault.getattr, inode)).xattrs
        value = attributes.get(name) if attributes else None
        if value is None:
            raise FUSEError(errno.ENODATA)
        return self.ids.xattr(name, value)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._check_carried(name)
        value = self.ids.xattr(name, value)
        if name in acl.NAMES:
            operation = partial(self._set_acl, inode, name, value, ctx)
        else:
            operation = partial(self._vault.setxattr, inode, name, value)
        try:
            operation()
        except Exception as error:
            await self._again(error, operation)
        self._touch()

    def _set_acl(self, ino: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """It may change the mode, which the kernel does not expect unless it looks after access control lists."""
        inode = self._vault.getattr(ino)
        in_group = not inode.mode & stat.S_ISGID or _is_member(ctx, self.ids.group(inode.gid))
        self._vault.setxattr(ino, name, value, in_group=in_group)
        if not self.enable_acl:
            pyfuse3.invalidate_inode(ino, attr_only=True)

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        try:
            names = self._vault.listxattr(inode)
        except Exception as error:
            names = await self._again(error, self._vault.listxattr, inode)
        return visible(names, acls=self._acl, root=ctx.uid == 0)

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_carried(name)
        try:
            self._vault.removexattr(inode, name)
        except Exception as error:
            await self._again(error, self._vault.removexattr, inode, name)
        self._touch()

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        try:
            now = self._vault.statfs()
        except Exception as error:
            now = await self._again(error, self._vault.statfs)
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = now.bsize
        answer.f_blocks, answer.f_bfree, answer.f_bavail = now.total, now.free, now.available
        answer.f_files, answer.f_ffree, answer.f_favail = now.files, now.files_free, now.files_free
        answer.f_namemax = now.namemax
        return answer

    # -- files

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if inode in self._vault.outdated:
            try:
                self._vault.check_open(inode, flags)
            except Exception as error:
                await self._again(error, self._vault.check_open, inode, flags)
        if flags & os.O_TRUNC:
            await self._truncate(inode, ctx)
        elif not flags & _UNNOTICED and await self._note_access(inode):
            self._forget_attributes(inode)  # the kernel does so by itself only for reads that it asks for
        return self._opened(inode, flags)

    async def _truncate(self, ino: int, ctx: RequestContext) -> None:
        """As open does it. Set-id bits fall, of which the kernel, which sends no attributes here, is to be told."""
        args = (ino, Attributes(size=0), self.ids.caller(ctx.uid, ctx.gid))
        try:
            mode = self._vault.getattr(ino).mode
            changed = self._vault.setattr(*args)
        except Exception as error:
            mode = -1
            changed = await self._again(error, self._vault.setattr, *args)
        self._touch()
        if changed.mode != mode:
            self._forget_attributes(ino)

    def _forget_attributes(self, ino: int) -> None:
        """Have the kernel ask for them again."""
        with contextlib.suppress(OSError):  # it has forgotten them already
            pyfuse3.invalidate_inode(ino, attr_only=True)

    def _opened(self, ino: int, flags: int) -> FileInfo:
        noticed = 2 if self._vault.notes_every_read and not flags & _UNNOTICED else 0
        keep = ino not in self._vault.outdated
        if not keep:  # whoever opens a file sees all that was here before
            self._forget_attributes(ino)
        if flags & _WRITING:
            self._committer.writers += 1
            return FileInfo(fh=ino << 2 | noticed | 1, keep_cache=keep)
        return FileInfo(fh=ino << 2 | noticed, keep_cache=keep)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if self._committer.full:
            await self._brake()
        caller = self.ids.caller(ctx.uid, ctx.gid, ctx.umask)
        operation = partial(self._create, parent_inode, name, mode, caller, exclusively=bool(flags & os.O_EXCL))
        try:
            inode = operation()
        except Exception as error:
            inode = await self._again(error, operation)
        self._touch()
        return self._opened(inode.ino, flags), self._known(inode)

    def _create(self, parent: int, name: bytes, mode: int, caller: Caller, *, exclusively: bool) -> Inode:
        try:
            return self._vault.mknod(parent, name, mode | stat.S_IFREG, 0, caller)
        except ExistsError:
            if exclusively:
                raise
            # The kernel would take it for new, neither cut it nor check who may open it. It looks the name up anew now.
            raise StaleError("Another machine has made the file meanwhile; look again.") from None

    async def read(self, fh: int, off: int, size: int) -> bytes:
        if fh & 2:
            await self._note_access(fh >> 2)
        try:
            return self._vault.read(fh >> 2, off, size)
        except Exception as error:
            return await self._again(error, self._vault.read, fh >> 2, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        if self._committer.full:
            await self._brake()
        try:
            count = self._vault.write(fh >> 2, off, buf)
        except Exception as error:
            count = await self._again(error, self._vault.write, fh >> 2, off, buf)
        self._touch()
        return count

    async def flush(self, fh: int) -> None:
        if fh & 1:
            try:
                self._committer.check()
            except Exception as error:
                raise FUSEError(errnos.answer(error)) from error

    async def release(self, fh: int) -> None:
        if fh & 1:
            self._committer.writers -= 1

    async def fsync(self, fh: int, datasync: bool) -> None:
        try:
            await self._committer.sync()
        except Exception as error:
            raise FUSEError(errnos.answer(error)) from error

    # -- directories

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        number = next(self._numbers)
        self._listings[number] = Listing(inode)
        return number

    async def releasedir(self, fh: int) -> None:
        self._listings.pop(fh, None)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.fsync(fh, datasync)

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        if start_id == 0 or not listing.taken:
            await self._note_access(listing.ino)
            try:
                listing.take(self._vault)
            except Exception as error:
                await self._again(error, listing.take, self._vault)
        for position in range(start_id, len(listing.entries)):
            entry = listing.entries[position]
            try:
                inode = listing.current(self._vault, entry)
            except Exception as error:
                try:
                    inode = await self._again(error, listing.current, self._vault, entry)
                except FUSEError as refused:
                    if refused.errno != errno.ENOENT:
                        raise
                    inode = None
            if inode is None:
                continue
            if not pyfuse3.readdir_reply(token, entry.name, self._entry(inode), position + 1):
                return
            if entry.name not in (b".", b".."):
                self._vault.remember(inode.ino)


def _is_member(ctx: RequestContext, gid: int) -> bool:
    """Whether the caller is root or of the group. One in a PID namespace that we cannot see into is taken not to be."""
    if ctx.uid == 0 or ctx.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(ctx.pid)
    except OSError:
        return False
