"""A stored chain that was damaged: what is found, what other copies put back, and what is left to be cut off."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from atedb.chain import log as log_module
from atedb.chain.disk import Disk, RealDisk
from atedb.chain.files import ChainFiles
from atedb.chain.frame import decode_frame
from atedb.chain.position import START
from atedb.engine.donors import Donor
from atedb.engine.files import FileEngine, chain_store
from atedb.engine.mending import Hole, Mending
from atedb.engine.verifying import verify_store
from atedb.errors import AteError, InUseError, InvalidError
from atedb.testing.disk import FaultyDisk
from tests.chain.conftest import noise
from tests.chain.paired import Pair
from tests.engine.conformance import NAME
from tests.engine.frames import Author

DISK = RealDisk()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 6000)


def keep(folder: Path, files: ChainFiles, frames: Sequence[bytes]) -> Path:
    """A chain with these batches in `folder`; where it lies."""

    async def main() -> None:
        log = await FileEngine(RealDisk(), folder).open(NAME, create=files)
        token, at = await log.take(), START
        for frame in frames:
            at = await log.append([frame], at, token)
        await log.aclose()

    trio.run(main)
    return chain_store(folder, NAME)


def frames_of(folder: Path) -> list[bytes]:
    """All batches of the chain in `folder`, as a server opens it."""
    found: list[bytes] = []

    async def main() -> None:
        log = await FileEngine(RealDisk(), folder).open(NAME)
        while frames := await log.read(len(found) + 1, 1 << 20):
            found.extend(frames)
        await log.aclose()

    trio.run(main)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twelve batches with metadata and blobs, in several segments; a copy is in the folder `copy` beside it."""
    author = Author()
    frames = [author.frame(author.meta(f"m{i % 3}", noise(300)), author.blob(f"b{i}", noise(1200))) for i in range(12)]
    store = keep(tmp_path / "chains", author.files, frames)
    assert len(segments(store)) > 2
    shutil.copytree(store, tmp_path / "copy")
    return store


def segments(store: Path) -> list[Path]:
    return sorted((store / "segments").iterdir())


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in segments(store)}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def mend(store: Path, *copies: Path) -> tuple[list[int], list[Hole]]:
    """What was put back, and what is left."""
    chain_id = Mending(DISK, store)._chain_id
    donors = [Donor(DISK, copy, chain_id) for copy in copies]
    mending = Mending(DISK, store, donors)
    left = mending.fill()
    for donor in donors:
        donor.close()
    return mending.restored, left


def places(store: Path) -> Iterator[tuple[Path, int]]:
    """Places all over the log, the header of each segment and the first bytes of a frame among them."""
    rng = random.Random(1)
    for path in segments(store):
        size = path.stat().st_size
        yield from ((path, at) for at in [5, 140, *(rng.randrange(128, size) for _ in range(12))])


def test_a_flipped_byte_anywhere_is_found_and_put_back_from_a_copy(store: Path, tmp_path: Path) -> None:
    sound = content(store)
    for path, at in places(store):
        flip(path, at)
        assert verify_store(DISK, store).damage, (path, at)
        _, left = mend(store, tmp_path / "copy")
        assert left == [], (path, at)
        assert content(store) == sound
    assert not verify_store(DISK, store).damage


