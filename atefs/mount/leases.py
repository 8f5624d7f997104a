"""The leases of a mount: what the server knows, kept in step with what its programs have locked (`holdings.py`).

What was done under a lock comes before the next one who has it: a lease is given back when all is on the server. So
what was given back while there was no server is had again first, and then given back in that order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import trio

from atedb.crypto.aead import random_bytes
from atedb.errors import AteError, FencedError, UnreachableError
from atedb.net.client import GivenLease, ServerConnection
from atedb.net.errors import ConnectionLostError, HeldError, ProtocolError
from atedb.net.host import Claim
from atedb.net.link import Link
from atedb.net.locks import LAST, Lock, Ranges
from atefs.mount.holdings import Holdings
from atefs.mount.standing import Debt, Holder, Standing
from atefs.vault.codec import Keys, lock_name, u64

log = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
"""How long the server keeps locks for a mount that it does not hear of."""
RENEW_SECONDS = LEASE_SECONDS / 3
LOCK_SECONDS = 10.0
"""How long a server may take to answer, before it counts as out of reach; to wait for a lock may take for ever."""
RELEASE_SECONDS = 5.0
"""How long giving back a lock takes at most; if it is not on the server by then, it is given back later."""
DEVICE_BYTES, LIFE_BYTES = 16, 8
"""How the server tells owners apart: the replica, which of its mounts, and then the kernel's number."""
AT_ONCE = 16
"""Requests about many locks that are under way at a time: half of those that a connection has places for."""

_SETTLED = Lock(0, LAST, exclusive=False)
"""All that nothing was done under."""

_Item = TypeVar("_Item")


