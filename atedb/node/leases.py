"""Leases of one chain: what clients have alone, or share, for as long as they are heard of. Tokens rise for ever.

A lease belongs to the connection over which it was taken, and all of a connection's leases last equally long: they are
renewed together. Whoever vanished keeps them until their time is up and somebody else wants one, or comes back before,
over another connection, with the token of each.

None is written down. What is, before the first one is given, is that there may be some: after a restart nobody is given
any for as long as one lasts, except for those who had one before. Tokens are numbered from the engine's own token on,
which rises whenever the chain is opened.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar, cast

import msgspec
import trio

from atedb.engine.interface import BatchLog
from atedb.errors import AteError, DamagedError, FencedError
from atedb.net.errors import HeldError, NoLocksError
from atedb.net.host import Claim
from atedb.net.locks import DEFAULT_BOUNDS, LAST, Lock, LockBounds, Locks, Waiter

log = logging.getLogger(__name__)

DOCUMENT = "leases"
COURTESY = 600.0
"""Seconds after which a lease of somebody who vanished ends even if nobody wants it."""
LULL = 10.0
"""Seconds without any lease after which it is written down that there are none."""
_SHIFT = 32

T = TypeVar("T")


class Lease(NamedTuple):
    """See `atedb.net.host.Lease`."""

    token: int
    seconds: float


class _Stored(msgspec.Struct, array_like=True):
    """The document: under which of the engine's tokens leases may have been given, and for how long; 0: none."""

    fence: int
    seconds: float


class _Session:
    """A connection. ends: when its leases do. fenced: some did, which it does not know yet."""

    def __init__(self) -> None:
        self.ends = 0.0
        self.fenced = False
        self.gone = False

    def extend(self, seconds: float) -> None:
        self.ends = max(self.ends, trio.current_time() + seconds)

    @property
    def overdue(self) -> bool:
        return self.ends <= trio.current_time()


class _Record:
    """What one owner has of one name. since: the token that it was first given with; token: the newest."""

    def __init__(self, session: _Session, token: int, *, reclaimed: bool) -> None:
        self.session = session
        self.since = self.token = token
        self.reclaimed = reclaimed


class _Queued:
    """Somebody who waits. done: it is given; or, without a lease, its owner waits no longer over this connection.

    waiter: none before the time is up for which a restarted server gives nothing.
    """

    def __init__(self, session: _Session) -> None:
        self.session = session
        self.done = trio.Event()
        self.lease: Lease | None = None
        self.waiter: Waiter | None = None


