"""The loop that reads requests and answers them.

A request whose answer is in memory, in the view or in the page cache is answered on the spot, by a plain call. One that
has to wait for the disk, for room or for others gets a task of its own, and the loop goes on reading.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import trio

from atedb.errors import Absent, NotResident
from atefs.mount import errnos
from atefs.mount.direct.negotiation import MAX_WRITE, NOTHING, KernelTooOldError, negotiate
from atefs.mount.direct.protocol import (
    BODY,
    EXPIRE_ONLY,
    INTERRUPT_IN,
    INVAL_ENTRY,
    INVAL_INODE,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    OUT_HEADER,
    Init,
    Opcode,
)
from atefs.mount.direct.request import Handler, Later, Request
from atefs.mount.waiting import SPIN_MAX, YIELD, Waiting

log = logging.getLogger(__name__)

BUFFER = MAX_WRITE + 4096
JOIN_BELOW = 64 << 10
FETCHES_MAX = 3
SLOW_MAX = 128
TELLERS = 8
"""Threads in which the kernel may make us wait until it has forgotten content."""
_GONE = frozenset((errno.ENODEV, errno.EBADF))
_WITHDRAWN = frozenset((errno.ENOENT, errno.EINTR))
_UNKNOWN = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EINTR))
"""Why a notice is of no use: the kernel does not know the inode or the name, so that it has nothing to forget."""


class Session(Waiting):
    """One connection to the kernel."""

    def __init__(self, spin: float = SPIN_MAX) -> None:
        super().__init__(spin)
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: _done,
        }
        self._forget: Callable[[int, int], None]
        self._fd = -1
        self._wanted = self._unwanted = NOTHING
        self._slow: dict[int, trio.CancelScope] = {}
        self.untold: dict[int, bool] = {}
        """Inodes whose content the kernel is being told to forget; True: and once more after that."""
        self._tellers = trio.CapacityLimiter(TELLERS)
        self._endless = 0
        self._less = trio.Event()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    def serve_with(self, handlers: Mapping[int, Handler], forget: Callable[[int, int], None]) -> None:
        """handlers: by opcode. forget: takes back that the kernel was told of an inode, when the telling failed."""
        self._handlers.update(handlers)
        self._forget = forget

    def attach(self, fd: int, wanted: Init, unwanted: Init = NOTHING) -> None:
        """Take over the kernel's descriptor. wanted, unwanted: to be agreed on beside what always is, and not."""
        self._fd = fd
        self._wanted, self._unwanted = wanted, unwanted
        self._watch(fd)

    def stop(self) -> None:
        """Make `serve` return."""
        self._scope.cancel()

    def detach(self) -> None:
        """Give up the connection: the kernel then refuses every request that is left.

        The descriptor's number stays taken: a thread may be about to write a notice to it (`changed`, `renamed`), and
        must not find another file there.
        """
        if self._fd >= 0:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, self._fd, inheritable=False)
            os.close(null)
            self._fd = -1

    async def serve(self) -> None:
        """Answer requests until the kernel has unmounted or `stop` was called."""
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                await self._read_all()
                self._nursery.cancel_scope.cancel()

    async def _read_all(self) -> None:
        fd, read, answer = self._fd, os.read, self._answer
        yield_at = perf_counter() + YIELD
        while True:
            try:
                data = read(fd, BUFFER)
            except BlockingIOError:
                yield_at = await self._wait()
                await self.opened()
                continue
            except OSError as error:
                if error.errno in _GONE:
                    return
                if error.errno not in _WITHDRAWN:
                    raise
                continue
            if not data:
                return
            self.requests += 1
            answer(data)
            if perf_counter() >= yield_at:
                await trio.lowlevel.checkpoint()
                await self.opened()
                yield_at = perf_counter() + YIELD
            if len(self._slow) - self._endless >= SLOW_MAX:
                self._less = trio.Event()
                await self._less.wait()
                await self.opened()

    async def _wait(self) -> float:
        """Return when there may be a request; the time at which other tasks must have their turn."""
        poll, now = self._poll, perf_counter()
        assert poll is not None
        if self._slow or not self._nap(poll, now):  # the tasks of requests that wait need the scheduler
            self.sleeps += 1
            await trio.lowlevel.wait_readable(self._fd)
        return perf_counter() + YIELD

    def stale(self, ino: int) -> None:
        """Tell the kernel that the attributes of an inode, if it has any, are out of date."""
        self._notify(NOTIFY_INVAL_INODE, INVAL_INODE.pack(ino, -1, 0))

    def changed(self, ino: int) -> None:
        """As `stale`, and so is all content. In a thread only: the kernel waits for reads that are under way."""
        self._notify(NOTIFY_INVAL_INODE, INVAL_INODE.pack(ino, 0, 0))

    def outdated(self, ino: int) -> None:
        """As `changed`, soon, and without waiting: for whoever answers requests. Until then, it is in `untold`."""
        under_way = ino in self.untold
        self.untold[ino] = True
        if not under_way:
            self._nursery.start_soon(self._tell, ino)

    async def _tell(self, ino: int) -> None:
        while self.untold[ino]:
            self.untold[ino] = False  # what changes from here on, the kernel has to be told once more
            await self.in_thread(partial(self.changed, ino), limiter=self._tellers, abandon=True)
        del self.untold[ino]

    def renamed(self, folder: int, name: bytes) -> None:
        """Tell the kernel that what it knows of a name, that there is none included, is out of date.

        In a thread only: the kernel waits for whoever changes the folder, and they wait for answers.
        """
        self._notify(NOTIFY_INVAL_ENTRY, INVAL_ENTRY.pack(folder, len(name), EXPIRE_ONLY) + name + b"\0")

    def _notify(self, what: int, payload: bytes) -> None:
        try:
            os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size + len(payload), what, 0) + payload)
        except OSError as error:
            if error.errno not in _GONE and error.errno not in _UNKNOWN:
                log.error("the kernel did not take that something has changed: %s", error)

    # -- one request

    def _answer(self, data: bytes) -> None:
        if len(data) < BODY:
            log.error("the kernel sent a request of %d bytes", len(data))
            return
        request = Request(data)
        handler = self._handlers.get(request.opcode)
        if handler is None:
            self._refuse(request, errno.ENOSYS)
            return
        try:
            payload = handler(request)
        except (NotResident, Later) as reason:
            self._slow[request.unique] = trio.CancelScope()
            self._endless += _endless(reason)
            self._nursery.start_soon(self._answer_slowly, request, handler, reason)
        except Exception as error:
            self._fail(request, error)
        else:
            if payload is not None:
                self._reply(request, payload)

    def _fail(self, request: Request, error: Exception) -> None:
        code = errnos.errno_of(error)
        if code is None:
            log.error("request %d of opcode %d failed", request.unique, request.opcode, exc_info=error)
            code = errno.EINVAL if isinstance(error, ValueError | struct.error) else errno.EIO
        self._refuse(request, code)

    async def _answer_slowly(self, request: Request, handler: Handler, reason: Exception) -> None:
        """Wait for what the handler needs and run it again, until it can answer or whoever asked gives up."""
        endless = _endless(reason)
        try:
            with self._slow[request.unique] as scope:
                payload = await self._patiently(request, handler, reason)
        except Exception as error:
            self._fail(request, error)
        else:
            if scope.cancelled_caught:
                self._refuse(request, errno.EINTR)
            elif payload is not None:
                self._reply(request, payload)
        finally:
            del self._slow[request.unique]
            self._endless -= endless
            self._less.set()

    def _interrupt(self, request: Request) -> None:
        """Whoever asked has got a signal. A request that waits is given up; others are answered in a moment anyway."""
        (unique,) = INTERRUPT_IN.unpack_from(request.data, BODY)
        scope = self._slow.get(unique)
        if scope is not None:
            scope.cancel()

    async def _patiently(self, request: Request, handler: Handler, reason: Exception) -> bytes | None:
        fetches = 0
        while True:
            if isinstance(reason, Later):
                await reason.wait()
                if reason.done is not None:
                    return reason.done
            else:
                assert isinstance(reason, NotResident)
                fetches += not isinstance(reason, Absent)
                if fetches > FETCHES_MAX and not isinstance(reason, Absent):
                    reason.fetch()  # memory is so short that what was fetched is gone before it is used
                else:
                    await self.fetch(reason, abandon=True)
            await self.opened()
            try:
                return handler(request)
            except (NotResident, Later) as newer:
                reason = newer

    def _reply(self, request: Request, payload: bytes) -> None:
        head = OUT_HEADER.pack(OUT_HEADER.size + len(payload), 0, request.unique)
        try:
            if len(payload) < JOIN_BELOW:
                os.write(self._fd, head + payload)
            else:
                os.writev(self._fd, (head, payload))
        except OSError as error:
            self._undelivered(request, error)

    def _refuse(self, request: Request, code: int) -> None:
        try:
            os.write(self._fd, OUT_HEADER.pack(OUT_HEADER.size, -code, request.unique))
        except OSError as error:
            self._undelivered(request, error)

    def _undelivered(self, request: Request, error: OSError) -> None:
        """ENOENT: whoever asked has gone. ENODEV: so has the mount, and the next read finds that out."""
        if error.errno not in _GONE and error.errno not in _WITHDRAWN:
            log.error("the kernel did not take the answer to opcode %d: %s", request.opcode, error)
        for ino in request.known:
            self._forget(ino, 1)

    def _init(self, request: Request) -> bytes | None:
        try:
            payload, _ = negotiate(request.data, self._wanted, self._unwanted)
        except KernelTooOldError as error:
            log.error("%s", error)
            self._refuse(request, errno.EPROTO)
            self.stop()
            return None
        return payload


def _endless(reason: Exception) -> bool:
    return isinstance(reason, Later) and reason.endless


def _done(_: Request) -> bytes:
    return b""
