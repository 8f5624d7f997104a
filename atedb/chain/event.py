"""Events as the layers above see them, before sealing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview
Body = Buffer | Sequence[Buffer]


class Lane(IntEnum):
    """META is small and followed whole by every replica; BLOB is fetched on demand."""

    META = 0
    BLOB = 1


class Term(NamedTuple):
    """One row of a sealed set that the view keeps beside the objects.

    group, member: 16 opaque bytes each. value: what the set holds for the member; None takes it out.
    """

    group: bytes
    member: bytes
    value: bytes | None


class Change(NamedTuple):
    """The next state of one object.

    key: 16 opaque bytes. body: plaintext, or buffers joined when sealed; a tombstone's body is its epitaph:
    what `TermsOf` needs to take the object out of its sets. compress: try zstd. terms: the rows that follow.
    """

    key: bytes
    lane: Lane
    body: Body
    tombstone: bool = False
    compress: bool = False
    terms: tuple[Term, ...] = ()


TermsOf = Callable[[bool, bytes], tuple[Term, ...]]
"""(tombstone, plaintext of a META event) -> its terms: lets a view be rebuilt from the log."""


Seen = Callable[[bool, bytes, bytes], None]
"""(tombstone, plaintext, key) of a META event that somebody else wrote: lets caches forget what it changed."""


def no_terms(_tombstone: bool, _body: bytes) -> tuple[Term, ...]:
    """For chains without sealed sets."""
    return ()
