"""Bringing a blind index up to its log: what came after its last fold, or everything, where it cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import trio

from atedb import threads
from atedb.chain.disk import Disk
from atedb.chain.frame import Frame, read_frame, verify_frame_signature
from atedb.chain.position import START
from atedb.engine.interface import BatchLog
from atedb.errors import DamagedError, InvalidError
from atedb.node.checking import Root
from atedb.node.index import Draft, Index
from atedb.node.reading import Reader

log = logging.getLogger(__name__)

_PIECE = 4 << 20


async def open_index(batches: BatchLog, root: Root, disk: Disk, folder: Path, *, signed: bool = True) -> Index:
    """The index in `folder`, showing the newest batch of the log.

    signed: each signature is verified; otherwise what is in the log was believed without.
    Raises DamagedError when the log has what no client could have appended, StorageError, NoSpaceError.
    """
    with trio.CancelScope(shield=True):
        index = await threads.run(Index, disk, folder, root.chain_id)
    try:
        await _catch_up(index, batches, root, signed=signed)
    except BaseException:
        index.close()
        raise
    return index


async def _catch_up(index: Index, batches: BatchLog, root: Root, *, signed: bool) -> None:
    reader, tail = Reader(batches), batches.tail
    if index.position != START and not await _shown(index, reader, tail.sequence):
        log.warning("the index of chain %s is made anew from the log: it is not about this one", root.chain_id.hex())
        await threads.run(index.clear)
    while index.position.sequence < tail.sequence:
        first = index.position.sequence + 1
        frames = await reader.read(first, tail.sequence, _PIECE, slim=True)
        with trio.CancelScope(shield=True):
            draft = await threads.run(_take_up, index, frames, root, signed)
            index.apply(draft, await batches.segments(first))
            if index.fold_due():
                await threads.run(index.fold)


async def _shown(index: Index, reader: Reader, last: int) -> bool:
    """Whether the newest batch of the index is in the log."""
    sequence = index.position.sequence
    if sequence > last:
        return False
    [data] = await reader.read(sequence, sequence, 1, slim=True)
    return _front(data).hash == index.position.hash


def _take_up(index: Index, frames: Sequence[bytes], root: Root, signed: bool) -> Draft:
    draft = index.draft()
    for data in frames:
        frame = _front(data)
        if frame.head.sequence != draft.at.sequence + 1 or frame.head.previous != draft.at.hash:
            raise DamagedError(f"batch {frame.head.sequence} of the log does not follow batch {draft.at.sequence}")
        proven = b"" if signed else frame.head.device
        verify_frame_signature(frame, draft.devices, root.public, root.chain_id, proven=proven)
        try:
            draft.add(frame)
        except InvalidError as error:
            raise DamagedError(f"the log is not what was checked before it was written: {error}") from None
    return draft


def _front(data: bytes) -> Frame:
    return read_frame(lambda offset, length: data[offset : offset + length], 0, bodies=False)
