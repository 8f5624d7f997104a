"""What carries sealed records: messages of bytes, in order, none lost but with the connection."""

from __future__ import annotations

from typing import Protocol


class Transport(Protocol):
    """A connection that keeps the bounds of what is sent. Made by `atedb.net.websocket`, or in memory by tests."""

    @property
    def peer(self) -> str:
        """The other end's address; empty where it has none."""

    async def send(self, data: bytes) -> None:
        """Hand one message over; waits while the other end takes nothing. Raises ConnectionLostError."""

    async def receive(self) -> bytes:
        """The next message. Raises ConnectionLostError at the end, ProtocolError for what is no message."""

    async def aclose(self) -> None:
        """End it at once. May be called again."""
