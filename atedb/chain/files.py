"""The two files that a chain is made from, wherever it is made."""

from __future__ import annotations

from typing import NamedTuple


class ChainFiles(NamedTuple):
    """What a chain is made from: the bytes of its header and of its key slots, the documents "chain" and "keys"."""

    header: bytes
    keys: bytes
