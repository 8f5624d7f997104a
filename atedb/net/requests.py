"""A client's requests under way: numbered, sent, and matched with their answers, every wait with a bound.

One task reads, one writes, one watches the clock. None of them raises: whatever ends the connection is told to whoever
waits for something.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from atedb.chain.position import Position
from atedb.errors import AteError
from atedb.net.connection import ClientProtocol
from atedb.net.errors import ConnectionLostError, HeldError, ProtocolError
from atedb.net.failures import error_of
from atedb.net.following import WINDOW, Following
from atedb.net.messages import (
    Answer,
    Batches,
    Done,
    Failed,
    Follow,
    Goodbye,
    LeaseHeld,
    LeaseIs,
    Own,
    Ping,
    Request,
    Unfollow,
    Welcome,
)
from atedb.net.pump import Pump
from atedb.net.transport import Transport

PING_SECONDS = 10.0
"""After so long without a word from one of the two ends, the client asks whether the server is there."""
SILENCE_SECONDS = 30.0
"""After so long without a word from the server, the connection is lost."""
ANSWER_SECONDS = 60.0
"""How long the server may take to answer, counted from its last piece of a long answer, if there is one on its way."""
SLOWEST = 16 << 10
"""Bytes a second that a connection carries at least: what is to be sent first makes an answer's time longer."""
LONGEST_SECONDS = 1200.0
"""How long pieces of long answers may put off the end of a request's time."""
MAX_SMALL, MAX_LARGE = 32, 16
"""Requests under way in each lane."""
_ROOM = 8 << 20
"""Bytes of large requests that wait to be sent, before the next one waits to be made."""

_Wanted = TypeVar("_Wanted", bound=Answer)


class _Waiting:
    """A request that is not answered yet. place: what it gives back when it is, one of a lane's.

    patient: the server may say that it takes its time; then, queued, it has no place and no bound. late: who is told of
    a lease when nobody waits for it any more.
    """

    def __init__(self, place: trio.Semaphore | None, *, patient: bool = False) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None
        self.late: Callable[[LeaseIs], None] | None = None
        self.patient = patient
        self.queued = False
        self._place = place

    def queue(self) -> None:
        """It is answered some day."""
        self.queued = True
        self._give_place()

    def end(self, answer: Answer | None) -> None:
        """It is answered, or never will be."""
        self.answer = answer
        self.done.set()
        self._give_place()
        if self.late is not None and isinstance(answer, LeaseIs):
            self.late(answer)

    def _give_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.release()


class _Lane:
    """Requests that are made in the order in which they were asked for, so many at a time."""

    def __init__(self, places: int) -> None:
        self.turn = trio.Lock()
        self.places = trio.Semaphore(places)