class Leases:
    """The leases of one chain. fence: the engine's token for the chain."""

    def __init__(self, log: BatchLog, fence: int, bounds: LockBounds = DEFAULT_BOUNDS) -> None:
        self._log = log
        self._fence = fence
        self._locks = Locks(bounds)
        self._sessions: dict[object, _Session] = {}
        self._records: dict[tuple[str, bytes], _Record] = {}
        self._queued: dict[tuple[str, bytes], list[_Queued]] = {}
        self._count = 0
        self._generation = 0
        self._noted = 0.0
        self._turn = trio.Lock()
        self._before = 0
        self._grace = -math.inf
        self._used = trio.current_time()

    async def load(self) -> None:
        """Learn whether leases were given before a restart. Raises DamagedError."""
        data, self._generation = await self._log.document(DOCUMENT)
        if not data:
            return
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
        except msgspec.DecodeError as error:
            raise DamagedError(f"what is known of the leases of a chain cannot be read: {error}") from None
        if stored.seconds:
            self._before = stored.fence
            self._grace = trio.current_time() + stored.seconds

    # -- what clients ask

    async def take(self, client: object, claim: Claim, told: Callable[[HeldError], None] | None = None) -> Lease:
        """Give somebody what they claim, instead of whatever they have there.

        told: called once if it has to be waited for; without it, HeldError is raised then. Raises FencedError when
        what was had under the claim's token has ended, InvalidError, NoLocksError, DeadlockError, StorageError.
        Cancelled while it waits, nothing has changed.
        """
        await self._note(claim.seconds)
        session = self._session(client, claim.seconds)
        self._withdraw_others(claim, session)
        again = self._comes_again(claim, session)
        if not again and self._grace > trio.current_time():
            if told is None:
                raise _anybody()
            told(_anybody())
            told = _nobody
            await self._outlast_grace(claim, session)
        lock = Lock(claim.start, claim.end, claim.exclusive)
        self._make_way(claim, lock)
        if told is None:
            conflict = self._with_room(lambda: self._locks.try_lock(claim.name, claim.owner, lock))
            if conflict is not None:
                raise HeldError(conflict.start, conflict.end, conflict.exclusive)
            return self._given(claim, session, again=again)
        return await self._wait(claim, lock, session, told)

    async def test(self, claim: Claim) -> None:
        """Raise HeldError if somebody else has what would be claimed."""
        if self._grace > trio.current_time():
            raise _anybody()
        lock = Lock(claim.start, claim.end, claim.exclusive)
        conflict = self._locks.test(claim.name, claim.owner, lock)
        others = self._in_the_way(claim.name, claim.owner, lock)
        if conflict is not None and not all(self._records[key].session.overdue for key in others):
            raise HeldError(conflict.start, conflict.end, conflict.exclusive)

    async def renew(self, client: object, seconds: float) -> None:
        """Keep all of a connection's leases. Raises FencedError, once, when some have ended because of others."""
        await self._note(seconds)
        session = self._session(client, seconds)
        if session.fenced:
            session.fenced = False
            raise FencedError("some of this connection's leases have ended, since others wanted them")

    async def release(self, client: object, name: str, owner: bytes, start: int, end: int) -> None:
        """End what an owner has of bytes `start` to `end`; to have nothing there is no error.

        Raises InvalidError, and NoLocksError when something would fall in two and that is one too many.
        """
        record = self._records.get((name, owner))
        if record is not None and record.session is self._sessions.get(client):
            self._locks.unlock(name, owner, start, end)
            self._tidy_record(name, owner)

    def end(self, client: object, beginning: bytes) -> None:
        """End what owners whose bytes begin so have, and wait for, over other connections than this one."""
        mine = self._sessions.get(client)
        for (_, owner), waiting in self._queued.items():
            for queued in waiting:
                if owner.startswith(beginning) and queued.session is not mine:
                    self._withdraw(queued)
        for (name, owner), record in list(self._records.items()):
            if owner.startswith(beginning) and record.session is not mine:
                self._end(name, owner)

    def leave(self, client: object) -> None:
        """A connection has ended: what it has waits for its owners."""
        session = self._sessions.pop(client, None)
        if session is not None:
            session.gone = True

    # -- upkeep

    async def tidy(self) -> None:
        """To be called now and then. Raises StorageError, NoSpaceError."""
        now = trio.current_time()
        for name, owner in [key for key, one in self._records.items() if one.session.ends + COURTESY <= now]:
            self._end(name, owner)
        if not self._records and now >= max(self._grace, self._used + LULL):
            await self._note_none()

    async def aclose(self) -> None:
        """The chain is about to be closed."""
        if self._records or self._grace > trio.current_time():
            return
        try:
            await self._note_none()
        except AteError as error:
            log.warning("it could not be written down that a chain has no leases: %s", error)

    async def _note(self, seconds: float) -> None:
        """Have it on stable storage that there may be leases that last so long."""
        self._used = trio.current_time()
        if self._noted >= seconds:
            return
        async with self._turn:
            if self._noted < seconds:
                await self._put(_Stored(self._fence, seconds))
                self._noted = seconds

    async def _note_none(self) -> None:
        async with self._turn:
            if self._records or not (self._noted or self._before):
                return
            self._noted = 0.0  # whoever takes one meanwhile notes it again, and waits for that
            await self._put(_Stored(self._fence, 0.0))
            self._before = 0

    async def _put(self, stored: _Stored) -> None:
        with trio.CancelScope(shield=True):  # what is stored is also what is known here
            data = msgspec.msgpack.encode(stored)
            self._generation = await self._log.put_document(DOCUMENT, data, self._generation, self._fence)

    # -- taking

    def _session(self, client: object, seconds: float) -> _Session:
        session = self._sessions.get(client)
        if session is None:
            session = self._sessions[client] = _Session()
        session.extend(seconds)
        return session

    def _comes_again(self, claim: Claim, session: _Session) -> bool:
        """Whether the claim is for what its owner has had all the time, over another connection or before a restart.

        Raises FencedError when it says so and that is not true any more.
        """
        record = self._records.get((claim.name, claim.owner))
        if not claim.token:
            if record is not None and record.session is not session:
                self._end(claim.name, claim.owner)  # given, and nobody heard of it
            return False
        if record is not None and record.since <= claim.token <= record.token:
            record.session = session
            return True
        before = claim.token >> _SHIFT == self._before and self._grace > trio.current_time()
        if before and (record is None or record.reclaimed):
            return True
        raise FencedError(f"what was had with token {claim.token} has ended")

    async def _outlast_grace(self, claim: Claim, session: _Session) -> None:
        with self._queue(claim, _Queued(session)) as queued, trio.move_on_at(self._grace):
            await queued.done.wait()
            raise _withdrawn()
        await self._note(claim.seconds)

    async def _wait(
        self, claim: Claim, lock: Lock, session: _Session, told: Callable[[HeldError], None]
    ) -> Lease:  # fmt: skip
        queued = _Queued(session)

        def wake() -> None:
            queued.lease = self._given(claim, session, again=False)
            queued.done.set()

        conflict = self._locks.test(claim.name, claim.owner, lock)
        queued.waiter = self._with_room(lambda: self._locks.wait(claim.name, claim.owner, lock, wake))
        if queued.waiter is None:
            return self._given(claim, session, again=False)
        assert conflict is not None
        told(HeldError(conflict.start, conflict.end, conflict.exclusive))
        with self._queue(claim, queued):
            while not queued.done.is_set():
                others = self._in_the_way(claim.name, claim.owner, lock)
                with trio.move_on_at(min((self._records[key].session.ends for key in others), default=math.inf)):
                    await queued.done.wait()
                if not queued.done.is_set():
                    self._make_way(claim, lock)
        if queued.lease is None:
            raise _withdrawn()
        return queued.lease

    @contextmanager
    def _queue(self, claim: Claim, queued: _Queued) -> Iterator[_Queued]:
        """Inside, it is known that somebody waits."""
        waiting = self._queued.setdefault((claim.name, claim.owner), [])
        waiting.append(queued)
        try:
            yield queued
        finally:
            if queued.waiter is not None:
                self._locks.cancel(queued.waiter)  # changes nothing if it was given
            waiting.remove(queued)
            if not waiting:
                self._queued.pop((claim.name, claim.owner), None)

    def _withdraw_others(self, claim: Claim, session: _Session) -> None:
        """What an owner waits for over a connection that it has left must not be given to it any more."""
        for queued in self._queued.get((claim.name, claim.owner), ()):
            if queued.session is not session:
                self._withdraw(queued)

    def _withdraw(self, queued: _Queued) -> None:
        if queued.lease is None:
            if queued.waiter is not None:
                self._locks.cancel(queued.waiter)
            queued.done.set()

    def _in_the_way(self, name: str, owner: bytes, lock: Lock) -> list[tuple[str, bytes]]:
        return [(name, cast("bytes", other)) for other in self._locks.in_the_way(name, owner, lock)]

    def _make_way(self, claim: Claim, lock: Lock) -> None:
        """End leases whose time is up, if they prevent one."""
        for key in self._in_the_way(claim.name, claim.owner, lock):
            if self._records[key].session.overdue:
                self._end(*key)

    def _with_room(self, take: Callable[[], T]) -> T:
        """Where there are too many, those end whose time is up."""
        try:
            return take()
        except NoLocksError:
            overdue = [key for key, record in self._records.items() if record.session.overdue]
            for name, owner in overdue:
                self._end(name, owner)
            if not overdue:
                raise
            return take()

    def _given(self, claim: Claim, session: _Session, *, again: bool) -> Lease:
        """The owner has it now. again: it has had it before a restart, or over another connection."""
        self._count += 1
        token = (self._fence << _SHIFT) + self._count
        session.extend(claim.seconds)
        record = self._records.get((claim.name, claim.owner))
        if record is None:
            self._records[claim.name, claim.owner] = _Record(session, token, reclaimed=again)
        else:
            record.session, record.token = session, token
        return Lease(token, claim.seconds)

    def _end(self, name: str, owner: bytes) -> None:
        """Take away what somebody has."""
        self._records.pop((name, owner)).session.fenced = True
        self._locks.unlock(name, owner)

    def _tidy_record(self, name: str, owner: bytes) -> None:
        self._used = trio.current_time()
        if (name, owner) in self._records and not self._locks.held_by(name, owner):
            del self._records[name, owner]


def _anybody() -> HeldError:
    """After a restart: what is in the way is not known yet."""
    return HeldError(0, LAST, exclusive=True)


def _withdrawn() -> FencedError:
    return FencedError("what was waited for is given to nobody any more: its owner is elsewhere, or has ended")


def _nobody(_: HeldError) -> None:
    """It was told before."""
