"""Messages cut into pieces that fit into a record, and joined again.

There are two lanes. A record of the control lane is one message. Messages of the bulk lane are preceded by their length
and cut; between two pieces, control messages go first, so that an upload delays no question.
"""

from __future__ import annotations

from collections import deque

from atedb.net.errors import ProtocolError

PART = 64 << 10
"""Bytes of a message in one record at most; every piece of a message but the last has exactly as many."""
_LENGTH = 4
_CONTROL, _BULK = 0, 1
PLAINTEXT_LIMIT = 1 + _LENGTH + PART
"""Bytes of a record's plaintext."""


class Outbox:
    """Messages on their way out. size: bytes of those that are not gone yet."""

    def __init__(self) -> None:
        self.size = 0
        self._control: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._at = 0

    def add(self, message: bytes, *, bulk: bool) -> None:
        """Queue a message; one of the control lane has at most `PART` bytes."""
        (self._bulk if bulk else self._control).append(message)
        self.size += len(message)

    @property
    def urgent(self) -> int:
        """How many messages of the control lane are queued."""
        return len(self._control)

    def next(self) -> bytes | None:
        """The plaintext of the next record, or None if there is nothing."""
        if self._control:
            message = self._control.popleft()
            self.size -= len(message)
            return bytes([_CONTROL]) + message
        if not self._bulk:
            return None
        message = self._bulk[0]
        head = bytes([_BULK]) if self._at else bytes([_BULK]) + len(message).to_bytes(_LENGTH, "little")
        piece = memoryview(message)[self._at : self._at + PART]
        self._at += len(piece)
        self.size -= len(piece)
        if self._at == len(message):
            self._bulk.popleft()
            self._at = 0
        return b"".join((head, piece))


class Inbox:
    """Joins pieces again. limit: bytes that a message may have. announced: of the one that is being joined, or 0."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.announced = 0
        self._joined = bytearray()

    def add(self, plaintext: bytes) -> bytes | bytearray | None:
        """A message, if `plaintext` is or completes one. Raises ProtocolError. Holds only what has arrived."""
        if len(plaintext) > PLAINTEXT_LIMIT or len(plaintext) < 2 or plaintext[0] > _BULK:
            raise ProtocolError("a record is neither a message nor a piece of one")
        if plaintext[0] == _CONTROL:
            if len(plaintext) > 1 + min(PART, self.limit):
                raise ProtocolError("a message is longer than allowed")
            return plaintext[1:]
        start = 1
        if not self.announced:
            start += _LENGTH
            self._announce(int.from_bytes(plaintext[1:start], "little"))
        return self._join(memoryview(plaintext)[start:])

    def _announce(self, length: int) -> None:
        if not 0 < length <= self.limit:
            raise ProtocolError("a message is longer than allowed")
        self.announced = length

    def _join(self, piece: memoryview) -> bytearray | None:
        if len(piece) != min(PART, self.announced - len(self._joined)):
            raise ProtocolError("a piece of a message has the wrong length")
        self._joined += piece
        if len(self._joined) < self.announced:
            return None
        whole, self._joined, self.announced = self._joined, bytearray(), 0
        return whole
