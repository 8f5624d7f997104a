"""A follower's side of a chain: batches as they come, and never more of them than it has asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

import trio

from atedb.chain.position import Position
from atedb.errors import AteError
from atedb.net.errors import ProtocolError
from atedb.net.messages import Grant, Unfollow

WINDOW = 4 << 20
"""Bytes that may be on their way to a follower that takes nothing up."""
_GRANT_AT = 1 << 20


class Following:
    """The batches of a chain as they come: `async for frames in following`. Made by `ServerConnection.follow`.

    Each item is a list of frames, in order and without a gap: all that has come since the last one, because whoever
    puts something of its own on top of them does so once for each item. In the place of batches that were appended over
    this very connection meanwhile is the position of the last of them. It ends with the error that ended it:
    ConnectionLostError, or what the server answered. `aclose` when nothing more is wanted.
    """

    def __init__(self, request: int, send: Callable[[Grant | Unfollow], None]) -> None:
        self._request = request
        self._send = send
        self._waiting: deque[list[bytes] | Position] = deque()
        self._news = trio.Event()
        self._error: AteError | None = None
        self._credit = WINDOW
        self._taken = 0

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> list[bytes] | Position:
        """What comes next; waits for it without a bound, because there may be nothing for a long time."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._error is not None:
                raise self._error
            await self._news.wait()
            self._news = trio.Event()
        news = self._waiting.popleft()
        if isinstance(news, Position):
            return news
        frames = list(news)
        while self._waiting and isinstance(self._waiting[0], list):
            frames += cast("list[bytes]", self._waiting.popleft())
        self._taken += size_of(frames)
        if self._taken >= _GRANT_AT and self._error is None:
            self._grant()
        return frames

    async def aclose(self) -> None:
        """Nothing more is wanted."""
        if self._error is None:
            self._send(Unfollow(self._request))
            self.end(ProtocolError("nothing more was wanted of this chain"))
        self._waiting.clear()
        await trio.lowlevel.checkpoint()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes, or nothing more is wanted."""
        return self._error is not None

    def add(self, news: list[bytes] | Position) -> None:
        """What the server sent. Raises ProtocolError if it was not to."""
        if isinstance(news, list):
            if self._credit <= 0:
                raise ProtocolError("the server sends more than it was asked for")
            self._credit -= size_of(news)
        elif self._waiting and isinstance(self._waiting[-1], Position):
            self._waiting.pop()  # the later one says it all, and whoever takes nothing up holds no more than its window
        if self._error is None:
            self._waiting.append(news)
            self._news.set()

    def end(self, error: AteError) -> None:
        """Nothing more comes, and why."""
        if self._error is None:
            self._error = error
        self._news.set()

    def _grant(self) -> None:
        # What was sent above the credit (one message at most) is made good in pieces of what one message may grant.
        while self._taken:
            credit = min(self._taken, WINDOW)
            self._taken -= credit
            self._credit += credit
            self._send(Grant(self._request, credit))


def size_of(frames: list[bytes]) -> int:
    """What frames count for a follower's credit, in bytes."""
    return sum(map(len, frames))
