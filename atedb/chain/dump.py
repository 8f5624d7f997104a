"""A chain as a tree of events: segments, the batches in them, the events in those; read lazily, never changed.

Bodies stay sealed, but for the meta lane's, which a callback may put into a few words. Content is never shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from atedb.chain.disk import Disk, File, RealDisk
from atedb.chain.event import Lane
from atedb.chain.format import COMPRESSED, SEGMENT_HEADER_SIZE, TOMBSTONE, Event, SegmentHeader
from atedb.chain.frame import Frame, Read, verify_frame_signature
from atedb.chain.header import ChainHeader, load_header, verify_root
from atedb.chain.log import segment_path
from atedb.chain.recovery import is_zero
from atedb.chain.walk import BatchOpener, read_body, reader, segment_numbers, walk
from atedb.crypto.keys import KeyRing
from atedb.errors import AteError, DamagedError

Describe = Callable[[bool, bytes], str]
"""(tombstone, plaintext of an event of the meta lane) -> what it is, in a few words."""


class SegmentNode(msgspec.Struct, tag="segment", tag_field="kind"):
    """A segment. first: its first batch; problem: why its header is not believed."""

    number: int
    bytes: int
    first: int | None = None
    previous: str | None = None
    problem: str | None = None


class BatchNode(msgspec.Struct, tag="batch", tag_field="kind"):
    """A batch. time: ns since the epoch; bytes: of its frame; problem: why it is not believed."""

    sequence: int
    segment: int
    offset: int
    bytes: int
    time: int
    durable: int
    device: str
    hash: str
    previous: str
    events: int
    problem: str | None = None


class EventNode(msgspec.Struct, tag="event", tag_field="kind"):
    """An event. bytes: of its sealed body; what: in words, where it could be opened; problem: why it could not."""

    sequence: int
    object: str
    version: int
    lane: str
    flags: list[str]
    bytes: int
    what: str | None = None
    problem: str | None = None


class GapNode(msgspec.Struct, tag="gap", tag_field="kind"):
    """A stretch where nothing verifies: damage, or a batch that is just being written."""

    segment: int
    offset: int
    bytes: int
    problem: str


Node = SegmentNode | BatchNode | EventNode | GapNode


def dump_log(
    store: Path, root: bytes | None = None, *, describe: Describe | None = None, disk: Disk | None = None
) -> Iterator[Node]:
    """Every node of the tree, each parent before its children, in the order of the log.

    root: the tenant's root key, for `describe`. Raises StoreNotFoundError, UnsupportedError, and DamagedError when the
    chain's header is damaged or the root key is another chain's; damage of the log comes as nodes.
    """
    disk = disk or RealDisk()
    header = load_header(disk, store)
    keys = None
    if root is not None:
        verify_root(header, root)
        keys = KeyRing(root, header.chain_id, header.suite)
    dump = _Dump(header, keys, describe)
    for number in segment_numbers(disk, store):
        with contextlib.closing(disk.open(segment_path(store, number))) as file:
            yield from dump.segment(number, file)


class _Dump:
    def __init__(self, header: ChainHeader, keys: KeyRing | None, describe: Describe | None) -> None:
        self._root_public = bytes.fromhex(header.root_public)
        self._chain_id = header.chain_id
        self._keys = keys
        self._describe = describe
        self._devices: dict[bytes, bytes] = {}

    def segment(self, number: int, file: File) -> Iterator[Node]:
        """One segment and all that is in it."""
        read, size = reader(file), file.size()
        node = SegmentNode(number, size)
        try:
            header = SegmentHeader.decode(bytes(read(0, SEGMENT_HEADER_SIZE)))
            node.first, node.previous = header.first, header.previous.hex()
        except AteError as error:
            node.problem = str(error)
        yield node
        for item in walk(read, SEGMENT_HEADER_SIZE, size):
            if isinstance(item, Frame):
                yield from self._batch(number, item, read)
            elif not is_zero(file, item.offset, item.end):
                yield GapNode(number, item.offset, item.end - item.offset, item.why)

    def _batch(self, number: int, frame: Frame, read: Read) -> Iterator[Node]:
        head = frame.head
        node = BatchNode(
            head.sequence, number, frame.offset, frame.header.length, head.time, head.durable, head.device.hex(),
            frame.hash.hex(), head.previous.hex(), len(frame.events),
        )  # fmt: skip
        try:
            verify_frame_signature(frame, self._devices, self._root_public, self._chain_id)
        except DamagedError as error:
            node.problem = str(error)
        opener = None
        if self._keys is not None and self._describe is not None:
            try:
                opener = BatchOpener(self._keys, head)
            except AteError as error:
                node.problem = node.problem or str(error)
        yield node
        for event, at in frame.bodies():
            yield self._event(head.sequence, event, at, read, opener)

    def _event(self, sequence: int, event: Event, at: int | None, read: Read, opener: BatchOpener | None) -> EventNode:
        flags = [name for bit, name in ((TOMBSTONE, "tombstone"), (COMPRESSED, "compressed")) if event.flags & bit]
        lane = Lane(event.lane).name.lower()
        node = EventNode(sequence, event.key.hex(), event.version, lane, flags, event.length)
        if opener is not None and self._describe is not None and event.lane == Lane.META and at is not None:
            try:
                plain = opener.open(event, read_body(read, event, at))
                node.what = self._describe(bool(event.flags & TOMBSTONE), plain)
            except DamagedError as error:
                node.problem = str(error)
        return node
