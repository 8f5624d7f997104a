"""Links in memory between a client and a node, which delay, lose, change and repeat what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from atedb.net.errors import ConnectionLostError

Tap = Callable[[bytes], Iterable[bytes]]
"""What arrives instead of a message that is sent: itself, nothing, or something else."""


def _as_it_is(data: bytes) -> Iterable[bytes]:
    return (data,)


class Link:
    """Two transports that are joined: what one sends, the other receives.

    capacity: messages on their way in each direction; then the sender waits. up, down: what happens to messages of the
    client, of the server. delay: asked for the seconds that a message takes. sent: all messages of the client, of the
    server. muted: it carries nothing any more, and does not say so.
    """

    def __init__(
        self, *, capacity: int = 4, up: Tap = _as_it_is, down: Tap = _as_it_is, delay: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.muted = False
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        to_server, at_server = trio.open_memory_channel[bytes](capacity)
        to_client, at_client = trio.open_memory_channel[bytes](capacity)
        self.client = LinkEnd(to_server, at_client, up, self.sent[0], delay)
        self.server = LinkEnd(to_client, at_server, down, self.sent[1], delay)

    def cut(self) -> None:
        """Both ends lose the connection, and what is on its way."""
        for end in (self.client, self.server):
            end.end()

    def mute(self) -> None:
        """Carry nothing from now on."""
        self.muted = True


class LinkEnd:
    """One end: an `atedb.net.transport.Transport`. closed: `aclose` was called."""

    def __init__(
        self,
        outgoing: trio.MemorySendChannel[bytes],
        incoming: trio.MemoryReceiveChannel[bytes],
        tap: Tap,
        sent: list[bytes],
        delay: Callable[[], float],
    ) -> None:
        self.closed = False
        self.outgoing = outgoing
        self.incoming = incoming
        self._tap = tap
        self._sent = sent
        self._delay = delay

    async def send(self, data: bytes) -> None:
        """As of Transport."""
        self._sent.append(data)
        await trio.sleep(self._delay())
        for arriving in self._tap(data):
            try:
                await self.outgoing.send(arriving)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise ConnectionLostError("the link was cut") from None

    @property
    def peer(self) -> str:
        """There is no address in memory."""
        return ""

    async def receive(self) -> bytes:
        """As of Transport."""
        try:
            return await self.incoming.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise ConnectionLostError("the link was cut") from None

    def end(self) -> None:
        """As when the process at this end is gone: the other one still receives what was sent before."""
        self.incoming.close()
        self.outgoing.close()

    async def aclose(self) -> None:
        """As of Transport."""
        self.closed = True
        self.end()
        await trio.lowlevel.checkpoint()
