"""Bodies on their way from the server: whoever wants one that somebody else has asked for waits for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from atedb.errors import UnreachableError

Body = tuple[int, int]
"""Sequence of a batch, and place in it."""


class _Coming:
    """What one request asks for. bodies: what it brought. failed: why it brought nothing."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.bodies: dict[Body, bytes] = {}
        self.failed: UnreachableError | None = None


class Fetching:
    """fetch: gets bodies from the server, all of them, or raises UnreachableError; within a bound.

    A file that is read from its beginning is asked for in several places at once, each with what follows it: without
    this, most of it came twice.
    """

    def __init__(self, fetch: Callable[[Sequence[Body]], Awaitable[list[bytes]]]) -> None:
        self._fetch = fetch
        self._coming: dict[Body, _Coming] = {}

    async def bodies(self, wanted: Sequence[Body]) -> list[bytes]:
        """Sealed bodies in the order asked for. Raises UnreachableError, within the bound of `fetch`, or twice that."""
        found: dict[Body, bytes] = {}
        while lacking := [body for body in wanted if body not in found]:
            fresh = [body for body in lacking if body not in self._coming]
            asked = list(dict.fromkeys(self._coming[body] for body in lacking if body in self._coming))
            if fresh:
                asked.append(await self._bring(fresh))
            for coming in asked:
                await coming.ended.wait()
                if coming.failed is not None:
                    raise UnreachableError(str(coming.failed))
                found.update((body, coming.bodies[body]) for body in lacking if body in coming.bodies)
        return [found[body] for body in wanted]

    async def _bring(self, fresh: Sequence[Body]) -> _Coming:
        coming = _Coming()
        self._coming.update(dict.fromkeys(fresh, coming))
        try:
            coming.bodies.update(zip(fresh, await self._fetch(fresh), strict=True))
        except UnreachableError as error:
            coming.failed = error
            raise
        finally:  # if it was cancelled, those who wait ask for themselves
            for body in fresh:
                del self._coming[body]
            coming.ended.set()
        return coming
