"""A bound on the memory that several connections share."""

from __future__ import annotations

from collections import deque

import trio

from atedb.errors import LimitError


class ByteBudget:
    """So many bytes, handed out in the order in which they are asked for.

    within: a larger budget that several like this one share; what is taken here is taken there as well.
    """

    def __init__(self, total: int, within: ByteBudget | None = None) -> None:
        self.total = total
        self._within = within
        self.free = total
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    async def take(self, size: int) -> None:
        """Have `size` bytes; waits for them. Give them back with `give`. Raises LimitError for more than there are."""
        if size > self.total:
            raise LimitError(f"{size} bytes at once are more than this server takes ({self.total}); nothing was done")
        await self._take_own(size)
        if self._within is not None:
            try:
                await self._within.take(size)
            except BaseException:
                self._give_own(size)
                raise

    async def _take_own(self, size: int) -> None:
        if not self._waiting and size <= self.free:
            self.free -= size
            return
        entry = (size, trio.Event())
        self._waiting.append(entry)
        try:
            await entry[1].wait()
        except trio.Cancelled:
            if entry[1].is_set():
                self._give_own(size)
            else:
                self._waiting.remove(entry)
                self._serve()
            raise

    def give(self, size: int) -> None:
        """Return bytes that were taken."""
        if self._within is not None:
            self._within.give(size)
        self._give_own(size)

    def _give_own(self, size: int) -> None:
        self.free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            size, ready = self._waiting.popleft()
            self.free -= size
            ready.set()
