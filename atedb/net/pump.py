"""The sending half of a connection: records leave one after the other, each within a bound of time."""

from __future__ import annotations

import trio

from atedb.net.connection import ClientProtocol, ServerProtocol
from atedb.net.errors import ConnectionLostError
from atedb.net.transport import Transport

SEND_SECONDS = 30.0
"""How long the other end may take for one record."""


class Pump:
    """Hands over what a protocol has to send. last: the time, by trio's clock, at which something was handed over."""

    def __init__(self, transport: Transport, protocol: ClientProtocol | ServerProtocol) -> None:
        self.last = trio.current_time()
        self._transport = transport
        self._protocol = protocol
        self._sending = 0
        self._ended = False
        self._more = trio.Event()
        self._progress = trio.Event()

    def wake(self) -> None:
        """The protocol may have something to send."""
        self._more.set()

    async def run(self) -> None:
        """Send for ever. Raises ConnectionLostError."""
        while True:
            await self.flush()
            await self._more.wait()
            self._more = trio.Event()

    async def flush(self) -> None:
        """Send what there is. Never in two tasks at once. Raises ConnectionLostError."""
        while (record := self._protocol.next_to_send()) is not None:
            self._sending = len(record)
            with trio.move_on_after(SEND_SECONDS) as bound:
                await self._transport.send(record)
            if bound.cancelled_caught:
                raise ConnectionLostError(f"the other end has taken nothing for {SEND_SECONDS:.0f} seconds")
            self._sending = 0
            self.last = trio.current_time()
            self._progress.set()
            self._progress = trio.Event()

    async def room(self, size: int) -> None:
        """Wait until fewer than `size` bytes are on their way out (1: none at all), or until `end`."""
        while self._protocol.queued + self._sending >= size and not self._ended:
            await self._progress.wait()

    async def calm(self, most: int) -> None:
        """Wait until fewer than `most` small messages are queued, or until `end`."""
        while self._protocol.urgent >= most and not self._ended:
            await self._progress.wait()

    def end(self) -> None:
        """Nothing will be sent any more: whoever waits for room need not."""
        self._ended = True
        self._progress.set()
