"""A dump shows the tree of a chain, lazily, with its damage, and never a block's content."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from atedb.chain.dump import BatchNode, EventNode, GapNode, Node, SegmentNode, dump_log
from atedb.chain.format import CORE_SIZE
from atedb.chain.log import segment_path
from atedb.errors import DamagedError
from tests.chain.conftest import ROOT
from tests.chain.small import BATCHES, Small, body_of, build, flip, key, place_of, tree


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """The small chain."""
    return build(tmp_path)


def describe(tombstone: bool, body: bytes) -> str:
    return f"{'end of ' if tombstone else ''}{len(body)} bytes"


def shape(nodes: list[Node]) -> list[object]:
    """What the nodes are, in short."""
    found: list[object] = []
    for node in nodes:
        match node:
            case SegmentNode():
                found.append(("segment", node.number, node.first))
            case BatchNode():
                found.append(("batch", node.sequence, node.events))
            case EventNode():
                found.append(bytes.fromhex(node.object))
            case GapNode():
                found.append(("gap", node.offset))
    return found


def test_the_tree_is_segments_batches_events(small: Small) -> None:
    expected: list[object] = []
    for sequence, changes in enumerate(BATCHES, 1):
        if sequence in (1, 4):
            expected.append(("segment", 1 if sequence == 1 else 2, sequence))
        expected.append(("batch", sequence, len(changes)))
        expected += [change.key for change in changes]
    before = tree(small.store)
    assert shape(list(dump_log(small.store))) == expected
    assert tree(small.store) == before


def test_an_event_shows_what_its_header_says(small: Small) -> None:
    nodes = [node for node in dump_log(small.store) if isinstance(node, EventNode)]
    (ended,) = [n for n in nodes if n.object == key(b"y").hex() and "tombstone" in n.flags]
    assert (ended.sequence, ended.version, ended.lane, ended.bytes, ended.what) == (4, 2, "blob", 16, None)
    packed = next(n for n in nodes if n.object == key(b"x").hex())
    assert packed.flags == ["compressed"]


def test_events_of_the_meta_lane_are_described_and_blocks_never_opened(small: Small) -> None:
    seen: list[bytes] = []

    def look(tombstone: bool, body: bytes) -> str:
        seen.append(body)
        return describe(tombstone, body)

    nodes = [node for node in dump_log(small.store, ROOT, describe=look) if isinstance(node, EventNode)]
    assert {n.lane for n in nodes if n.what is None} == {"blob"}
    assert next(n.what for n in nodes if "tombstone" in n.flags) == "end of 17 bytes"
    assert not any(b"block" in body for body in seen)
    assert "block x" not in msgspec.json.encode(nodes).decode()


def test_it_is_lazy_and_every_node_becomes_json(small: Small) -> None:
    nodes = dump_log(small.store)
    assert msgspec.json.decode(msgspec.json.encode(next(nodes)))["kind"] == "segment"
    segment_path(small.store, 2).unlink()
    batch = next(nodes)
    assert isinstance(batch, BatchNode)
    assert (batch.durable, batch.problem, len(batch.hash), len(batch.device)) == (0, None, 64, 64)
    nodes.close()  # type: ignore[attr-defined]


def test_damage_is_shown_where_it_is(small: Small) -> None:
    path, frame = place_of(small.store, 2)
    other, signed = place_of(small.store, 3)
    sealed, at = body_of(small.store, 5, b"d")
    flip(path, frame.offset + frame.header.table_offset + CORE_SIZE)
    flip(other, signed.offset + signed.header.table_offset - 1)
    flip(sealed, at)
    flip(segment_path(small.store, 2), 20)
    nodes = list(dump_log(small.store, ROOT, describe=describe))
    assert [n.offset for n in nodes if isinstance(n, GapNode)] == [frame.offset]
    assert [n.sequence for n in nodes if isinstance(n, BatchNode) and n.problem] == [3]
    assert [n.object for n in nodes if isinstance(n, EventNode) and n.problem] == [key(b"d").hex()]
    assert [n.number for n in nodes if isinstance(n, SegmentNode) and n.problem] == [2]


def test_another_root_key_is_refused(small: Small) -> None:
    with pytest.raises(DamagedError):
        next(dump_log(small.store, bytes(32), describe=describe))
