"""Other copies of a chain: where batches come from that a stored chain has lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from atedb.chain.disk import Disk
from atedb.chain.format import FRAME_HEADER_SIZE, SEGMENT_HEADER_SIZE, padded
from atedb.chain.frame import Frame, Read, decode_frame
from atedb.chain.header import load_header
from atedb.chain.lock import ChainLock
from atedb.chain.log import segment_path
from atedb.chain.walk import reader, segment_numbers, walk
from atedb.errors import DamagedError, InvalidError


class Donor:
    """A store of the same chain: a copy of the server's, or a replica, the driver of which does not run.

    A replica has its own batches whole, others' without the bodies of their blobs. Raises StoreNotFoundError,
    DamagedError, InvalidError for another chain's, InUseError.
    """

    def __init__(self, disk: Disk, store: Path, chain_id: bytes) -> None:
        if load_header(disk, store).chain_id != chain_id:
            raise InvalidError(f"{store} is another chain; nothing was changed")
        self._lock = ChainLock(store, shared=True)
        self._disk = disk
        self._store = store
        self._places: dict[int, list[tuple[int, int, int]]] | None = None

    def frames(self, sequence: int) -> Iterator[bytes]:
        """What it has as the batch with this sequence; of batches that were replaced, all that are still there."""
        if self._places is None:
            self._places = self._look()
        for number, start, end in self._places.get(sequence, ()):
            file = self._disk.open(segment_path(self._store, number))
            try:
                yield bytes(reader(file)(start, end - start))
            finally:
                file.close()

    def _look(self) -> dict[int, list[tuple[int, int, int]]]:
        places: dict[int, list[tuple[int, int, int]]] = {}
        for number in segment_numbers(self._disk, self._store):
            file = self._disk.open(segment_path(self._store, number))
            try:
                for item in walk(reader(file), SEGMENT_HEADER_SIZE, file.size()):
                    if isinstance(item, Frame):
                        places.setdefault(item.head.sequence, []).append((number, item.offset, item.end))
            finally:
                file.close()
        return places

    def close(self) -> None:
        """Let others have it."""
        self._lock.release()


def whole(found: bytes, own: Read, at: int) -> tuple[Frame, bytes] | None:
    """A batch that a donor has, as a whole frame. Of a slim one, the bodies that are absent are read with `own`, where
    the damaged frame begins at offset `at`. None when that does not agree with the hashes in it."""
    try:
        frame = decode_frame(found)
        data = _filled(frame, found, own, at) if frame.slim else found
        return decode_frame(data), data
    except DamagedError:
        return None


def _filled(frame: Frame, slim: bytes, own: Read, at: int) -> bytes:
    header = frame.header
    start = header.bodies_offset
    bodies = []
    for event, there in frame.bodies():
        bodies.append(bytes(own(at + start, event.length)) if there is None else slim[there : there + event.length])
        start += event.length
    full = header._replace(length=padded(start), flags=0)
    parts = (full.encode(), slim[FRAME_HEADER_SIZE : header.bodies_offset], *bodies)
    return b"".join((*parts, bytes(full.length - start)))
