"""A frame that came from the server, on its way into the log."""

from __future__ import annotations

from typing import NamedTuple

from atedb.chain.chain import Chain
from atedb.chain.event import Seen
from atedb.chain.frame import Frame, decode_frame
from atedb.chain.layer import Layer
from atedb.chain.log import Log
from atedb.chain.position import Position
from atedb.chain.slim import slim_form
from atedb.chain.view import View
from atedb.crypto.sethash import SetHash


class Arrival(NamedTuple):
    """A slim frame, decoded, and its bytes."""

    frame: Frame
    data: bytes

    @classmethod
    def decode(cls, data: bytes) -> Arrival:
        """Of a slim frame or a whole one. Raises DamagedError."""
        frame = decode_frame(data)
        slim = slim_form(frame, data)
        return cls(frame, data) if slim is data else cls(decode_frame(slim), slim)

    @property
    def position(self) -> Position:
        """Which batch it is."""
        return Position(self.frame.head.sequence, self.frame.hash)

    def enter(self, chain: Chain, log: Log, layer: Layer, seen: Seen) -> SetHash:
        """Append it to `log`, once it has verified and been applied to `layer`; the live set after it.

        Raises DamagedError, NoSpaceError, StorageError; the log is as before then, and the layer to be thrown away.
        """
        live = live_set(chain, layer)
        replay = chain.replay(layer, live, seen)
        replay.verify(self.frame)
        log.roll_if_full(len(self.data), sequence=self.position.sequence, previous=self.frame.head.previous)
        replay.apply(self.frame._replace(offset=log.end), log.manifest.active, _Memory(self.data, log.end))
        log.append([self.data], len(self.data))
        return live


class _Memory:
    """A frame that is to lie at an offset of a segment."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start

    def read(self, length: int, offset: int) -> bytes:
        return self._data[offset - self._start : offset - self._start + length]


def live_set(chain: Chain, view: View | Layer) -> SetHash:
    """The set of live objects that a view shows."""
    state = view.state
    key = chain.keys.purpose("live set hash")
    return SetHash(key, int.from_bytes(state.set_total, "little"), state.set_count)
