"""Batches that no program of ours makes: whatever the bytes, the answer is an error of ours, and nothing is added."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.chain.disk import RealDisk
from atedb.chain.format import FRAME_HEADER_SIZE, BatchHead, FrameHeader, batch_hash
from atedb.chain.frame import decode_frame
from atedb.errors import AteError, InvalidError
from atedb.node.checking import Root, check_in_place, check_whole
from atedb.node.index import Index
from tests.engine.frames import Author

edits = st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)
headers = st.fixed_dictionaries(
    {}, optional={name: st.integers(0, 2**16) for name in ("length", "head", "present", "proof", "signature", "flags")}
)


def reseal(frame: bytes, **changes: int) -> bytes:
    """The frame with other fields in its header, whose checksum is right again."""
    names = ("length", "head", "present", "proof", "signature", "flags")
    fields = {name: value % (2**16 if name in ("signature", "flags") else 2**32) for name, value in changes.items()}
    header = FrameHeader.decode(frame)
    assert set(fields) <= set(names)
    return header._replace(**fields).encode() + frame[FRAME_HEADER_SIZE:]


def resigned(author: Author, frame: bytes, **changes: object) -> bytes:
    """The frame with another head, signed by the author."""
    header = FrameHeader.decode(frame)
    end = FRAME_HEADER_SIZE + header.head
    head = BatchHead.decode(frame[FRAME_HEADER_SIZE:end])._replace(**changes).encode()  # type: ignore[arg-type]
    used = header.bodies_offset + sum(event.length for event in decode_frame(frame).events)
    rest = author.device.sign(batch_hash(head)) + frame[end + header.signature : used]
    whole = FRAME_HEADER_SIZE + len(head) + len(rest)
    header = header._replace(head=len(head), length=whole + -whole % 8)
    return header.encode() + head + rest + bytes(-whole % 8)


@settings(max_examples=400)
@given(edits=edits, header=headers, cut=st.integers(0, 900))
def test_bytes_that_were_changed_anywhere_are_refused_in_our_own_words(
    edits: list[tuple[int, bytes]], header: dict[str, int], cut: int
) -> None:
    author = Author()
    frame = author.frame(author.meta("a", bytes(60)), author.blob("b", bytes(90)), author.end("c"))
    data = bytearray(frame)
    for at, piece in edits:
        data[FRAME_HEADER_SIZE + at : FRAME_HEADER_SIZE + at + len(piece)] = piece
    changed = reseal(bytes(data), **header)[: len(frame) - cut if cut < 200 else None]
    if changed == frame:
        return
    try:
        [(checked, _)] = check_whole([changed])
    except AteError:
        return
    # A head that was changed may be whole in itself; then its signature is no longer good.
    assert batch_hash(checked.head.encode()) != batch_hash(BatchHead.decode(_head(frame)).encode()) or (
        checked.signature != _signature(frame)
    )


def _head(frame: bytes) -> bytes:
    return frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + FrameHeader.decode(frame).head]


def _signature(frame: bytes) -> bytes:
    header = FrameHeader.decode(frame)
    return frame[FRAME_HEADER_SIZE + header.head :][: header.signature]


def test_heads_that_a_device_signed_but_no_correct_one_writes_are_refused(tmp_path: Path) -> None:
    author = Author()
    frame = author.frame(author.meta("a"))
    index = Index(RealDisk(), tmp_path / "index", author.header.chain_id)
    root = Root(bytes.fromhex(author.header.root_public), author.header.chain_id)
    head = BatchHead.decode(_head(frame))

    def accepted(**changes: object) -> bool:
        try:
            check_in_place(check_whole([resigned(author, frame, **changes)]), index.draft(), root)
        except InvalidError:
            return False
        return True

    assert accepted()
    assert accepted(time=-(2**63))
    assert accepted(statements=(*head.statements, (77, b"of a later version")))
    for changes in (
        {"keys": ()},
        {"durable": 1},
        {"durable": 2**64 - 1},
        {"events": 0},
        {"root": bytes(32)},
        {"device": bytes(32)},
        {"statements": ()},
        {"statements": ((1, b"short"),)},
        {"statements": ((1, bytes(104)), *head.statements)},
    ):
        assert not accepted(**changes), changes
    index.close()


def test_a_batch_without_a_key_slot_is_refused_even_if_it_has_no_events() -> None:
    author = Author()
    frame = author.frame()
    assert len(check_whole([frame])) == 1
    with pytest.raises(InvalidError, match="under which key"):
        check_whole([resigned(author, frame, keys=())])