def test_without_a_copy_it_stays_and_is_named(store: Path) -> None:
    path = segments(store)[1]
    flip(path, path.stat().st_size // 2)
    restored, left = mend(store)
    assert (restored, len(left)) == ([], 1)
    assert verify_store(DISK, store).damage
    assert str(left[0]).startswith("segment 2 at offset")


def test_when_the_certificate_is_lost_the_batches_after_it_are_not(store: Path) -> None:
    flip(segments(store)[0], 250)
    [hole] = mend(store)[1]
    assert (hole.segment, hole.before, hole.last[0]) == (1, START, 1)


Ruin = Callable[[Path], object]


@pytest.mark.parametrize(
    "ruin",
    [
        lambda store: os.truncate(segments(store)[0], 3000),
        lambda store: segments(store)[1].unlink(),
        lambda store: segments(store)[-1].unlink(),
        lambda store: os.truncate(segments(store)[-1], 200),
        lambda store: segments(store)[0].write_bytes(segments(store)[0].read_bytes() + b"more"),
        lambda store: segments(store)[1].write_bytes(bytes(segments(store)[1].stat().st_size)),
        lambda store: [path.write_bytes(b"") for path in segments(store)],
    ],
)
@pytest.mark.parametrize("closed", [True, False])
def test_segments_that_are_cut_short_missing_or_wiped_are_completed(
    store: Path, tmp_path: Path, ruin: Ruin, closed: bool
) -> None:
    sound = content(store)
    ruin(store)
    if not closed:  # what the server knows of its end was written down while it ran, not when it was closed
        (store / "tail").unlink()
    assert verify_store(DISK, store).damage
    _, left = mend(store, tmp_path / "copy")
    assert left == []
    assert content(store) == sound
    assert not verify_store(DISK, store).damage
    assert len(frames_of(tmp_path / "chains")) == 12


def test_a_last_batch_that_nobody_was_told_of_is_no_damage(store: Path) -> None:
    (store / "tail").unlink()
    (store / "places").unlink()
    path = segments(store)[-1]
    os.truncate(path, path.stat().st_size - 100)
    report = verify_store(DISK, store)
    assert not report.damage
    assert report.tail is not None


def test_and_if_somebody_was_it_is(store: Path) -> None:
    path = segments(store)[-1]
    os.truncate(path, path.stat().st_size - 100)
    report = verify_store(DISK, store)
    assert report.missing == [(12, 12)]
    assert report.tail is None


def test_of_a_chain_that_lost_contents_only_the_rest_is_served(store: Path, tmp_path: Path) -> None:
    path = segments(store)[0]
    frame = frames_of(tmp_path / "chains")[1]
    at = path.read_bytes().index(frame) + len(frame) - 500
    flip(path, at)
    _, left = mend(store)
    assert [hole.content for hole in left] == [True]
    assert "contents in batch 2 are lost" in str(left[0])
    assert len(frames_of(tmp_path / "chains")) == 12


# -- whom to believe


def test_a_copy_of_another_history_is_of_no_use(store: Path, tmp_path: Path) -> None:
    author = Author()
    other = [author.frame(author.meta("m0", noise(300)), author.blob("b", noise(1200))) for _ in range(12)]
    files = ChainFiles((store / "chain").read_bytes(), b"slots")
    stranger = keep(tmp_path / "other", files, other)
    path = segments(store)[1]
    before = content(store)
    flip(path, 1000)
    restored, left = mend(store, stranger)
    assert restored == []
    assert len(left) == 1
    flip(path, 1000)
    assert content(store) == before


def test_a_damaged_copy_is_of_use_where_it_is_sound(store: Path, tmp_path: Path) -> None:
    sound = content(store)
    flip(segments(store)[0], 1000)
    flip(segments(store)[1], 1000)
    flip(segments(tmp_path / "copy")[0], 1000)
    restored, left = mend(store, tmp_path / "copy")
    assert restored
    assert [hole.segment for hole in left] == [1]
    shutil.copytree(store, tmp_path / "second")
    (tmp_path / "second" / "segments" / "00000001.seg").write_bytes(sound["00000001.seg"])
    assert mend(store, tmp_path / "copy", tmp_path / "second")[1] == []
    assert content(store) == sound


def test_a_store_of_another_chain_is_refused(store: Path, tmp_path: Path) -> None:
    other = Author(root=b"another root of 32 bytes, really")
    stranger = keep(tmp_path / "other", other.files, [other.frame(other.meta("m"))])
    with pytest.raises(InvalidError, match="is another chain"):
        Donor(DISK, stranger, Mending(DISK, store)._chain_id)


# -- from the clients


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[Pair, Path]]:
    """Two machines that have written in turn, and the chain as a server stores it."""
    pair = Pair(tmp_path)
    for i in range(4):
        for device in (pair.one, pair.two):
            device.sync()
            device.put(**{f"m{i}": "x" * 300})
            device.put_blob(f"b{i}", noise(1500))
            device.sync()
    pair.one.sync()
    store = keep(
        tmp_path / "chains", ChainFiles((pair.one.chain.store / "chain").read_bytes(), b""), pair.server.frames
    )
    yield pair, store
    pair.close()


def every_frame(store: Path, frames: Sequence[bytes]) -> Iterator[tuple[Path, int, bytes]]:
    """Segment and offset of each batch."""
    for path in segments(store):
        data = path.read_bytes()
        yield from ((path, data.index(frame), frame) for frame in frames if frame in data)


