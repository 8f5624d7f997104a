"""Who comes next: the requests of each client in their order, and the clients in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from atedb.errors import BusyError

T = TypeVar("T")

MOST_WAITING = 64
"""Requests of one client."""


class Turns(Generic[T]):
    """Requests that wait. A client with many is served once while each of the others is, too."""

    def __init__(self) -> None:
        self._clients: OrderedDict[object, deque[T]] = OrderedDict()

    def add(self, client: object, request: T) -> None:
        """Put a request behind the others of its client. Raises BusyError beyond MOST_WAITING."""
        waiting = self._clients.setdefault(client, deque())
        if len(waiting) >= MOST_WAITING:
            raise BusyError(f"{MOST_WAITING} requests of this client wait already; nothing was added; try again later")
        waiting.append(request)

    def next(self) -> T | None:
        """The next request, taken out; None when nothing waits. Its client then comes last."""
        if not self._clients:
            return None
        client, waiting = self._clients.popitem(last=False)
        request = waiting.popleft()
        if waiting:
            self._clients[client] = waiting
        return request

    def next_of(self, client: object) -> T | None:
        """The next request of one client, taken out; None when it has none."""
        waiting = self._clients.get(client)
        if waiting is None:
            return None
        request = waiting.popleft()
        if not waiting:
            del self._clients[client]
        return request

    def remove(self, client: object, request: T) -> None:
        """Take back a request that waits; one that does not is no error."""
        waiting = self._clients.get(client)
        if waiting is not None and request in waiting:
            waiting.remove(request)
            if not waiting:
                del self._clients[client]
