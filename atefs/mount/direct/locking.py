"""Requests about locks of programs, on a mount of a server's chain. Elsewhere the kernel keeps locks by itself.

The kernel names who locks by a number: of a process for POSIX locks, of an open file for those of flock and for
open-file-description locks. It says when a process has closed a file (FLUSH), and when an open file has ended
(RELEASE), but of the latter's open-file-description locks nothing: so it is remembered which were set through which
open file.
"""

from __future__ import annotations

import fcntl
from functools import partial

from atedb.net.locks import Lock
from atefs.errors import InvalidError
from atefs.mount.direct.files import Files
from atefs.mount.direct.protocol import (
    BODY,
    FLUSH_IN,
    LK_FLOCK,
    LK_IN,
    LK_OUT,
    RELEASE_FLOCK_UNLOCK,
    RELEASE_IN,
    Opcode,
)
from atefs.mount.direct.request import Handler, Later, Request
from atefs.mount.locks import SharedLocks

_KINDS = (fcntl.F_RDLCK, fcntl.F_WRLCK)


class Locking:
    """Handlers, as `Handler` describes them; those of FLUSH and RELEASE take the place of those of `files`."""

    def __init__(self, locks: SharedLocks, files: Files) -> None:
        self._locks = locks
        self._files = files
        self._through: dict[tuple[int, int], set[int]] = {}
        """By inode and owner: the open files through which ranges were locked."""
        self._used: dict[int, set[tuple[int, int]]] = {}
        """The same by open file."""

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.GETLK: self.getlk,
            Opcode.SETLK: self.setlk,
            Opcode.SETLKW: self.setlk,
            Opcode.FLUSH: self.flush,
            Opcode.RELEASE: self.release,
        }

    def getlk(self, request: Request) -> bytes | None:
        """man 2 fcntl, F_GETLK."""
        _, owner, start, end, kind, pid, _, _ = LK_IN.unpack_from(request.data, BODY)

        async def ask() -> None:
            found = await self._locks.test(request.node, owner, Lock(start, end, kind == fcntl.F_WRLCK))
            if found is None:
                later.done = LK_OUT.pack(start, end, fcntl.F_UNLCK, pid)
            else:
                later.done = LK_OUT.pack(found.start, found.end, _KINDS[found.exclusive], found.pid)

        later = Later(ask)
        raise later

    def setlk(self, request: Request) -> bytes | None:
        """man 2 fcntl, F_SETLK and F_SETLKW; man 2 flock."""
        handle, owner, start, end, kind, pid, flags, _ = LK_IN.unpack_from(request.data, BODY)
        ino, flock = request.node, bool(flags & LK_FLOCK)
        if kind == fcntl.F_UNLCK:
            return self._unlock(ino, owner, start, end, flock=flock)
        if kind not in _KINDS:
            raise InvalidError("A lock is for reading or for writing.")
        if not flock:
            self._through.setdefault((ino, owner), set()).add(handle)
            self._used.setdefault(handle, set()).add((ino, owner))
        wait = request.opcode == Opcode.SETLKW
        lock = Lock(start, end, kind == fcntl.F_WRLCK, pid, flock)
        raise Later(partial(self._locks.lock, ino, owner, lock, wait=wait), b"", endless=wait)

    def _unlock(self, ino: int, owner: int, start: int, end: int, *, flock: bool) -> bytes:
        settled = self._locks.unlock(ino, owner, start, end, flock=flock)
        if settled is not None:
            raise Later(settled, b"")
        return b""

    def flush(self, request: Request) -> bytes:
        """A process has closed the file: it has no POSIX lock of it any more, whichever descriptor it was set by."""
        _, _, owner = FLUSH_IN.unpack_from(request.data, BODY)
        for handle in self._through.pop((request.node, owner), ()):
            self._unused(handle, request.node, owner)
        settled = self._locks.unlock(request.node, owner)
        if settled is None:
            return self._files.flush(request)

        async def wait() -> None:
            await settled()
            self._files.flush(request)

        raise Later(wait, b"")

    def release(self, request: Request) -> bytes:
        """An open file has ended, and its locks with it."""
        self._files.release(request)
        handle, _, flags, owner = RELEASE_IN.unpack_from(request.data, BODY)
        ended = []
        for ino, other in self._used.pop(handle, ()):
            handles = self._through[ino, other]
            handles.discard(handle)
            if not handles:
                del self._through[ino, other]
                ended.append(self._locks.unlock(ino, other))
        if flags & RELEASE_FLOCK_UNLOCK:
            ended.append(self._locks.unlock(request.node, owner, flock=True))
        if not any(ended):
            return b""

        async def wait() -> None:
            for settled in ended:
                if settled is not None:
                    await settled()

        raise Later(wait, b"")

    def _unused(self, handle: int, ino: int, owner: int) -> None:
        users = self._used[handle]
        users.discard((ino, owner))
        if not users:
            del self._used[handle]
