"""Locks of programs on a mount of a server's chain: what other mounts hold counts, and theirs see what was done here.

The server decides (`atedb.node.leases`); what it has given is kept in `MountLeases`. While there is no connection, this
machine's table decides alone, or nobody gets a lock, as the recovery mode has it (docs/posix.md).

What was done under a lock comes before the next one who has it: a lock is given back when all is on the server, and it
is given when all that was there then is here, and the kernel knows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from atedb.errors import AteError, BusyError, FencedError, UnreachableError
from atedb.net.client import GivenLease, ServerConnection
from atedb.net.errors import ConnectionLostError, HeldError, RateError, UnavailableError
from atedb.net.link import Link
from atedb.net.locks import LAST, Lock, Waiter
from atefs.mount.leases import LOCK_SECONDS, MountLeases, in_time
from atefs.mount.standing import Holder
from atefs.vault.codec import Keys

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 30.0
"""How long it may take until all is here that others did before they gave a lock back."""
AGAIN_SECONDS = 1.0
"""How soon what the server has given, and somebody here has without its knowing, is asked for again."""
_PASSES = (ConnectionLostError, UnreachableError, UnavailableError, BusyError, RateError)
"""What says that the server cannot be asked for now."""


class SharedLocks:
    """The locks of one mount.

    settle: returns when all that was done here is on the server. follow: returns when all that the server had up to a
    sequence is here, and the kernel knows. alone: whether there are locks while the server cannot be reached.
    device: the replica's public key, if it has one.
    """

    def __init__(
        self, keys: Keys, link: Link, settle: Callable[[], Awaitable[None]], follow: Callable[[int], Awaitable[None]],
        *, alone: bool, device: bytes = b"",
    ) -> None:  # fmt: skip
        self.leases = MountLeases(keys, link, settle, device)
        self._held = self.leases.holdings
        self._table = self._held.table
        self._link = link
        self._follow = follow
        self._alone = alone
        self._said = False
        self._here: dict[trio.Event, Waiter] = {}
        self._waiting = 0

    # -- what programs ask

    def holds(self, ino: int, owner: int, *, flock: bool) -> bool:
        """Whether somebody has anything of a file."""
        return bool(self._table.held_by(ino, owner, flock=flock))

    async def lock(self, ino: int, owner: int, lock: Lock, *, wait: bool) -> None:
        """Have a lock, and see all that was done under it before.

        Raises HeldError unless `wait`, UnreachableError, DeadlockError, NoLocksError, InvalidError. Cancelled, nothing
        has changed.
        """
        holder = Holder(ino, owner, lock.flock)
        if lock.flock:
            lock = lock._replace(start=0, end=LAST)
        if lock.flock and any(one.exclusive != lock.exclusive for one in self._held.held(holder)):
            await self._done(self.unlock(ino, owner, flock=True))  # man 2 flock: to convert is to give up first
        elif not lock.exclusive and self._covers(holder, lock):
            await self._done(self.leases.weaken(holder, lock.start, lock.end, lock))
            return
        while True:
            try:
                await self._try(holder, lock, patient=wait)
                return
            except HeldError:
                if not wait:
                    raise
            if await self._wait(holder, lock):
                return

    def unlock(
        self, ino: int, owner: int, start: int = 0, end: int = LAST, *, flock: bool = False
    ) -> Callable[[], Awaitable[None]] | None:  # fmt: skip
        """Give back what somebody has of some bytes: programs of this machine can have it at once.

        What is returned is to be awaited; it returns within RELEASE_SECONDS, and others have it then, or soon. None:
        there is nothing to wait for. Whoever asks next may have the same number, so that nothing of this may come late.
        """
        first, last = (0, LAST) if flock else (start, end)
        return self.leases.weaken(Holder(ino, owner, flock), first, last, None)

    async def test(self, ino: int, owner: int, lock: Lock) -> Lock | None:
        """What would prevent a lock; its pid is 0 where another mount has it. Raises UnreachableError."""
        patience = _Patience()
        while True:
            conflict = self._table.test(ino, owner, lock)
            connection = await self._connection() if conflict is None else None
            if connection is None:
                return conflict
            try:
                with in_time():
                    await connection.test_lease(self.leases.claim(Holder(ino, owner, lock.flock), lock))
                return None
            except HeldError as held:
                return Lock(held.start, held.end, held.exclusive)
            except _PASSES as error:
                if not patience.allows_another(connection):
                    self._go_on_alone(error)
                    return None

    def token(self, ino: int) -> int:
        """The newest fencing token of a flock of a file; 0 if there is none."""
        return self._held.token(ino)

    def status(self) -> dict[str, object]:
        """For `atefs status`."""
        shared = self._link.connection is not None
        return {"held": self._table.held, "waiting": self._waiting, "lost": self._held.lost, "shared": shared}

    # -- tasks

    async def regain(self, connection: ServerConnection) -> None:
        """A new connection: see `MountLeases.regain`."""
        await self.leases.regain(connection)
        for news, waiter in self._here.items():
            self._table.cancel(waiter)  # from now on the server decides
            news.set()

    async def run(self) -> None:
        """Renew, and give back what is still to be given back, for ever."""
        await self.leases.run()

    # -- taking

    async def _connection(self) -> ServerConnection | None:
        """The connection; None when there is none for now, and locks are this machine's. Raises UnreachableError."""
        with trio.move_on_after(LOCK_SECONDS):
            try:
                while self.leases.connection is None:
                    await self._link.hope()
            except UnreachableError as error:
                self._go_on_alone(error)
                return None
        connection = self.leases.connection
        if connection is None:
            self._go_on_alone(UnreachableError("there is no connection to it"))
        else:
            self._said = False
        return connection

    def _go_on_alone(self, why: AteError) -> None:
        """There is no server to ask. Raises UnreachableError where nothing may be locked then."""
        if not self._alone:
            raise UnreachableError(f"the server, which knows who has locked what, cannot be asked: {why}") from None
        if not self._said:
            log.warning("without the server, locks count on this machine only: %s", why)
        self._said = True

    async def _try(self, holder: Holder, lock: Lock, *, patient: bool) -> None:
        """Have it, unless somebody else does.

        Raises HeldError, UnreachableError. Has a bound, but for what somebody patient has given back before.
        """
        patience = _Patience()
        while True:
            connection = await self._connection()
            if connection is None:
                self._lock_here(holder, lock)
                return
            try:
                await self._try_there(connection, holder, lock, patient=patient)
                return
            except HeldError:
                if not await self.leases.earlier_ended():
                    raise
            except _PASSES as error:
                if not patience.allows_another(connection):
                    self._go_on_alone(error)
                    self._lock_here(holder, lock)
                    return

    async def _try_there(
        self, connection: ServerConnection, holder: Holder, lock: Lock, *, patient: bool
    ) -> None:  # fmt: skip
        if await self.leases.take_again(connection, holder, lock):
            return
        await self.leases.until_settled(holder, lock, patient=patient)
        with in_time():
            async with self._held.turn(holder):
                self._require_here(holder, lock)
                lease = await self.leases.take(connection, holder, lock)
                assert lease is not None
                undo = self._held.have(holder, lock, lease)
        await self._see(lease, undo)

    async def _see(self, lease: GivenLease, undo: Callable[[], None]) -> None:
        """See what was done under it before. Raises UnreachableError; then it is not had."""
        try:
            with in_time(FOLLOW_SECONDS):
                await self._follow(lease.sequence)
        except BaseException:
            undo()
            raise

    def _lock_here(self, holder: Holder, lock: Lock) -> None:
        """Without the server."""
        before = self._held.held(holder)
        self._require_here(holder, lock)
        self._table.try_lock(holder.ino, holder.owner, lock)
        self._held.have_here(holder, lock, before)

    # -- waiting

    async def _wait(self, holder: Holder, lock: Lock) -> bool:
        """Somebody has it: wait until it is given. False: it is to be tried again."""
        self._waiting += 1
        try:
            connection = await self._connection()
            if connection is not None:
                try:
                    return await self._wait_there(connection, holder, lock)
                except _PASSES as error:
                    if connection.lost:
                        return False
                    self._go_on_alone(error)
            return await self._wait_here(holder, lock)
        finally:
            self._waiting -= 1

    async def _wait_there(self, connection: ServerConnection, holder: Holder, lock: Lock) -> bool:
        await self.leases.until_settled(holder, lock, patient=True)
        try:
            lease = await self.leases.take(connection, holder, lock, wait=True)
        except FencedError:
            return False
        if lease is None:
            return False
        try:
            undo = self._held.have(holder, lock, lease)
        except HeldError:
            await trio.sleep(AGAIN_SECONDS)
            return False
        await self._see(lease, undo)
        return True

    async def _wait_here(self, holder: Holder, lock: Lock) -> bool:
        """Without the server. False: it is there again."""
        before = self._held.held(holder)
        given: list[bool] = []
        news = trio.Event()

        def wake() -> None:
            self._held.have_here(holder, lock, before)
            given.append(True)
            news.set()

        waiter = self._table.wait(holder.ino, holder.owner, lock, wake)
        if waiter is None:
            self._held.have_here(holder, lock, before)
            return True
        self._here[news] = waiter
        try:
            await news.wait()
        finally:
            del self._here[news]
            self._table.cancel(waiter)  # changes nothing if it was given
        return bool(given)

    # -- what is here

    def _require_here(self, holder: Holder, lock: Lock) -> None:
        """Raise HeldError for what another program of this machine has."""
        conflict = self._table.test(holder.ino, holder.owner, lock)
        if conflict is not None:
            raise HeldError(conflict.start, conflict.end, conflict.exclusive)

    async def _done(self, paying: Callable[[], Awaitable[None]] | None) -> None:
        if paying is not None:
            await paying()

    def _covers(self, holder: Holder, lock: Lock) -> bool:
        """Whether a holder has all bytes of a lock already, and some of them alone."""
        at, alone = lock.start, False
        for one in self._held.held(holder):
            if one.start <= at <= one.end:
                at, alone = one.end + 1, alone or one.exclusive
        return at > lock.end and alone


class _Patience:
    """With connections that are lost: others are tried for LOCK_SECONDS after the first one."""

    def __init__(self) -> None:
        self._ends = math.inf

    def allows_another(self, connection: ServerConnection) -> bool:
        """Whether it is to be tried again, over another one."""
        self._ends = min(self._ends, trio.current_time() + LOCK_SECONDS)
        return connection.lost and trio.current_time() < self._ends
