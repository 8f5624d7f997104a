"""A network in memory between machines and one server: slow, and at times cut, silent or out of order.

A link delivers in order, as TCP does. Messages of different links, and of the two directions of one, overtake each
other as chance has it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from enum import Enum

import trio

from atedb.net.errors import ConnectionLostError
from atedb.testing.links import Link, LinkEnd

CONNECT_SECONDS = 10.0


class Reach(Enum):
    """What a machine has of the network. SILENT: nothing arrives, and nobody is told."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"


class Network:
    """longest: seconds that a message takes at most; half of them take none. note: told of each message and event.

    listener: what the server does with a new connection; None while there is no server.
    """

    def __init__(
        self, chance: random.Random, longest: float, note: Callable[[str, object], None] = lambda _who, _what: None
    ) -> None:  # fmt: skip
        self.listener: Callable[[LinkEnd], None] | None = None
        self._chance = chance
        self._longest = longest
        self._note = note
        self._reach: dict[str, Reach] = {}
        self._links: dict[str, Link] = {}
        self._until_cut: dict[str, int] = {}

    async def dial(self, machine: str) -> LinkEnd:
        """The machine's end of a new link. Raises ConnectionLostError."""
        await trio.sleep(self._delay())
        if self._reach.get(machine) is Reach.SILENT:
            await trio.sleep(CONNECT_SECONDS)
            raise ConnectionLostError("nobody answers")
        if self._reach.get(machine) is Reach.REFUSED or self.listener is None:
            raise ConnectionLostError("nobody is there")
        self.cut(machine)
        link: Link
        link = self._links[machine] = Link(
            up=lambda data: self._pass(machine, link, "up", data),
            down=lambda data: self._pass(machine, link, "down", data),
            delay=self._delay,
        )
        self._note(machine, "connected")
        self.listener(link.server)
        return link.client

    def set_reach(self, machine: str, reach: Reach) -> None:
        """Change what a machine has of the network from now on. A link that was silent never speaks again."""
        self._note(machine, reach.value)
        if reach is Reach.REFUSED:
            self.cut(machine)
        self._reach[machine] = reach

    def cut(self, machine: str) -> None:
        """Both ends lose the connection, and what is on its way."""
        self._until_cut.pop(machine, None)
        link = self._links.pop(machine, None)
        if link is not None:
            self._note(machine, "cut")
            link.cut()

    def cut_after(self, machine: str, messages: int) -> None:
        """`cut` instead of delivering one of the next messages."""
        self._until_cut[machine] = messages

    def end(self, machine: str) -> None:
        """The machine's process has ended: what it had sent may still arrive, or not."""
        link = self._links.get(machine)
        if link is None or self._chance.random() < 0.5:
            self.cut(machine)
        else:
            del self._links[machine]
            self._note(machine, "ended")
            link.client.end()

    def end_server(self) -> None:
        """The same for the server, and all of its links."""
        self.listener = None
        for machine, link in list(self._links.items()):
            if self._chance.random() < 0.5:
                self.cut(machine)
            else:
                del self._links[machine]
                self._note(machine, "server ended")
                link.server.end()

    def _delay(self) -> float:
        return max(0.0, self._chance.uniform(-self._longest, self._longest))

    def _pass(self, machine: str, link: Link, direction: str, data: bytes) -> Iterable[bytes]:
        self._note(machine, (direction, len(data)))
        if self._links.get(machine) is not link:
            return (data,)  # of a process that has ended meanwhile: its link is told when that is closed
        if self._reach.get(machine) is Reach.SILENT:
            link.mute()
        left = self._until_cut.get(machine)
        if left is not None:
            self._until_cut[machine] = left - 1
            if left <= 0:
                self.cut(machine)
                return ()
        return () if link.muted else (data,)
