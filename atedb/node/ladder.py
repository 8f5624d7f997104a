"""How often a password may be guessed: every fifth failure in a row locks an account for longer.

Whether there is such an account makes no difference: what is counted is what somebody has asked for. It is kept over
restarts, in `DATA/attempts.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec

from atedb import threads
from atedb.chain.disk import RealDisk
from atedb.crypto.hashing import keyed
from atedb.errors import AteError
from atedb.net.errors import RateError

NAME = "attempts.json"
LOCKS = (30, 300, 3600, 86_400)
"""Seconds: 30 s, 5 min, 1 h, 1 day, and then a day each time."""
EVERY = 5
MOST = 16_384
"""Names that are remembered; beyond, those with the fewest failures are forgotten, the oldest first."""


class _Attempts(msgspec.Struct, array_like=True):
    """failures: in a row. since, until: seconds since 1970 of the last one, and of the end of its lock."""

    failures: int
    since: float
    until: float


class Ladder:
    """Counts failures. secret: 32 bytes, so that the file names nobody. clock: seconds since 1970."""

    def __init__(self, data: Path, secret: bytes, clock: Callable[[], float]) -> None:
        self._path = data / NAME
        self._secret = secret
        self._clock = clock
        self._known: dict[str, _Attempts] = {}
        if self._path.exists():
            try:
                self._known = msgspec.json.decode(RealDisk().read_bytes(self._path), type=dict[str, _Attempts])
            except msgspec.MsgspecError as error:
                raise AteError(
                    f"{self._path}, which counts failed logins, cannot be read: {error}; nothing was started; remove it"
                ) from None

    def require(self, who: str) -> None:
        """Raises RateError while `who` is locked."""
        attempts = self._known.get(self._name(who))
        left = attempts.until - self._clock() if attempts is not None else 0
        if left > 0:
            raise RateError(f"there were too many attempts; nothing was tried; try again in {_span(left)}")

    async def failed(self, who: str) -> None:
        """One more. It counts at once, and is on the disk when it locks."""
        now, name = self._clock(), self._name(who)
        before = self._known.pop(name, None)
        failures = (
            1
            if before is None or (now > before.until + LOCKS[-1] and now > before.since + LOCKS[-1])
            else before.failures + 1
        )
        until = now + LOCKS[min(failures // EVERY, len(LOCKS)) - 1] if failures % EVERY == 0 else 0.0
        self._known[name] = _Attempts(failures, now, until)
        while len(self._known) > MOST:
            self._forget()
        if until:
            await self._save()

    async def succeeded(self, who: str) -> None:
        """The next failure is the first one again."""
        if self._known.pop(self._name(who), None) is not None:
            await self._save()

    def _forget(self) -> None:
        del self._known[min(self._known, key=lambda name: (self._known[name].failures, self._known[name].since))]

    async def _save(self) -> None:
        data = msgspec.json.encode(self._known)
        await threads.run(RealDisk().replace, self._path, data)

    def _name(self, who: str) -> str:
        return keyed(self._secret, who.encode(), 16).hex()


def _span(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{math.ceil(seconds / size)} {unit}"
    return f"{math.ceil(seconds)} s"