def test_metadata_is_put_back_from_any_replica_and_contents_from_that_of_their_author(
    clients: tuple[Pair, Path],
) -> None:
    pair, store = clients
    one, two = pair.one.chain, pair.two.chain
    sound = content(store)
    pair.close()
    found: set[tuple[bool, bool]] = set()
    for path, at, data in every_frame(store, pair.server.frames):
        frame = decode_frame(data)
        own, other = (one, two) if frame.head.device == one.device else (two, one)
        heavy = any(event.heavy for event in frame.events)
        for place in (40, frame.header.table_offset + 20, frame.header.bodies_offset + 20):
            flip(path, at + place)
            content_only = heavy and place > frame.header.bodies_offset
            found.add((heavy, content_only))
            _, left = mend(store, other.store)
            assert bool(left) == content_only
            assert mend(store, own.store)[1] == []
            assert content(store) == sound
    assert found == {(False, False), (True, False), (True, True)}
    pair.again("one")
    pair.again("two")


def test_a_replica_that_is_mounted_is_refused(clients: tuple[Pair, Path]) -> None:
    pair, store = clients
    with pytest.raises(InUseError):
        Donor(DISK, pair.one.chain.store, Mending(DISK, store)._chain_id)


# -- cutting


def test_a_chain_is_cut_in_front_of_what_is_lost_and_the_rest_is_kept(store: Path, tmp_path: Path) -> None:
    frames = frames_of(tmp_path / "chains")
    before = content(store)
    flip(segments(store)[1], 250)
    [hole] = mend(store)[1]
    damaged = content(store)
    Mending(DISK, store).cut(hole, store / "damaged")
    report = verify_store(DISK, store)
    assert not report.damage
    assert report.sequence == hole.before.sequence
    assert frames_of(tmp_path / "chains") == frames[: hole.before.sequence]
    kept = {path.name: path.read_bytes() for path in (store / "damaged").iterdir()}
    assert kept == {name: data for name, data in damaged.items() if name != "00000001.seg"}
    assert content(store)["00000001.seg"] == before["00000001.seg"]


def test_a_cut_that_fails_anywhere_is_done_again(store: Path, tmp_path: Path) -> None:
    flip(segments(store)[1], 250)
    shutil.copytree(tmp_path / "chains", tmp_path / "damaged")
    step = 0
    while True:
        step += 1
        shutil.rmtree(tmp_path / "chains")
        shutil.copytree(tmp_path / "damaged", tmp_path / "chains")
        disk = FaultyDisk(tmp_path / "chains", fail_at=step)
        try:
            cut(disk, store, store / "kept1")
            failed = False
        except AteError:
            failed = True
            cut(DISK, store, store / "kept2")
        assert not verify_store(DISK, store).damage
        frames = frames_of(tmp_path / "chains")
        assert len(frames) == 4 or decode_frame(frames[-1]).head.sequence == len(frames)
        rest = b"".join(path.read_bytes() for path in sorted(store.glob("kept*/*")))
        assert all(path.read_bytes() in rest for path in segments(tmp_path / "copy")[2:])
        if not failed:
            break
    assert step > 6


def cut(disk: Disk, store: Path, kept: Path) -> None:
    mending = Mending(disk, store)
    left = mending.fill()
    if left:
        mending.cut(left[0], kept)


def test_after_a_cut_the_clients_bring_back_what_they_have_written(clients: tuple[Pair, Path]) -> None:
    pair, store = clients
    wanted = pair.one.state()
    blobs = {name: pair.one.blob(name) for name in ("b0", "b3")}
    flip(segments(store)[1], 250)
    [hole] = mend(store)[1]
    Mending(DISK, store).cut(hole, store / "damaged")
    del pair.server.frames[hole.before.sequence :]
    for device in (pair.one, pair.two):
        with pytest.raises(AteError, match="it has lost data"):
            device.replica.check_tail(pair.server.tail)
        device.replica.accept_rollback(pair.server.tail)
    for _ in range(8):
        for device in (pair.one, pair.two):
            device.fetch()
            device.send()
    assert pair.one.state() == pair.two.state() == wanted
    assert {name: pair.two.blob(name) for name in blobs} == blobs