class Requests:
    """The requests of one connection. why: what ended it, if anything did. time: the server's clock when it began."""

    def __init__(self, transport: Transport, protocol: ClientProtocol) -> None:
        self.time = 0
        self.why: AteError | None = None
        self.ended = trio.Event()
        self._transport = transport
        self._protocol = protocol
        self._pump = Pump(transport, protocol)
        self._heard = self._piece = trio.current_time()
        self._numbers = itertools.count(2)
        self._small, self._large = _Lane(MAX_SMALL), _Lane(MAX_LARGE)
        self._waiting: dict[int, _Waiting] = {}
        self._followings: dict[int, Following] = {}

    async def ask(self, wanted: type[_Wanted], make: Callable[[int], Request], *, large: bool = False) -> _Wanted:
        """Send the request that `make` returns for a number, and wait for its answer, which must be a `wanted`.

        Raises what the server answers with, ConnectionLostError, ProtocolError. Cancelled, it may be carried out.
        """
        _, waiting = await self._begin(make, large=large)
        await self._answered(waiting)
        return self._result(waiting, wanted)

    async def ask_for_lease(
        self, make: Callable[[int], Request], late: Callable[[LeaseIs], None], *, patient: bool
    ) -> LeaseIs:  # fmt: skip
        """As `ask`. patient: however long it takes, where the server says that somebody else has it.

        late: called with a lease that is given although this was cancelled. Raises HeldError.
        """
        number, waiting = await self._begin(make, patient=patient)
        try:
            await self._answered(waiting)
        except BaseException:
            waiting.late = late
            self.send(Unfollow(number))
            raise
        if isinstance(waiting.answer, LeaseHeld):
            raise HeldError(waiting.answer.start, waiting.answer.end, waiting.answer.exclusive)
        return self._result(waiting, LeaseIs)

    async def _begin(
        self, make: Callable[[int], Request], *, large: bool = False, patient: bool = False
    ) -> tuple[int, _Waiting]:  # fmt: skip
        """Send a request when there is a place for it: its number, and what is known of it."""
        lane = self._large if large else self._small
        async with lane.turn:
            await lane.places.acquire()
            try:
                await self._pump.room(_ROOM if large else 1 << 62)
                self._require()
            except BaseException:
                lane.places.release()
                raise
            waiting = _Waiting(lane.places, patient=patient)
            number = next(self._numbers)
            self._waiting[number] = waiting
            self.send(make(number))
        return number, waiting

    def _result(self, waiting: _Waiting, wanted: type[_Wanted]) -> _Wanted:
        if waiting.answer is None:
            raise self._lost()
        if isinstance(waiting.answer, Failed):
            raise error_of(waiting.answer)
        if not isinstance(waiting.answer, wanted):
            raise self.broken("it answers something else than it was asked for")
        return waiting.answer

    def follow(self, first: int, slim: bool) -> Following:
        """Ask for batches; what comes is in the result."""
        number = next(self._numbers)
        following = self._followings[number] = Following(number, self.send)
        if self.why is None:
            self.send(Follow(number, first, slim, WINDOW))
        else:
            following.end(self._lost())
        return following

    @property
    def conversation(self) -> bytes:
        """The hash of the handshake."""
        return self._protocol.conversation

    @property
    def device_statement(self) -> bytes:
        """What a device signs to prove its key in this conversation."""
        return self._protocol.device_statement

    def send(self, message: Request) -> None:
        """Queue something that needs no answer; nothing is done when the connection has ended."""
        if self.why is None:
            self._protocol.send(message)
            self._pump.wake()

    def broken(self, what: str) -> AteError:
        """The server does what none does: end the connection. The error that says so."""
        error = ProtocolError(f"the server breaks the protocol: {what}")
        self.end(error)
        return error

    def end(self, why: AteError) -> None:
        """The connection has ended: whoever waits is told."""
        if self.why is not None:
            return
        self.why = why
        for waiting in self._waiting.values():
            waiting.end(None)
        self._waiting.clear()
        for following in self._followings.values():
            following.end(self._lost())
        self._pump.end()
        self.ended.set()

    async def shake(self) -> None:
        """From the first byte until the server has let the client in. Raises whatever prevents that."""
        while not self._protocol.ready:
            await self._pump.flush()
            for answer in self._protocol.receive(await self._transport.receive()):
                assert isinstance(answer, Welcome)
                self.time = answer.time
        self._heard = trio.current_time()

    async def run(self) -> None:
        """Read, write and watch until the connection has ended, which it also has when this is cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for work in (self._read, self._pump.run, self._watch):
                    nursery.start_soon(self._until_end, work)
                await self.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.end(ConnectionLostError("it was closed here"))

    async def _until_end(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except AteError as error:
            self.end(error)

    async def _read(self) -> None:
        while True:
            data = await self._transport.receive()
            answers = self._protocol.receive(data)
            self._heard = trio.current_time()
            if self._protocol.incoming or any(answer.bulk for answer in answers):
                self._piece = self._heard
            for answer in answers:
                self._dispatch(answer)

    async def _watch(self) -> None:
        """Ask, when it has been quiet, and end a connection that stays silent."""
        while True:
            now = trio.current_time()
            if now >= self._heard + SILENCE_SECONDS:
                raise ConnectionLostError(f"the server has been silent for {SILENCE_SECONDS:.0f} seconds")
            quiet = min(self._heard, self._pump.last) + PING_SECONDS
            if now >= quiet:
                number = next(self._numbers)
                self._waiting[number] = _Waiting(None)
                self.send(Ping(number))
                quiet = now + PING_SECONDS
            await trio.sleep_until(min(quiet, self._heard + SILENCE_SECONDS))

    def _dispatch(self, answer: Answer) -> None:
        """Hand an answer to whoever waits for it. Raises ProtocolError, or what the server says goodbye with."""
        following = self._followings.get(answer.id)
        if isinstance(answer, Goodbye):
            raise error_of(answer)
        if following is not None and isinstance(answer, Batches):
            following.add(answer.frames)
        elif following is not None and isinstance(answer, Own):
            following.add(Position(answer.sequence, answer.hash))
        elif following is not None and isinstance(answer, Failed | Done):
            del self._followings[answer.id]
            if isinstance(answer, Failed):
                following.end(error_of(answer))
            elif not following.ended:
                error = ProtocolError("the server ends what it was asked for without a word")
                following.end(error)
                raise error
        elif isinstance(answer, LeaseHeld) and answer.id in self._waiting and self._waiting[answer.id].patient:
            self._waiting[answer.id].queue()
        elif answer.id in self._waiting:
            self._waiting.pop(answer.id).end(answer)
        else:
            raise ProtocolError("the server answers what was not asked")

    async def _answered(self, waiting: _Waiting) -> None:
        """Wait for an answer, or for the end of the connection, which is also the end of the time for an answer."""
        start = trio.current_time()
        bound = ANSWER_SECONDS + self._protocol.queued / SLOWEST
        while not waiting.done.is_set():
            ends = min(max(start + bound, self._piece + ANSWER_SECONDS), start + bound + LONGEST_SECONDS)
            if waiting.queued:
                ends = math.inf
            if trio.current_time() >= ends:
                self.end(ConnectionLostError(f"the server has not answered a request for {ends - start:.0f} seconds"))
                return
            with trio.move_on_at(ends):
                await waiting.done.wait()

    def _require(self) -> None:
        if self.why is not None:
            raise self._lost()

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(f"the connection to the server is lost: {self.why}")
