"""A place in a chain's order, as everybody who has the chain can name it."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """A batch: its sequence, and its hash (32 bytes). (0, 32 zero bytes) is the start of every chain."""

    sequence: int
    hash: bytes


START = Position(0, bytes(32))
