"""What a node does for one client that has opened a chain: each request a task, appends in their order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import trio

from atedb.chain.format import MAX_BODY
from atedb.chain.position import Position
from atedb.crypto.signing import BadSignatureError, verify_signature
from atedb.errors import AteError, BusyError, InvalidError
from atedb.net.errors import HeldError, NoLocksError, ProtocolError, RefusedError, UnavailableError
from atedb.net.failures import failed
from atedb.net.following import size_of
from atedb.net.host import Access, Chain, Claim, Guest, LaneStats
from atedb.net.messages import (
    MAX_CREDIT,
    Answer,
    Append,
    Appended,
    Asking,
    Batches,
    BodiesAre,
    DocumentIs,
    Done,
    EndLeases,
    Failed,
    Follow,
    GetBodies,
    GetDocument,
    GetStats,
    Grant,
    LaneIs,
    LeaseHeld,
    LeaseIs,
    Own,
    Prove,
    PutDocument,
    ReleaseLease,
    RenewLease,
    Request,
    StatsAre,
    TakeLease,
    Unfollow,
)
from atedb.net.pump import Pump

MAX_UNDER_WAY = 64
"""Requests of one client that are carried out at a time; it is not heard while there are as many."""
MAX_WAITS = 1024
"""Requests of one client that wait for leases."""
BODIES_BYTES = 2 << 20
"""Bytes of sealed bodies in one answer, or one body."""
FOLLOW_BYTES = 256 << 10
ROOM = 256 << 10
"""Bytes on their way out, before a client is given more of what is large."""

_log = logging.getLogger(__name__)


class _Follower:
    """What a client follows. credit: bytes that it may still be sent. last: what it is told at the end."""

    def __init__(self, request: Follow) -> None:
        self.request = request
        self.credit = request.credit
        self.granted = trio.Event()
        self.last: Answer = Done(request.id, 0)
        self.scope = trio.CancelScope()


class Serving:
    """One client's requests about one chain. send: queues an answer. tasks: where requests are carried out. statement:
    what a device signs to prove its key in this conversation.
    """

    def __init__(
        self,
        chain: Chain,
        access: Access,
        guest: Guest,
        *,
        send: Callable[[Answer], None],
        pump: Pump,
        tasks: trio.Nursery,
        statement: bytes,
    ) -> None:
        self._chain = chain
        self._access = access
        self._guest = guest
        self._send = send
        self._pump = pump
        self._tasks = tasks
        self._statement = statement
        self._proven = b""
        self._places = trio.Semaphore(MAX_UNDER_WAY)
        self._under_way: set[int] = set()
        self._entered = trio.Event()
        self._entered.set()
        self._large_answer = trio.Lock()
        self._follower: _Follower | None = None
        self._idle = trio.Event()
        self._waits: dict[int, trio.CancelScope] = {}

    async def take(self, request: Request, size: int, reserved: int) -> None:
        """Begin to carry a request out. Waits while there are too many.

        size: bytes of the request; reserved: bytes of the guest's memory that it holds, given back afterwards. Raises
        ProtocolError.
        """
        if isinstance(request, Grant):
            self._grant(request)
        elif isinstance(request, Unfollow):
            self._unfollow(request)
        elif request.id in self._under_way or request.id in self._waits:
            self._guest.memory.give(reserved)
            raise ProtocolError("a request has the number of one that is under way")
        elif isinstance(request, Follow):
            self._begin_to_follow(request)
        elif isinstance(request, TakeLease) and request.asking is Asking.WAIT:
            self._begin_to_wait(request, size)
        else:
            try:
                await self._places.acquire()
            except BaseException:
                self._guest.memory.give(reserved)
                raise
            self._under_way.add(request.id)
            before, entered = self._entered, trio.Event()
            if isinstance(request, Append):
                self._entered = entered
            self._tasks.start_soon(self._carry_out, request, size, reserved, before, entered)

    async def finish(self) -> None:
        """Nothing more is taken: return when all that was is answered, but for those who wait for leases."""
        if self._follower is not None:
            self._follower.last = failed(self._follower.request.id, UnavailableError("the server is being stopped"))
            self._follower.scope.cancel()
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()

    async def _carry_out(
        self, request: Request, size: int, reserved: int, before: trio.Event, entered: trio.Event
    ) -> None:
        try:
            if isinstance(request, Append):
                answer: Answer = await self._append(request, size, before, entered)
            elif isinstance(request, GetBodies):
                answer = await self._bodies(request, size)
            else:
                await self._guest.spend(size)
                answer = await self._answer(request)
            if not isinstance(answer, BodiesAre):
                self._send(answer)
        except Exception as error:
            self._send(told(request.id, error))
        finally:
            entered.set()
            self._guest.memory.give(reserved)
            self._places.release()
            self._under_way.discard(request.id)
            if not self._under_way:
                self._idle.set()

    async def _append(self, request: Append, size: int, before: trio.Event, entered: trio.Event) -> Answer:
        self._require_writing()
        await before.wait()
        await self._guest.spend(size)
        # The next one goes on when this one first waits; by then it has its place among the chain's appends.
        entered.set()
        position = await self._chain.append(self, request.frames, quota=self._access.quota, proven=self._proven)
        return Appended(request.id, position.sequence, position.hash)

    async def _answer(self, request: Request) -> Answer:
        """Requests whose answers are small."""
        chain, number = self._chain, request.id
        match request:
            case GetDocument(name=name):
                return DocumentIs(number, *await chain.document(name))
            case PutDocument(name=name, data=data, generation=generation):
                self._require_writing()
                return Done(number, await chain.put_document(name, data, generation))
            case Prove():
                self._prove(request)
                return Done(number, 0)
            case TakeLease():
                return await self._take_lease(request)
            case RenewLease(seconds=seconds):
                self._require_writing()
                await chain.renew_leases(self, seconds)
                return Done(number, 0)
            case ReleaseLease():
                self._require_writing()
                await chain.release_lease(self, request.name, request.owner, request.start, request.end)
                return Done(number, 0)
            case EndLeases(owner=owner):
                self._require_writing()
                await chain.end_leases(self, owner)
                return Done(number, 0)
            case GetStats():
                return self._stats(number)
        raise InvalidError("a connection is about one chain, and one is open already")

    def _prove(self, request: Prove) -> None:
        if not self._chain.takes_proof:
            raise InvalidError("this server verifies the signature of each batch")
        try:
            verify_signature(request.device, self._statement, request.signature)
        except BadSignatureError:
            raise InvalidError("the client does not have the device's key that it says") from None
        self._proven = request.device

    def _stats(self, number: int) -> StatsAre:
        found = self._chain.stats()
        return StatsAre(
            number, found.tail.sequence, found.stored, self._guest.used(), self._access.quota, _lane(found.meta),
            _lane(found.blob), found.devices, found.followers,
        )  # fmt: skip

    async def _bodies(self, request: GetBodies, size: int) -> Answer:
        """Sends its answer itself: one at a time is in memory, for as long as it takes the client to take it."""
        await self._guest.spend(size)
        async with self._large_answer:
            await self._pump.room(ROOM)
            held = BODIES_BYTES + MAX_BODY
            await self._guest.memory.take(held)
            try:
                bodies = await self._chain.bodies(request.wanted, limit=BODIES_BYTES)
                length = size_of(bodies)
                await self._guest.spend(length)
                answer = BodiesAre(request.id, bodies)
                self._send(answer)
                self._guest.memory.give(max(0, held - length))
                held = min(held, length)
                await self._pump.room(ROOM)
            finally:
                self._guest.memory.give(held)
        return answer

    # -- leases

    async def _take_lease(self, request: TakeLease) -> Answer:
        """Without waiting for it."""
        self._require_writing()
        try:
            if request.asking is Asking.TEST:
                await self._chain.test_lease(_claim(request))
                return LeaseIs(request.id, 0, request.seconds, self._chain.tail.sequence)
            lease = await self._chain.take_lease(self, _claim(request), None)
        except HeldError as held:
            return LeaseHeld(request.id, held.start, held.end, held.exclusive)
        return LeaseIs(request.id, lease.token, lease.seconds, self._chain.tail.sequence)

    def _begin_to_wait(self, request: TakeLease, size: int) -> None:
        """For a lease: it may take for ever, so it takes none of the places."""
        if len(self._waits) >= MAX_WAITS:
            self._send(failed(request.id, NoLocksError(f"{MAX_WAITS} of this connection's requests wait for leases")))
            return
        scope = self._waits[request.id] = trio.CancelScope()
        self._tasks.start_soon(self._wait_for_lease, request, size, scope)

    async def _wait_for_lease(self, request: TakeLease, size: int, scope: trio.CancelScope) -> None:
        def queued(held: HeldError) -> None:
            self._send(LeaseHeld(request.id, held.start, held.end, held.exclusive))

        answer: Answer | None = None
        try:
            with scope:
                self._require_writing()
                await self._guest.spend(size)
                lease = await self._chain.take_lease(self, _claim(request), queued)
                answer = LeaseIs(request.id, lease.token, lease.seconds, self._chain.tail.sequence)
        except Exception as error:
            answer = told(request.id, error)
        finally:
            del self._waits[request.id]
        self._send(answer or failed(request.id, BusyError("it was no longer waited for")))

    # -- following

    def _begin_to_follow(self, request: Follow) -> None:
        if self._follower is not None and not self._follower.scope.cancel_called:
            self._send(failed(request.id, InvalidError("a connection follows its chain once at a time")))
            return
        self._follower = _Follower(request)
        self._tasks.start_soon(self._follow, self._follower)

    async def _follow(self, follower: _Follower) -> None:
        request = follower.request
        try:
            with follower.scope:
                batches = self._chain.follow(request.first, limit=FOLLOW_BYTES, slim=request.slim, client=self)
                async with aclosing(batches):
                    await self._pass_on(batches, follower)
        except Exception as error:
            follower.last = told(request.id, error)
        if self._follower is follower:
            self._follower = None
        self._send(follower.last)

    async def _pass_on(self, batches: AsyncIterator[list[bytes] | Position], follower: _Follower) -> None:
        while True:
            while follower.credit <= 0:
                await follower.granted.wait()
                follower.granted = trio.Event()
            await self._pump.room(ROOM)
            news = await anext(batches)
            if isinstance(news, Position):
                self._send(Own(follower.request.id, *news))
                continue
            follower.credit -= size_of(news)
            # One message, so that what goes beyond the credit is one message, as the follower is entitled to expect.
            self._send(Batches(follower.request.id, news))

    def _grant(self, grant: Grant) -> None:
        follower = self._follower
        if follower is None or follower.request.id != grant.id:
            return  # it has ended meanwhile
        follower.credit += grant.credit
        if follower.credit > MAX_CREDIT:
            raise ProtocolError("more credit was granted than allowed")
        follower.granted.set()

    def _unfollow(self, request: Unfollow) -> None:
        if self._follower is not None and self._follower.request.id == request.id:
            self._follower.scope.cancel()
        elif request.id in self._waits:
            self._waits[request.id].cancel()

    def _require_writing(self) -> None:
        if not self._access.may_write:
            raise RefusedError("this identity may read this chain, but not write to it")


def _claim(request: TakeLease) -> Claim:
    return Claim(
        request.name, request.owner, request.start, request.end, request.exclusive, request.seconds, request.token
    )


def _lane(lane: LaneStats) -> LaneIs:
    return LaneIs(lane.objects, lane.live, lane.total)


def told(request: int, error: Exception) -> Failed:
    """What a client is told; what it is not told goes to the log."""
    if not isinstance(error, AteError):
        _log.error("a request was ended by an error of this program", exc_info=error)
        return failed(request, AteError())
    answer = failed(request, error)
    if answer.code == "unavailable":
        _log.warning("a request failed: %s", error)
    return answer
