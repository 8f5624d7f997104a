"""Where a node's chains live. An engine knows frames as bytes with a place in an order, and nothing of what is in them.

Everything is asynchronous (trio), and may be called from several tasks. What is said here holds for every engine, and
`tests/engine/conformance.py` compares: the embedded files of `atedb.engine.files` are the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from atedb.chain.files import ChainFiles
from atedb.chain.position import Position

MAX_DOCUMENT = 256 << 10
"""Bytes of a document."""


class SegmentInfo(NamedTuple):
    """A stretch of the log that is stored as one: its first and last sequence (last < first: it is empty yet) and its
    length in bytes. sealed: it will not change any more, but for being replaced as a whole."""

    number: int
    first: int
    last: int
    length: int
    sealed: bool


class BatchLog(Protocol):
    """The batches and documents of one chain that is open here.

    Every change needs a fencing token: `take` hands out a newer one, and whoever has an older one is refused from that
    moment on with FencedError, also after a restart. Any call may raise StorageError; after a barrier that failed, all
    further changes raise ReadOnlyError until the chain is opened anew.
    """

    @property
    def tail(self) -> Position:
        """The newest batch that is durable."""

    @property
    def chain_id(self) -> bytes:
        """The chain's identity: 32 bytes, from its header."""

    async def take(self) -> int:
        """Become the one who may change the chain: a new token, higher than all before, durable on return."""

    async def append(self, frames: Sequence[bytes], expected: Position, token: int) -> Position:
        """Add frames directly after `expected`; durable on return, with the new tail.

        All of them or none is there afterwards, also after a crash in the middle, but for a first part of them that
        nobody was told of. Appends that wait at the same time share one barrier. A cancelled append may have happened.

        frames: whole, full frames with consecutive sequences; the engine compares sequence and previous hash only.
        expected: the newest batch, where batches that are still on their way to the disk count.
        Raises StaleError (with the newest batch) when something else is there, FencedError, NoSpaceError, StorageError,
        and InvalidError for frames that do not follow each other.
        """

    async def read(self, first: int, limit: int) -> list[bytes]:
        """Durable frames from sequence `first` on: at least one, and then as many as fit into `limit` bytes.

        Empty if `first` is after the tail. Raises DamagedError for bytes that are no longer there or no longer a frame.
        """

    async def read_range(self, sequence: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes of one durable frame; shorter at its end. Raises InvalidError without such a batch."""

    async def wait_past(self, sequence: int) -> Position:
        """Return once a batch after `sequence` is durable, with the tail. Raises ClosedError when the log is closed."""

    async def segments(self, first: int = 0) -> list[SegmentInfo]:
        """What the log is stored in, in order. first: only those that have batches from this sequence on, or will."""

    async def document(self, name: str) -> tuple[bytes, int]:
        """A small named file of the chain, and its generation; (b"", 0) when there is none.

        A generation is a positive number that is different for different content; nothing else is to be read from it.
        name: 1 to 32 of a-z and 0-9.
        """

    async def put_document(self, name: str, data: bytes, expected: int, token: int) -> int:
        """Replace a document durably and all at once; its new generation.

        expected: the generation that is replaced, 0 for none. Raises StaleDocumentError when another one is there,
        FencedError, LimitError for more than MAX_DOCUMENT bytes, and ReadOnlyError for "chain", which never changes.
        """

    async def free_bytes(self) -> int:
        """What the storage can still take, as far as the engine knows."""

    async def aclose(self) -> None:
        """Finish what is under way, and release the chain. Whoever waits gets ClosedError."""


class Engine(Protocol):
    """The chains of one node, each under a name: one to eight parts, joined by slashes."""

    async def open(self, name: str, *, create: ChainFiles | None = None) -> BatchLog:
        """Open a chain; nobody else has it open.

        create: make the chain if there is none yet. Where there is one with this very header it is opened, so that
        creating can be tried again. Raises StoreNotFoundError, StoreExistsError for another header under this name,
        InUseError, DamagedError, and LimitError for a name that is not one.
        """

    async def names(self) -> list[str]:
        """The chains that there are, sorted."""

    async def stored(self, name: str) -> int:
        """About how many bytes the chain's log takes, open or not."""
