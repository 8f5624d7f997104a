"""Leases: what is exclusive in a chain, for a time. Each is given with a fencing token, and tokens rise for ever.

A lease is durable before anybody hears of it. After a restart each lease lasts as long again as it was given for: the
time that has passed meanwhile is not known, and two holders would be worse than a wait.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import trio

from atedb.engine.interface import MAX_DOCUMENT, BatchLog
from atedb.errors import BusyError, DamagedError, FencedError, InvalidError, LimitError

DOCUMENT = "leases"
MAX_NAME = 256
MAX_HOLDER = 256
MAX_SECONDS = 24 * 3600.0


class Lease(NamedTuple):
    """Something that is exclusive for `seconds` from now. token: higher than that of every lease before, for ever."""

    token: int
    seconds: float


class _Held(msgspec.Struct, array_like=True):
    """A lease as it is stored."""

    holder: bytes
    token: int
    seconds: float


class _Stored(msgspec.Struct, array_like=True):
    """The document. token: the newest that was given."""

    token: int
    leases: dict[str, _Held]


class Leases:
    """The leases of one chain. fence: the engine's token for the chain."""

    def __init__(self, log: BatchLog, fence: int) -> None:
        self._log = log
        self._fence = fence
        self._generation = 0
        self._token = 0
        self._held: dict[str, _Held] = {}
        self._ends: dict[str, float] = {}
        self._turn = trio.Lock()

    async def load(self) -> None:
        """Take up what was given before a restart. Raises DamagedError."""
        data, self._generation = await self._log.document(DOCUMENT)
        if not data:
            return
        try:
            stored = msgspec.msgpack.decode(data, type=_Stored)
        except msgspec.DecodeError as error:
            raise DamagedError(f"the leases of a chain cannot be read: {error}") from None
        self._token, self._held = stored.token, stored.leases
        now = trio.current_time()
        self._ends = {name: now + held.seconds for name, held in self._held.items()}

    async def take(self, name: str, holder: bytes, seconds: float) -> Lease:
        """Have what is called `name`. Who holds it already is given it anew, and the former token is no longer good.

        Raises BusyError while another holder has it, InvalidError, LimitError when there are too many leases.
        """
        _require(name, holder, seconds)
        async with self._turn:
            held = self._current(name)
            if held is not None and held.holder != holder:
                left = self._ends[name] - trio.current_time()
                raise BusyError(f"{name!r} is held by another, for {left:.0f} seconds more unless they renew it")
            await self._save(self._token + 1, name, _Held(holder, self._token + 1, seconds))
            return Lease(self._token, seconds)

    async def renew(self, name: str, token: int, seconds: float) -> Lease:
        """Keep a lease for `seconds` from now on. Raises FencedError when it has ended."""
        _require(name, b"", seconds)
        async with self._turn:
            held = self._current(name)
            if held is None or held.token != token:
                raise FencedError(f"the lease of {name!r} with token {token} has ended")
            if seconds > held.seconds:  # a restart must not shorten it
                await self._save(self._token, name, _Held(held.holder, token, seconds))
            self._ends[name] = trio.current_time() + seconds
            return Lease(token, seconds)

    async def release(self, name: str, token: int) -> None:
        """End a lease; one that has ended already is no error."""
        async with self._turn:
            held = self._current(name)
            if held is not None and held.token == token:
                await self._save(self._token, name, None)

    def _current(self, name: str) -> _Held | None:
        held = self._held.get(name)
        return held if held is not None and self._ends[name] > trio.current_time() else None

    async def _save(self, token: int, name: str, held: _Held | None) -> None:
        """Make the change durable, then take it up. What has ended is forgotten on this occasion."""
        leases = {other: lease for other in self._held if (lease := self._current(other)) is not None and other != name}
        if held is not None:
            leases[name] = held
        data = msgspec.msgpack.encode(_Stored(token, leases))
        if len(data) > MAX_DOCUMENT:
            raise LimitError("there are too many leases of this chain; nothing was changed; release some")
        with trio.CancelScope(shield=True):  # what is stored is also what is known here
            self._generation = await self._log.put_document(DOCUMENT, data, self._generation, self._fence)
        self._token, self._held = token, leases
        ends = {other: self._ends[other] for other in leases if other != name}
        if held is not None:
            ends[name] = trio.current_time() + held.seconds
        self._ends = ends


def _require(name: str, holder: bytes, seconds: float) -> None:
    if not 1 <= len(name) <= MAX_NAME or len(holder) > MAX_HOLDER or not 0 < seconds <= MAX_SECONDS:
        raise InvalidError("a lease has a name, a holder and a time of more than 0 seconds and at most a day")
