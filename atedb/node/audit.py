"""Whether an index says what its log says: the log is read into a second index, and the two are compared."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from atedb.chain.disk import RealDisk
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.frame import Frame, read_frame, verify_frame_signature
from atedb.chain.header import load_header
from atedb.chain.log import segment_path
from atedb.chain.position import START
from atedb.chain.recovery import Progress, read_manifest
from atedb.chain.walk import reader
from atedb.engine.interface import SegmentInfo
from atedb.errors import AteError
from atedb.node.index import Index, IndexState

_BATCHES = 1024
_FIRST_OPENED = "the index of the chain is made anew when the chain is opened next"


def audit(store: Path, folder: Path, progress: Progress | None = None) -> str | None:
    """What is wrong with the index in `folder` of the chain in `store`, the log of which is sound; None for nothing.

    Copies of both are compared, in the system's temporary folder: nothing is changed. Nobody has the chain open.
    progress: called with batches read and in all.
    """
    disk = RealDisk()
    header = load_header(disk, store)
    chain_id = header.chain_id
    with tempfile.TemporaryDirectory(prefix="atedb-verify-") as temporary:
        if not (folder / "seal").exists():
            return _FIRST_OPENED + ": it is missing"
        shutil.copytree(folder, Path(temporary) / "index")
        index = Index(disk, Path(temporary) / "index", chain_id)
        made = Index(disk, Path(temporary) / "made", chain_id)
        try:
            if index.position == START:
                return _FIRST_OPENED + ": it is damaged, or shows nothing"
            _read(made, store, index.position.sequence, bytes.fromhex(header.root_public), progress)
            return _difference(index, made)
        finally:
            index.close()
            made.close()


def _read(made: Index, store: Path, last: int, root: bytes, progress: Progress | None) -> None:
    manifest = read_manifest(RealDisk(), store, made.state.chain)
    segments = [SegmentInfo(s.number, s.first, s.last, s.length, sealed=True) for s in manifest.sealed]
    first = segments[-1].last + 1 if segments else 1
    segments.append(SegmentInfo(manifest.active, first, last, 0, sealed=False))
    draft, count = made.draft(), 0
    for frame in _frames(store, [segment.number for segment in segments]):
        if frame.head.sequence > last:
            break
        verify_frame_signature(frame, draft.devices, root, made.state.chain)
        draft.add(frame)
        count += 1
        if count == _BATCHES or frame.head.sequence == last:
            made.apply(draft, segments)
            made.fold()
            draft, count = made.draft(), 0
            if progress is not None:
                progress(frame.head.sequence, last)


def _frames(store: Path, numbers: list[int]) -> Iterator[Frame]:
    for number in numbers:
        with contextlib.closing(RealDisk().open(segment_path(store, number))) as file:
            read, offset = reader(file), SEGMENT_HEADER_SIZE
            with contextlib.suppress(AteError):  # the end of the active segment
                while True:
                    frame = read_frame(read, offset, bodies=False)
                    yield frame
                    offset = frame.end


def _difference(index: Index, made: Index) -> str | None:
    if _plain(index.state) != _plain(made.state):
        return f"the index of the chain does not agree with the log up to batch {index.position.sequence}"
    for ours, theirs in zip_longest(made.rows(), index.rows()):
        if ours != theirs:
            key = min(row[0] for row in (ours, theirs) if row is not None)
            return f"the index of the chain does not agree with the log about object {key.hex()}"
    return None


def _plain(state: IndexState) -> tuple[object, ...]:
    uses = [
        (use.number, use.first, [(lane.live, lane.total) for lane in use.lanes])
        for use in state.segments
        if any(lane.total for lane in use.lanes)
    ]
    return state.sequence, state.hash, state.devices, state.objects, uses
