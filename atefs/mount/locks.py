"""Locks of programs on a mount of a server's chain: what other mounts hold counts, and theirs see what was done here.

The server decides (`atedb.node.leases`). The table here is what this mount's programs hold, as the server was told, so
that it can be had again after the connection was lost. While there is none, the table decides alone, or nobody gets a
lock, as the recovery mode has it (docs/posix.md).

What was done under a lock comes before the next one who has it: a lock is given back when all is on the server, and it
is given when all that was there then is here, and the kernel knows.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, cast
from weakref import WeakValueDictionary

import trio

from atedb.crypto.aead import random_bytes
from atedb.errors import AteError, FencedError, UnreachableError
from atedb.net.client import GivenLease, ServerConnection
from atedb.net.errors import ConnectionLostError, HeldError, RateError, UnavailableError
from atedb.net.host import Claim
from atedb.net.link import Link
from atedb.net.locks import LAST, Lock, Locks, Waiter
from atefs.vault.codec import Keys, lock_name, u64

log = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
"""How long the server keeps locks for a mount that it does not hear of."""
RENEW_SECONDS = LEASE_SECONDS / 3
LOCK_SECONDS = 10.0
"""How long a server may take to answer, before it counts as out of reach; to wait for a lock may take for ever."""
RELEASE_SECONDS = 5.0
"""How long giving back a lock takes at most; if it is not on the server by then, it is given back later."""
FOLLOW_SECONDS = 30.0
"""How long it may take until all is here that others did before they gave a lock back."""


class Holder(NamedTuple):
    """A process or an open file (the kernel's number for it), and what it may have locked."""

    ino: int
    owner: int
    flock: bool


class SharedLocks:
    """The locks of one mount. lost: how many the server gave to others, because it did not hear of this mount.

    `_unsure` are those who have locked something that the server has not heard of. settle: returns when all that was
    done here is on the server. follow: returns when all that the server had up to a sequence is here, and the kernel
    knows. alone: whether there are locks while the server cannot be reached.
    """

    def __init__(
        self, keys: Keys, link: Link, settle: Callable[[], Awaitable[None]], follow: Callable[[int], Awaitable[None]],
        *, alone: bool,
    ) -> None:  # fmt: skip
        self.lost = 0
        self._keys = keys
        self._link = link
        self._settle = settle
        self._follow = follow
        self._alone = alone
        self._said = False
        self._mount = random_bytes(16)
        self._table = Locks()
        self._tokens: dict[Holder, int] = {}
        self._owed: dict[Holder, list[Lock]] = {}
        self._unsure: set[Holder] = set()
        self._confirming: set[Holder] = set()
        self._turns: WeakValueDictionary[tuple[int, bool], trio.Lock] = WeakValueDictionary()
        self._work = trio.Event()
        self._settled = trio.Event()
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
        if lock.flock and any(one.exclusive != lock.exclusive for one in self._held(holder)):
            await self._done(self.unlock(ino, owner, flock=True))  # man 2 flock: to convert is to give up first
        elif not lock.exclusive and self._covers(holder, lock):
            await self._done(self._weaken(holder, lock.start, lock.end, lock))
            return
        while True:
            connection = await self._connection()
            if connection is not None:
                try:
                    await self._lock_there(connection, holder, lock, wait=wait)
                    return
                except ConnectionLostError:
                    continue
                except (UnreachableError, UnavailableError, RateError) as error:
                    if connection.lost:
                        continue
                    self._go_on_alone(error)
            if await self._lock_here(holder, lock, wait=wait):
                self._unsure.add(holder)
                self._work.set()
                return

    def unlock(
        self, ino: int, owner: int, start: int = 0, end: int = LAST, *, flock: bool = False
    ) -> Callable[[], Awaitable[None]] | None:  # fmt: skip
        """Give back what somebody has of some bytes: programs of this machine can have it at once.

        What is returned is to be awaited; it returns within RELEASE_SECONDS, and others have it then, or soon. None:
        there is nothing to wait for. Whoever asks next may have the same number, so that nothing of this may come late.
        """
        first, last = (0, LAST) if flock else (start, end)
        return self._weaken(Holder(ino, owner, flock), first, last, None)

    async def test(self, ino: int, owner: int, lock: Lock) -> Lock | None:
        """What would prevent a lock; its pid is 0 where another mount has it. Raises UnreachableError."""
        while True:
            conflict = self._table.test(ino, owner, lock)
            connection = await self._connection() if conflict is None else None
            if connection is None:
                return conflict
            try:
                with _in_time():
                    await connection.test_lease(self._claim(Holder(ino, owner, lock.flock), lock))
                return None
            except HeldError as held:
                return Lock(held.start, held.end, held.exclusive)
            except ConnectionLostError:
                continue
            except (UnreachableError, UnavailableError, RateError) as error:
                self._go_on_alone(error)
                return None

    def token(self, ino: int) -> int:
        """The newest fencing token of a flock of a file; 0 if there is none."""
        return max((token for holder, token in self._tokens.items() if holder.ino == ino and holder.flock), default=0)

    def status(self) -> dict[str, object]:
        """For `atefs status`."""
        shared = self._link.connection is not None
        return {"held": self._table.held, "waiting": self._waiting, "lost": self.lost, "shared": shared}

    # -- tasks

    async def regain(self, connection: ServerConnection) -> None:
        """A new connection: have all locks over this one from now on. Those that others have got are lost."""
        done: set[Holder] = set()
        while left := (self._everybody() - done):
            holder = left.pop()
            done.add(holder)
            async with self._turn(holder):
                await self._regain(connection, holder)
        for news, waiter in self._here.items():
            self._table.cancel(waiter)  # from now on the server decides
            news.set()
        self._work.set()

    async def run(self) -> None:
        """Renew, and give back what is still to be given back, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            while True:
                await self._work.wait()
                self._work = trio.Event()
                if self._there() is not None:
                    for holder in self._unsure - self._confirming:
                        nursery.start_soon(self._confirm, holder)
                    await self._pay()

    async def _renew(self) -> None:
        while True:
            await trio.sleep(RENEW_SECONDS)
            self._work.set()  # what could not be given back is tried again
            connection = self._there()
            if not self._tokens or connection is None:
                continue
            try:
                try:
                    await connection.renew_leases(LEASE_SECONDS)
                except FencedError:
                    await self.regain(connection)
            except AteError as error:  # whatever the server has against it, it may have nothing the next time
                log.debug("locks are renewed later: %s", error)

    # -- taking

    async def _connection(self) -> ServerConnection | None:
        """The connection; None when there is none for now, and locks are this machine's. Raises UnreachableError."""
        with trio.move_on_after(LOCK_SECONDS):
            try:
                while self._there() is None:
                    await self._link.hope()
            except UnreachableError as error:
                self._go_on_alone(error)
                return None
        connection = self._there()
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

    def _there(self) -> ServerConnection | None:
        connection = self._link.connection
        return connection if connection is not None and not connection.lost else None

    async def _lock_there(
        self, connection: ServerConnection, holder: Holder, lock: Lock, *, wait: bool
    ) -> None:  # fmt: skip
        await self._until_settled(holder)
        before = self._held(holder)
        claim = self._claim(holder, lock)

        late = partial(self._owe, holder, [lock])
        if wait:
            self._waiting += 1
            try:
                lease = await connection.take_lease(claim, wait=True, late=late)
            finally:
                self._waiting -= 1
            conflict = self._taken(holder, lock, lease)
        else:
            async with self._turn(holder):
                self._require_here(holder, lock)
                with _in_time():
                    lease = await connection.take_lease(claim, late=late)
                conflict = self._taken(holder, lock, lease)
        try:
            if conflict is not None:
                raise HeldError(conflict.start, conflict.end, conflict.exclusive)
            with _in_time(FOLLOW_SECONDS):
                await self._follow(lease.sequence)
        except BaseException:  # it was given, and could not be used: all is to be as before
            if conflict is None:
                self._table.unlock(holder.ino, holder.owner, lock.start, lock.end, flock=lock.flock)
                for one in before:
                    self._table.try_lock(holder.ino, holder.owner, one)
            self._owe(holder, [lock])
            raise

    def _taken(self, holder: Holder, lock: Lock, lease: GivenLease) -> Lock | None:
        """The server has given it; what somebody here has all the same, since they were without the server."""
        self._tokens[holder] = max(lease.token, self._tokens.get(holder, 0))
        return self._table.try_lock(holder.ino, holder.owner, lock)

    async def _lock_here(self, holder: Holder, lock: Lock, *, wait: bool) -> bool:
        """Without the server. False: it is there again."""
        if not wait:
            self._require_here(holder, lock)
            self._table.try_lock(holder.ino, holder.owner, lock)
            return True
        given: list[bool] = []
        news = trio.Event()

        def wake() -> None:
            given.append(True)
            news.set()

        waiter = self._table.wait(holder.ino, holder.owner, lock, wake)
        if waiter is None:
            return True
        self._waiting += 1
        self._here[news] = waiter
        try:
            await news.wait()
        finally:
            del self._here[news]
            self._waiting -= 1
            self._table.cancel(waiter)  # changes nothing if it was given
        return bool(given)

    def _require_here(self, holder: Holder, lock: Lock) -> None:
        """Raise HeldError for what another program of this machine has."""
        conflict = self._table.test(holder.ino, holder.owner, lock)
        if conflict is not None:
            raise HeldError(conflict.start, conflict.end, conflict.exclusive)

    # -- giving back

    def _weaken(
        self, holder: Holder, start: int, end: int, instead: Lock | None
    ) -> Callable[[], Awaitable[None]] | None:  # fmt: skip
        """Give back what a holder has, or have it shared from now on. Others here see that at once."""
        gone = [one for one in self._held(holder) if one.start <= end and one.end >= start]
        if not gone:
            return None
        if instead is None:
            self._table.unlock(holder.ino, holder.owner, start, end, flock=holder.flock)
        else:
            self._table.try_lock(holder.ino, holder.owner, instead)
        if holder not in self._tokens:
            return None
        cut = [one._replace(start=max(one.start, start), end=min(one.end, end)) for one in gone]
        self._owe(holder, cut, hurry=False)
        return partial(self._pay_soon, holder)

    async def _done(self, paying: Callable[[], Awaitable[None]] | None) -> None:
        if paying is not None:
            await paying()

    async def _pay_soon(self, holder: Holder) -> None:
        with trio.move_on_after(RELEASE_SECONDS), suppress(AteError):
            await self._pay_one(holder)

    def _owe(self, holder: Holder, locks: list[Lock], *, hurry: bool = True) -> None:
        """The server is to hear that these are no longer held as they were."""
        self._owed.setdefault(holder, []).extend(locks)
        if hurry:
            self._work.set()

    async def _pay(self) -> None:
        for holder in list(self._owed):
            try:
                with trio.move_on_after(FOLLOW_SECONDS):
                    await self._pay_one(holder)
            except (FencedError, HeldError):
                self._lose(holder)
            except AteError as error:
                log.debug("a lock is given back later: %s", error)

    async def _pay_one(self, holder: Holder) -> None:
        """Once all is on the server, have it know of a holder what is true now. Raises AteError."""
        owed = list(self._owed.get(holder, ()))
        if self._there() is not None and any(one.exclusive for one in owed):
            await self._settle()
        async with self._turn(holder):
            connection = self._there()
            if connection is None:
                raise UnreachableError("the server cannot be told that a lock was given back")
            for one in owed:
                if one in self._owed.get(holder, ()):
                    await self._match(connection, holder, one)
                    self._paid_off(holder, one)

    def _paid_off(self, holder: Holder, lock: Lock) -> None:
        left = self._owed.get(holder, [])
        if lock in left:
            left.remove(lock)
        if not left:
            self._owed.pop(holder, None)
            if not self._held(holder):
                self._tokens.pop(holder, None)
        self._changed()

    def _changed(self) -> None:
        """Wake those who wait for what others here have given back."""
        self._settled.set()
        self._settled = trio.Event()

    async def _match(self, connection: ServerConnection, holder: Holder, span: Lock) -> None:
        """Have the server know what a holder has of some bytes."""
        at = span.start
        for one in [*self._held(holder), Lock(LAST + 1, LAST + 1)]:
            if one.end < at:
                continue
            if at < min(one.start, span.end + 1):
                end = min(one.start - 1, span.end)
                await connection.release_lease(self._name(holder), self._owner(holder), at, end)
            if one.start > span.end:
                return
            piece = one._replace(start=max(one.start, at), end=min(one.end, span.end))
            lease = await connection.take_lease(self._claim(holder, piece, self._tokens.get(holder, 0)))
            self._tokens[holder] = max(lease.token, self._tokens.get(holder, 0))
            at = piece.end + 1

    async def _until_settled(self, holder: Holder) -> None:
        """What was given back here is on its way to the server: not to be told that somebody here has it.

        Of the same holder, it would even end what is given now. Raises UnreachableError.
        """
        with trio.move_on_after(RELEASE_SECONDS):
            while any((one.ino, one.flock) == (holder.ino, holder.flock) for one in (*self._owed, *self._unsure)):
                await self._settled.wait()
        with _in_time():
            while holder in self._owed:
                await self._settled.wait()

    # -- a new connection

    async def _regain(self, connection: ServerConnection, holder: Holder) -> None:
        self._unsure.discard(holder)
        token = self._tokens.get(holder, 0)
        owed, held = self._owed.get(holder, []), self._held(holder)
        try:
            with _in_time():
                known = [*owed, *(one for one in held if not _within(one, owed))]
                for one in known:
                    lease = await connection.take_lease(self._claim(holder, one, token))
                    self._tokens[holder] = max(lease.token, self._tokens.get(holder, 0))
                for start, end in _gaps(known):  # which may have been given as the connection was lost
                    await connection.release_lease(self._name(holder), self._owner(holder), start, end)
        except FencedError:
            self._lose(holder)
        except HeldError:
            if token:
                self._lose(holder)
            else:
                self._unsure.add(holder)  # somebody has it; or the server was restarted, and gives none just now

    async def _confirm(self, holder: Holder) -> None:
        """What was locked without the server: wait for it for as long as a restarted server gives nobody anything."""
        self._confirming.add(holder)
        try:
            with trio.move_on_after(LEASE_SECONDS + 1) as patience:
                for one in self._held(holder):
                    connection = self._there()
                    if connection is None:
                        return  # it begins again with the next connection
                    late = partial(self._owe, holder, [one])
                    lease = await connection.take_lease(self._claim(holder, one), wait=True, late=late)
                    self._tokens[holder] = max(lease.token, self._tokens.get(holder, 0))
                    if one not in self._held(holder):
                        late()
            if patience.cancelled_caught:
                self._lose(holder)
        except AteError as error:
            log.debug("a lock is not known to the server yet: %s", error)
        else:
            self._unsure.discard(holder)
            self._changed()
        finally:
            self._confirming.discard(holder)

    def _lose(self, holder: Holder) -> None:
        if self._held(holder):
            self.lost += 1
            log.warning(
                "a lock of inode %d is lost: this machine was apart from the server, and another one has got it",
                holder.ino,
            )
        self._table.unlock(holder.ino, holder.owner, flock=holder.flock)
        self._tokens.pop(holder, None)
        self._unsure.discard(holder)
        self._owed[holder] = [Lock()]  # others may have got a part of it only
        self._work.set()
        self._changed()

    # -- names

    def _everybody(self) -> set[Holder]:
        holders = cast("list[Holder]", self._table.holders())
        return {Holder(*one) for one in holders} | set(self._owed)

    def _held(self, holder: Holder) -> list[Lock]:
        return self._table.held_by(holder.ino, holder.owner, flock=holder.flock)

    def _covers(self, holder: Holder, lock: Lock) -> bool:
        """Whether a holder has all bytes of a lock already, and some of them alone."""
        at, alone = lock.start, False
        for one in self._held(holder):
            if one.start <= at <= one.end:
                at, alone = one.end + 1, alone or one.exclusive
        return at > lock.end and alone

    def _name(self, holder: Holder) -> str:
        return lock_name(self._keys, holder.ino, flock=holder.flock).hex()

    def _owner(self, holder: Holder) -> bytes:
        return self._mount + u64(holder.owner)

    def _claim(self, holder: Holder, lock: Lock, token: int = 0) -> Claim:
        name, owner = self._name(holder), self._owner(holder)
        return Claim(name, owner, lock.start, lock.end, lock.exclusive, LEASE_SECONDS, token)

    def _turn(self, holder: Holder) -> trio.Lock:
        """For those who change what one holder or another has of a file."""
        key = (holder.ino, holder.flock)
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = trio.Lock()
        return turn


def _gaps(locks: list[Lock]) -> list[tuple[int, int]]:
    """The bytes between locks, before and after them."""
    gaps, at = [], 0
    for one in sorted(locks):
        if one.start > at:
            gaps.append((at, one.start - 1))
        at = max(at, one.end + 1)
    return [*gaps, (at, LAST)] if at <= LAST else gaps


def _within(lock: Lock, others: list[Lock]) -> bool:
    """Whether others say already what is to be known of a lock's bytes."""
    return any(one.start <= lock.start and lock.end <= one.end for one in others)


class _in_time:
    """`with _in_time():` raises UnreachableError when it takes too long."""

    def __init__(self, seconds: float = LOCK_SECONDS) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, *details: object) -> bool | None:
        swallowed = self._scope.__exit__(*details)  # type: ignore[arg-type]
        if self._scope.cancelled_caught:
            raise UnreachableError("it does not answer in time")
        return swallowed
