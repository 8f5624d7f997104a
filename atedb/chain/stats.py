"""What a chain counts, and when a checkpoint pays."""

from __future__ import annotations

import time
from dataclasses import dataclass

# Measured costs of replaying a log, in seconds: of one event, of one batch (its signature), of one byte (its hash).
_EVENT, _BATCH, _BYTE = 12e-6, 150e-6, 0.5e-9
_WORTH = 0.3
_AT_MOST = 2.0
_DUTY = 20


@dataclass
class ChainStats:
    """Counters since the chain was opened: frames appended, barriers, promises, seals made and opened, rows asked of
    LMDB."""

    appends: int = 0
    barriers: int = 0
    promises: int = 0
    seals: int = 0
    opens: int = 0
    view_reads: int = 0


class ReplayCost:
    """What opening the chain would cost now, against what checkpoints cost."""

    def __init__(self) -> None:
        self.events = 0
        self._seconds = 0.0
        self._set_aside = (0, 0.0)
        self._began = 0.0
        self._ended = 0.0
        self._took = 0.0

    def add(self, events: int, length: int) -> None:
        """One batch more to replay."""
        self.events += events
        self._seconds += events * _EVENT + _BATCH + length * _BYTE

    def due(self) -> bool:
        """Whether a checkpoint pays: the tail is worth it, and checkpoints take little of the time."""
        if self._seconds < _WORTH:
            return False
        return self._seconds > _AT_MOST or time.monotonic() - self._ended > _DUTY * self._took

    def start(self) -> None:
        """A checkpoint begins."""
        self._set_aside = self.events, self._seconds
        self.events, self._seconds = 0, 0.0
        self._began = time.monotonic()

    def end(self, *, written: bool) -> None:
        """It has ended."""
        self._ended = time.monotonic()
        self._took = self._ended - self._began
        if not written:
            self.events += self._set_aside[0]
            self._seconds += self._set_aside[1]
