"""Verification lists all damage and nothing else, on stores that are closed, torn, or being written to."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from atedb.chain.chain import Chain
from atedb.chain.disk import Buffer, RealDisk, RealFile
from atedb.chain.event import Change, Lane
from atedb.chain.format import EVENT_SIZE
from atedb.chain.log import segment_path
from atedb.chain.verify import verify_log
from atedb.errors import DamagedError, StorageError
from tests.chain.conftest import ROOT, crash
from tests.chain.small import Small, body_of, build, flip, key, place_of, put, tree


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """The small chain."""
    return build(tmp_path)


@pytest.mark.parametrize("root", [ROOT, None])
@pytest.mark.parametrize("data", [True, False])
def test_a_sound_chain_is_reported_sound_and_left_alone(small: Small, root: bytes | None, data: bool) -> None:
    before = tree(small.store.parent)
    seen: list[tuple[int, int]] = []
    report = verify_log(small.store, root, data=data, heads=small.heads, progress=lambda *at: seen.append(at))
    report.require_sound()
    assert (report.segments, report.batches, report.events, report.sequence) == (2, 6, 12, 6)
    assert report.bodies == (12 if data else 0)
    assert report.seals == (12 if data and root else 0)
    assert report.replayed == (root is not None)
    assert (report.damage, report.tail, report.rolled_back, report.remarks) == ([], None, None, [])
    assert seen[-1] == (report.bytes, report.bytes)
    assert tree(small.store.parent) == before
    assert msgspec.json.decode(msgspec.json.encode(report))["sequence"] == 6


def test_all_damage_is_listed_with_what_it_touches(small: Small) -> None:
    first, body = body_of(small.store, 2, b"y")
    path, lost = place_of(small.store, 3)
    second, sealed = body_of(small.store, 5, b"d")
    flip(first, body)
    flip(path, lost.offset + 40)  # in the head: nothing of the batch can be believed
    flip(second, sealed + 2)
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    assert [(d.segment, d.offset, d.length) for d in report.damage] == [
        (1, body, 7 + 16),
        (1, lost.offset, lost.header.length),
        (2, sealed, 5 + 16),
    ]
    assert report.damage[0].objects == [key(b"y").hex()]
    assert sorted(report.damage[1].objects) == [key(b"a").hex(), key(b"x").hex()]
    assert report.damage[2].objects == [key(b"d").hex()]
    assert report.missing == report.damage[1].missing == [(3, 3)]
    assert not report.replayed
    with pytest.raises(
        DamagedError, match=r"segment 1 at offset .* \(and 2 more places\); nothing was changed; .*--repair"
    ):
        report.require_sound()


def test_a_frame_whose_header_alone_is_damaged_is_still_read(small: Small) -> None:
    path, frame = place_of(small.store, 2)
    flip(path, frame.offset)
    report = verify_log(small.store, ROOT, data=True)
    assert [(d.offset, d.length, d.missing) for d in report.damage] == [(frame.offset, 32, [])]
    assert report.batches == 6


def test_damage_that_spans_frames_says_which_batches_are_missing(small: Small) -> None:
    path = segment_path(small.store, 2)
    _, first = place_of(small.store, 4)
    _, second = place_of(small.store, 5)
    data = bytearray(path.read_bytes())
    data[first.offset : second.end] = bytes(second.end - first.offset)
    path.write_bytes(data)
    report = verify_log(small.store, None, data=False)
    assert [(d.segment, d.offset, d.length) for d in report.damage] == [(2, first.offset, second.end - first.offset)]
    assert report.missing == [(4, 5)]


def test_an_event_row_that_names_another_object_is_found_by_the_live_set_alone(small: Small) -> None:
    """Without reading the bodies of blobs."""
    path, frame = place_of(small.store, 3)
    row = next(i for i, event in enumerate(frame.events) if event.key == key(b"x"))
    flip(path, frame.offset + frame.header.table_offset + row * EVENT_SIZE)
    assert verify_log(small.store, None, data=False).damage == []
    (damage,) = verify_log(small.store, ROOT, data=False).damage
    assert "batch 3 claims" in damage.why


class BadSectors(RealFile):
    """A device that cannot read the bytes from 1000 to 1100 of segment 1."""

    def read(self, length: int, offset: int) -> bytearray:
        if self.path.name == "00000001.seg" and offset < 1100 and offset + length > 1000:
            raise StorageError("input/output error")
        return super().read(length, offset)


class BadDisk(RealDisk):
    """Opens such files."""

    def open(self, path: Path, *, writable: bool = False) -> BadSectors:
        return BadSectors(path, 2 if writable else 0)


def test_what_the_device_cannot_read_is_damage_and_the_rest_is_walked(small: Small) -> None:
    report = verify_log(small.store, ROOT, data=True, disk=BadDisk())
    assert report.damage
    assert {d.segment for d in report.damage} == {1}
    assert report.sequence == 6


# -- the end of the log


def torn(small: Small) -> int:
    """Kill the owner after an unsynced batch, and tear it. Where it begins."""
    chain = small.open()
    start = chain._log.end
    chain.commit([put(b"a", b"unsynced")])
    crash(chain)
    flip(segment_path(small.store, 2), start + 200)
    return start


@pytest.mark.expect_log("torn tail")
@pytest.mark.parametrize("root", [ROOT, None])
def test_a_torn_tail_is_reported_and_is_no_damage(small: Small, root: bytes | None) -> None:
    start = torn(small)
    report = verify_log(small.store, root, data=True, heads=small.heads)
    assert report.damage == []
    assert report.tail is not None
    assert (report.tail.segment, report.tail.offset) == (2, start)
    report.require_sound()
    small.open().close()
    assert verify_log(small.store, root, data=True, heads=small.heads).tail is None


def test_a_batch_that_was_acknowledged_is_damage_not_a_tail(small: Small) -> None:
    path, frame = place_of(small.store, 6)
    flip(path, frame.offset + 40)
    for root, heads in ((ROOT, None), (None, small.heads)):
        report = verify_log(small.store, root, data=False, heads=heads)
        assert report.tail is None
        assert report.missing == [(6, 6)]
    assert verify_log(small.store, None, data=False).tail is not None  # nothing tells it from a torn one


def test_zeros_written_ahead_are_neither(small: Small) -> None:
    chain = small.open()
    chain.commit([put(b"a", b"synced")])
    chain.barrier()
    crash(chain)
    assert segment_path(small.store, 2).stat().st_size > 100_000
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    assert (report.damage, report.tail, report.sequence) == ([], None, 7)


def test_a_store_that_is_written_to_meanwhile_is_sound(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atedb.chain.log.SEGMENT_TARGET", 20_000)
    chain = small.open()
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                chain.commit([put(b"n%d" % (number % 50), bytes([number % 256]) * 3000, Lane.BLOB)])
                if number % 7 == 0:
                    chain.barrier()
                if number % 40 == 0:
                    chain.checkpoint()
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            report = verify_log(small.store, ROOT, data=True, heads=small.heads)
            report.require_sound()
            assert (report.in_use or "").startswith("process ")
            assert report.remarks == []
    finally:
        stop.set()
        writer.join(30)
        chain.close()
    assert failed == []
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    report.require_sound()
    assert report.segments > 3


def test_memory_stays_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atedb.chain.shadow.STEP", 500)
    chain = Chain.create(tmp_path / "store", ROOT)
    peaks = []
    body: Sequence[Buffer] = [bytes(300)]
    for size in (2_000, 8_000):
        chain.commit([])
        while chain.object_count(Lane.META) < size:
            start = chain.object_count(Lane.META)
            chain.commit([Change(chain.object_key(b"T", b"%d" % (start + i)), Lane.META, body) for i in range(250)])
        chain.checkpoint()
        tracemalloc.start()
        verify_log(tmp_path / "store", ROOT, data=True).require_sound()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    chain.close()
    assert peaks[1] < peaks[0] * 1.5
