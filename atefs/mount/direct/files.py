"""Requests about the content of files.

A handle is (a number << 2 | reads are noted << 1 | open for writing), so that open files cost nothing here.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat

from atefs.errors import ExistsError, NotSupportedError, StaleError
from atefs.mount.direct.protocol import (
    BODY,
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    CREATE_IN,
    FALLOCATE_IN,
    FOPEN_KEEP_CACHE,
    HANDLE_IN,
    LSEEK_IN,
    LSEEK_OUT,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    WRITE_CACHE,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
    Opcode,
)
from atefs.mount.direct.request import Handler, Later, Request
from atefs.mount.direct.services import UNPRIVILEGED, Services
from atefs.vault.limits import INLINE_MAX

_WRITING = os.O_WRONLY | os.O_RDWR
_UNNOTICED = os.O_WRONLY | os.O_NOATIME
"""Flags of open that leave the access time alone."""
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
"""man 2 fallocate."""
_COPY_MAX = 1 << 30
_WRITE_BODY = BODY + WRITE_IN.size


class Files:
    """Handlers, as `Handler` describes them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._vault = services.vault
        self._committer = services.committer
        self._touch = services.committer.touch
        self._numbers = itertools.count(1)

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync,
            Opcode.FSYNCDIR: self.fsync,
            Opcode.SYNCFS: self.fsync,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range_64,
            Opcode.LSEEK: self.lseek,
        }

    def open(self, request: Request) -> bytes:
        flags, _ = OPEN_IN.unpack_from(request.data, BODY)
        self._vault.check_open(request.node, flags)
        if not flags & _UNNOTICED and self._services.note_access(request.node):
            self._services.stale(request.node)  # the kernel finds out by itself only of reads that it asks for
        return self._opened(flags, self._services.caching(request.node))

    def _opened(self, flags: int, caching: int = FOPEN_KEEP_CACHE) -> bytes:
        writing = bool(flags & _WRITING)
        self._committer.writers += writing
        noticed = 2 if self._vault.notes_every_read and not flags & _UNNOTICED else 0
        return OPEN_OUT.pack(next(self._numbers) << 2 | noticed | writing, caching, 0)

    def create(self, request: Request) -> bytes:
        self._services.brake()
        flags, mode, umask, _ = CREATE_IN.unpack_from(request.data, BODY)
        name = request.name(BODY + CREATE_IN.size)
        try:
            inode = self._vault.mknod(request.node, name, mode | stat.S_IFREG, 0, self._services.caller(request, umask))
        except ExistsError:
            if flags & os.O_EXCL:
                raise
            # The kernel would take it for new, neither cut it nor check who may open it. It looks the name up anew now.
            raise StaleError("Another machine has made the file meanwhile; look again.") from None
        self._touch()
        return self._services.known(request, inode) + self._opened(flags)

    def tmpfile(self, request: Request) -> bytes:
        """A file without a name (man 2 open, O_TMPFILE)."""
        self._services.brake()
        flags, mode, umask, _ = CREATE_IN.unpack_from(request.data, BODY)
        inode = self._vault.tmpfile(request.node, mode, self._services.caller(request, umask))
        self._touch()
        return self._services.known(request, inode) + self._opened(flags)

    def read(self, request: Request) -> bytes:
        handle, offset, size, _, _, _, _ = READ_IN.unpack_from(request.data, BODY)
        if handle & 2:
            self._services.note_access(request.node)
        return self._vault.read(request.node, offset, size)

    def write(self, request: Request) -> bytes:
        self._services.brake()
        data = request.data
        _, offset, size, how, _, flags, _ = WRITE_IN.unpack_from(data, BODY)
        if len(data) != _WRITE_BODY + size:
            raise ValueError("what is to be written is cut short")
        place = self._end(request.node, offset) if flags & os.O_APPEND and not how & WRITE_CACHE else offset
        caller = UNPRIVILEGED if how & WRITE_KILL_SUIDGID else None
        content = data[_WRITE_BODY:] if size <= INLINE_MAX else memoryview(data)[_WRITE_BODY:]
        self._vault.write(request.node, place, content, caller)
        if place != offset:
            self._services.outdated(request.node)  # the kernel keeps what is written where it thinks that it went
        self._touch()
        return WRITE_OUT.pack(size, 0)

    def _end(self, ino: int, offset: int) -> int:
        """Where what is appended goes. offset: where the kernel thinks that the file ends.

        Others may have appended or cut meanwhile, of which the kernel was not told yet. What it writes itself, it hands
        over at once where others change the vault, too; elsewhere, it may know of more: direct I/O passes by what it
        holds of cached writes.
        """
        end = self._vault.getattr(ino).size
        return end if self._services.shared else max(end, offset)

    def flush(self, request: Request) -> bytes:
        """At each close. A commit that failed is reported to whoever wrote: this is the last chance to."""
        (handle,) = HANDLE_IN.unpack_from(request.data, BODY)
        if handle & 1:
            self._committer.check()
        return b""

    def release(self, request: Request) -> bytes:
        (handle,) = HANDLE_IN.unpack_from(request.data, BODY)
        self._committer.writers -= handle & 1
        return b""

    def fsync(self, _request: Request) -> bytes:
        if not self._committer.sync_now():
            raise Later(self._committer.sync, b"")
        return b""

    def fallocate(self, request: Request) -> bytes:
        _, offset, length, mode, _ = FALLOCATE_IN.unpack_from(request.data, BODY)
        if mode == _PUNCH_HOLE | _KEEP_SIZE:
            self._vault.punch_hole(request.node, offset, length)
        elif mode & ~_KEEP_SIZE == _ZERO_RANGE:
            self._vault.zero_range(request.node, offset, length, keep_size=bool(mode & _KEEP_SIZE))
        elif mode & ~_KEEP_SIZE == 0:
            self._vault.allocate(request.node, offset, length, keep_size=bool(mode & _KEEP_SIZE))
        else:
            raise NotSupportedError("A vault can allocate, punch holes and zero; it cannot move what lies behind.")
        self._touch()
        return b""

    def copy_file_range(self, request: Request) -> bytes:
        return WRITE_OUT.pack(self._copied(request), 0)

    def copy_file_range_64(self, request: Request) -> bytes:
        return COPY_FILE_RANGE_OUT.pack(self._copied(request))

    def _copied(self, request: Request) -> int:
        self._services.brake()
        _, offset, node, _, to, length, _ = COPY_FILE_RANGE_IN.unpack_from(request.data, BODY)
        caller = self._services.caller(request)
        copied = self._vault.copy_range(request.node, offset, node, to, min(length, _COPY_MAX), caller=caller)
        self._touch()
        return copied

    def lseek(self, request: Request) -> bytes:
        _, offset, whence, _ = LSEEK_IN.unpack_from(request.data, BODY)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        seek = self._vault.seek_data if whence == os.SEEK_DATA else self._vault.seek_hole
        return LSEEK_OUT.pack(seek(request.node, offset))