class MountLeases:
    """holdings: what programs of this mount have. settle: returns when all that was done here is on the server; raises
    when that does not come closer. device: the replica's public key, so that this is known as its mount, one after the
    other; empty if it has none.

    `_behind` are those holders who may not be known over this connection yet. `_failure`: why the last attempt to tell
    the server something came to nothing. `_earlier`: whether an earlier mount of this replica may still have something.
    """

    def __init__(self, keys: Keys, link: Link, settle: Callable[[], Awaitable[None]], device: bytes) -> None:
        self.holdings = Holdings()
        self._keys = keys
        self._link = link
        self._settle = settle
        self._device = device[:DEVICE_BYTES]
        self._mount = (self._device or random_bytes(DEVICE_BYTES)) + random_bytes(LIFE_BYTES)
        self._earlier = bool(device)
        self._ending = False
        self._behind: set[Holder] = set()
        self._confirming: set[Holder] = set()
        self._places = trio.Semaphore(AT_ONCE)
        self._settling = False
        self._failure: AteError | None = None

    @property
    def connection(self) -> ServerConnection | None:
        """The one that there is."""
        connection = self._link.connection
        return connection if connection is not None and not connection.lost else None

    def claim(self, holder: Holder, lock: Lock, token: int = 0) -> Claim:
        """What the server is asked for."""
        name, owner = self._name(holder), self._owner(holder)
        return Claim(name, owner, lock.start, lock.end, lock.exclusive, LEASE_SECONDS, token)

    # -- one lock

    async def take(
        self, connection: ServerConnection, holder: Holder, lock: Lock, *, token: int = 0, wait: bool = False
    ) -> GivenLease | None:  # fmt: skip
        """Ask for a lock, without a bound. What may have been given unheard is doubtful afterwards. Raises HeldError.

        None: what was given may have been given back since, or replaced, by somebody who did not know of it.
        """
        standing = self.holdings.standing(holder)
        unsteady, releases = standing.releasing, standing.releases
        standing.asking += 1
        try:
            lease = await connection.take_lease(
                self.claim(holder, lock, token), wait=wait, late=partial(self.holdings.doubt, holder, lock)
            )
        except BaseException as error:
            standing.asking -= 1
            answered = isinstance(error, AteError) and not isinstance(error, ConnectionLostError | ProtocolError)
            if not answered:
                self.holdings.doubt(holder, lock)
            self.holdings.look(holder)
            raise
        standing.asking -= 1
        stale = lease.token < standing.token
        standing.token = max(lease.token, standing.token)
        if wait and (unsteady or stale or standing.releases != releases):
            self.holdings.doubt(holder, lock)
            return None
        return lease

    async def take_again(self, connection: ServerConnection, holder: Holder, lock: Lock) -> bool:
        """Whether it is what somebody has already. The server is asked by token, so that also one that was restarted
        says so; if it has given it to others, it is lost. Raises UnreachableError."""
        standing = self.holdings.standings.get(holder)
        held = standing.known(self.holdings.held_of(holder, lock)) if standing else []
        if standing is None or [one[:3] for one in held] != [lock[:3]]:
            return False
        try:
            with in_time():
                lease = await self.take(connection, holder, lock, token=standing.token)
        except FencedError:
            self.holdings.lose(holder)
            return False
        assert lease is not None
        self.holdings.heard(holder, lock, lease)
        return True

    def weaken(
        self, holder: Holder, start: int, end: int, instead: Lock | None
    ) -> Callable[[], Awaitable[None]] | None:  # fmt: skip
        """Give back what a holder has, or have it shared from now on. Others here see that at once.

        What is returned is to be awaited, and returns within RELEASE_SECONDS. None: nobody else has to hear of it.
        """
        if self.holdings.weaken(holder, start, end, instead) and self.holdings.standing(holder).owed:
            return partial(self._pay_soon, holder)
        return None

    async def until_settled(self, holder: Holder, lock: Lock, *, patient: bool) -> None:
        """What was given back here is on its way to the server: not to be told that somebody here has it.

        Of the same holder, it would even end what is given now. So who is patient waits for as long as it comes closer,
        and others are told after RELEASE_SECONDS that they have it themselves (HeldError). Raises UnreachableError. And
        what one has alone and is about to share is settled, too.
        """
        with trio.move_on_after(RELEASE_SECONDS):
            while any((one.ino, one.flock) == (holder.ino, holder.flock) for one in self.holdings.uneven):
                await self.holdings.changed.wait()
        while holder in self._behind or (holder in self.holdings.uneven and self.holdings.standings[holder].owing):
            if self._failure is not None:
                raise UnreachableError(f"what was given back before cannot be: {self._failure}")
            if not patient:
                raise HeldError(0, LAST, exclusive=True)
            await self.holdings.changed.wait()
        if not lock.exclusive and any(one.exclusive for one in self.holdings.held_of(holder, lock)):
            with trio.move_on_after(math.inf if patient else RELEASE_SECONDS) as scope:
                await self._settle()
            if scope.cancelled_caught:
                raise HeldError(0, LAST, exclusive=True)

    async def earlier_ended(self) -> bool:
        """Wait a moment until what an earlier mount of this replica may still have has ended. Whether it just has."""
        if not self._earlier:
            return False
        with trio.move_on_after(RELEASE_SECONDS):
            while self._earlier:
                await self.holdings.changed.wait()
        return not self._earlier

    # -- tasks

    async def run(self) -> None:
        """Renew, and give back what is still to be given back, for ever."""
        over = trio.current_time() + LEASE_SECONDS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            while True:
                await self.holdings.work.wait()
                self.holdings.work = trio.Event()
                connection, self._failure = self.connection, None
                if connection is None:
                    self._fail(UnreachableError("there is no connection to the server"))
                    continue
                self._earlier = self._earlier and trio.current_time() < over
                if self._earlier and not self._ending:
                    nursery.start_soon(self._end_earlier)
                for holder in self.holdings.uneven - self._confirming - self._behind:
                    standing = self.holdings.standings[holder]
                    if standing.unsure and not (standing.doubtful or standing.paying):
                        nursery.start_soon(self._confirm, holder)
                try:
                    await self._catch_up(connection)
                except AteError as error:
                    self._fail(error)
                await self._pay({holder: [_SETTLED] for holder in self.holdings.uneven})
                if not self._settling and self._unsettled():
                    nursery.start_soon(self._settle_up)

    async def _renew(self) -> None:
        while True:
            await trio.sleep(RENEW_SECONDS)
            self.holdings.work.set()  # what could not be given back is tried again
            connection = self.connection
            if not self.holdings.standings or connection is None:
                continue
            try:
                try:
                    await connection.renew_leases(LEASE_SECONDS)
                except FencedError:
                    await self.regain(connection)
            except AteError as error:  # whatever the server has against it, it may have nothing the next time
                log.debug("locks are renewed later: %s", error)

    async def _end_earlier(self) -> None:
        """What an earlier mount had that was killed is given back as by itself: when all that was done is there.

        A replica has one mount at a time, and over this connection there is only what this one has. Where the server
        does not do it, that ends by itself, later.
        """
        self._ending = True
        try:
            await self._settle()
            connection = self.connection
            if connection is not None and not self._behind:
                with in_time():
                    await connection.end_leases(self._device)
                self._earlier = False
        except AteError as error:
            log.debug("what an earlier mount had locked is not given back yet: %s", error)
        finally:
            self._ending = False
            self.holdings.wake()

    async def regain(self, connection: ServerConnection) -> None:
        """A new connection: have all locks over this one from now on. Those that others have got are lost.

        However many they are, each answer has a bound of its own. Where the server refuses one, that is tried again
        later. Raises ConnectionLostError, UnreachableError.
        """
        self._behind = set(self.holdings.standings)
        await self._catch_up(connection)
        self.holdings.work.set()

    async def _catch_up(self, connection: ServerConnection) -> None:
        await _for_all(list(self._behind), partial(self._regain, connection))

    # -- giving back

    async def _pay_soon(self, holder: Holder) -> None:
        try:
            with trio.move_on_after(RELEASE_SECONDS), suppress(AteError):
                settled = list(self.holdings.standing(holder).owed)
                if self.connection is not None and any(one.exclusive for one in settled):
                    await self._settle()
                await self._tell(holder, settled)
        finally:
            if holder in self.holdings.uneven:
                self.holdings.work.set()

    def _unsettled(self) -> dict[Holder, list[Lock]]:
        """What is owed that nobody else may have before all is on the server."""
        owed = {
            holder: [one for one in self.holdings.standings[holder].owed if one.exclusive]
            for holder in self.holdings.uneven
        }
        return {holder: locks for holder, locks in owed.items() if locks}

    async def _settle_up(self) -> None:
        """Give all of that back: it is waited for once, for all that is owed by then."""
        self._settling = True
        try:
            while due := self._unsettled():
                await self._settle()
                if not await self._pay(due):
                    break
        except AteError as error:
            self._fail(error)
        finally:
            self._settling = False

    async def _pay(self, due: dict[Holder, list[Lock]]) -> bool:
        """Tell the server what is true of what is owed. False: not of all, which is tried again later."""
        told = True

        async def pay(holder: Holder) -> None:
            nonlocal told
            try:
                await self._tell(holder, due[holder])
            except (FencedError, HeldError):
                self.holdings.lose(holder)
            except AteError as error:
                self._fail(error)
                told = False

        await _for_all(list(due), pay)
        return told

    async def _tell(self, holder: Holder, settled: list[Lock]) -> None:
        """Have the server know what is true of what is doubtful, and of what is owed and settled. Raises AteError."""
        async with self.holdings.turn(holder):
            connection = self.connection
            if connection is None or holder in self._behind:
                raise UnreachableError("the server cannot be told that a lock was given back")
            standing = self.holdings.standing(holder)
            standing.begin_to_pay(settled, self.holdings.held(holder))
            debts = list(standing.paying)
            try:
                await _for_all(debts, partial(self._match, connection, holder, standing))
            finally:
                standing.end_paying()
                self.holdings.look(holder)
        if debts and standing.unsure:
            self.holdings.work.set()  # it can be confirmed now

    async def _match(self, connection: ServerConnection, holder: Holder, standing: Standing, debt: Debt) -> None:
        """Have the server know what a holder has of some bytes."""
        span = debt.span
        held = self.holdings.held_of(holder, span)
        kept = Ranges([*standing.known(held), *(() if debt.doubtful else standing.unheard(held))])
        for one in kept:
            self.holdings.heard(holder, one, await self._try(connection, holder, one, standing.token))
        for one in kept.missing(span):
            await self._release(connection, holder, one)
        standing.paying.remove(debt)

    # -- what the server does not know of

    async def _regain(self, connection: ServerConnection, holder: Holder) -> None:
        async with self.holdings.turn(holder):
            standing = self.holdings.standings.get(holder)
            if standing is not None and holder in self._behind:
                try:
                    await self._claim_again(connection, holder, standing)
                    await _for_all(
                        standing.unheard(self.holdings.held(holder)), partial(self._offer, connection, holder)
                    )
                except (ConnectionLostError, UnreachableError):
                    raise
                except (FencedError, HeldError):
                    self.holdings.lose(holder)
                except AteError as error:
                    self._fail(error)
                    return
            self._behind.discard(holder)
            self.holdings.look(holder)

    async def _claim_again(self, connection: ServerConnection, holder: Holder, standing: Standing) -> None:
        """Have what the server knows of over this connection, and nothing else. Raises what says that it is lost."""

        async def again(lock: Lock) -> None:
            self.holdings.heard(holder, lock, await self._try(connection, holder, lock, standing.token))

        async def again_owed(lock: Lock) -> None:
            try:
                await self._try(connection, holder, lock, standing.token)
                standing.doubt(lock)  # what of it is not owed any more
            except HeldError:  # that it was given back was heard, so that all was on the server before
                standing.owed.cut(lock.start, lock.end)
                standing.doubt(lock)
                for one in standing.known(self.holdings.held_of(holder, lock)):
                    await again(one)

        kept = [piece for one in standing.known(self.holdings.held(holder)) for piece in standing.owed.missing(one)]
        claims = [*(partial(again_owed, one) for one in standing.owed), *(partial(again, one) for one in kept)]
        for claim in claims[:1]:  # from then on there is a token that a server goes by which was restarted
            await claim()
        await _for_all(claims[1:], lambda claim: claim())
        known = Ranges(standing.known(self.holdings.held(holder)))
        doubtful = [piece for one in standing.doubtful for piece in known.missing(one)]
        if doubtful and not claims:
            with suppress(HeldError):  # to ask without a token ends what was given over another connection
                await self._try(connection, holder, Lock(doubtful[0].start, doubtful[0].start, exclusive=False))
        for one in doubtful:
            await self._release(connection, holder, one)
            standing.doubtful.cut(one.start, one.end)

    async def _offer(self, connection: ServerConnection, holder: Holder, lock: Lock) -> None:
        """What was locked without the server: have it there, unless somebody has it, or the server was restarted and
        gives nobody anything just now."""
        with suppress(HeldError):
            self.holdings.heard(holder, lock, await self._try(connection, holder, lock))

    async def _confirm(self, holder: Holder) -> None:
        """What was locked without the server: wait for it for as long as a restarted server gives nobody anything."""
        standing = self.holdings.standing(holder)
        self._confirming.add(holder)
        try:
            with trio.move_on_after(LEASE_SECONDS + 1) as patience:
                for one in standing.unheard(self.holdings.held(holder)):
                    connection = self.connection
                    if connection is None:
                        return  # it begins again with the next connection
                    lease = await self.take(connection, holder, one, wait=True)
                    if lease is not None:
                        self.holdings.heard(holder, one, lease)
            if patience.cancelled_caught:
                self.holdings.lose(holder)
            elif standing.unsure:
                self.holdings.work.set()
        except AteError as error:
            log.debug("a lock is not known to the server yet: %s", error)
        finally:
            self._confirming.discard(holder)

    def _fail(self, error: AteError) -> None:
        log.debug("what the server is to know of locks it is told later: %s", error)
        self._failure = error
        self.holdings.wake()

    # -- requests

    async def _try(self, connection: ServerConnection, holder: Holder, lock: Lock, token: int = 0) -> GivenLease:
        """As `take`, in its turn among many. Raises UnreachableError."""
        async with self._places:
            with in_time():
                lease = await self.take(connection, holder, lock, token=token)
        assert lease is not None
        return lease

    async def _release(self, connection: ServerConnection, holder: Holder, lock: Lock) -> None:
        standing = self.holdings.standing(holder)
        standing.releases += 1
        standing.releasing += 1
        try:
            async with self._places:
                with in_time():
                    await connection.release_lease(self._name(holder), self._owner(holder), lock.start, lock.end)
        finally:
            standing.releasing -= 1

    # -- names

    def _name(self, holder: Holder) -> str:
        return lock_name(self._keys, holder.ino, flock=holder.flock).hex()

    def _owner(self, holder: Holder) -> bytes:
        return self._mount + u64(holder.owner)


async def _for_all(items: Sequence[_Item], work: Callable[[_Item], Awaitable[None]]) -> None:
    """Do the work for each, some at a time. Raises the first AteError; what is under way then is not given up."""
    failures: list[AteError] = []
    left = iter(items)
    async with trio.open_nursery() as nursery:

        async def worker() -> None:
            try:
                for item in left:
                    await work(item)
                    if failures:
                        return
            except AteError as error:
                failures.append(error)

        for _ in range(min(AT_ONCE, len(items))):
            nursery.start_soon(worker)
    if failures:
        raise failures[0]


@contextmanager
def in_time(seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Raises UnreachableError when what is done inside takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise UnreachableError("it does not answer in time")
