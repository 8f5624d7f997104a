"""The blind index: what it knows after any history, and that it is never believed beyond its log."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import trio

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.event import Change, Lane, no_terms
from atedb.chain.files import ChainFiles
from atedb.chain.format import EVENT_SIZE, TOMBSTONE
from atedb.chain.frame import decode_frame
from atedb.engine.files import FileEngine
from atedb.errors import DamagedError, NoSpaceError
from atedb.node import index as index_module
from atedb.node.host import ChainHost, HostStats
from atedb.node.hosts import Hosts
from tests.engine.frames import ROOT, Author
from tests.node.chains import PATH, make_hosts


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 20_000)
    monkeypatch.setattr(index_module, "FOLD_ROWS", 10)


def history(author: Author, seed: int, count: int) -> list[bytes]:
    """Batches that make, replace and end objects on both lanes."""
    rng = random.Random(seed)
    frames = []
    for _ in range(count):
        names = rng.sample([f"{lane}{n}" for lane in "mb" for n in range(12)], rng.randint(1, 6))
        changes = []
        for name in names:
            lane = Lane.META if name[0] == "m" else Lane.BLOB
            size = rng.choice([1, 50, 900])
            changes.append(
                author.end(name, lane) if rng.random() < 0.3 else Change(author.key(name), lane, rng.randbytes(size))
            )
        frames.append(author.frame(*changes))
    return frames


def expected(frames: list[bytes]) -> tuple[list[int], list[int], list[int]]:
    """By lane: live objects, live bytes, all bytes; counted from the frames alone."""
    newest: dict[bytes, tuple[int, int, int]] = {}
    total = [0, 0]
    for data in frames:
        for event in decode_frame(data).events:
            newest[event.key] = event.lane, event.length + EVENT_SIZE, event.flags
            total[event.lane] += event.length + EVENT_SIZE
    objects, live = [0, 0], [0, 0]
    for lane, size, flags in newest.values():
        objects[lane] += not flags & TOMBSTONE
        live[lane] += size
    return objects, live, total


def seen(stats: HostStats) -> tuple[list[int], list[int], list[int]]:
    """The same as a node counts it."""
    lanes = (stats.meta, stats.blob)
    return [lane.objects for lane in lanes], [lane.live for lane in lanes], [lane.total for lane in lanes]


async def send(host: ChainHost, frames: list[bytes]) -> None:
    """Append in groups."""
    for at in range(0, len(frames), 3):
        await host.append("client", frames[at : at + 3])
        await host.fold_if_due()


def run(folder: Path, frames: list[bytes], author: Author, *, killed: bool = False) -> HostStats:
    """Append to the author's chain; what the node knows afterwards."""

    async def main() -> HostStats:
        hosts = make_hosts(folder)
        async with hosts.open(PATH, create=author.files) as host:
            await send(host, frames)
            stats = host.stats()
            if killed:
                host._index.close()
                host._log._undo.close()  # type: ignore[attr-defined]
        if not killed:
            await hosts.aclose()
        return stats

    return trio.run(main)


def reopened(folder: Path) -> HostStats:
    """What a node knows that has just started."""

    async def main() -> HostStats:
        hosts = make_hosts(folder)
        async with hosts.open(PATH) as host:
            stats = host.stats()
        await hosts.aclose()
        return stats

    return trio.run(main)


@pytest.mark.parametrize("seed", range(4))
def test_objects_and_live_and_dead_bytes_are_those_of_the_log_after_any_history(tmp_path: Path, seed: int) -> None:
    author = Author()
    frames = history(author, seed, 80)
    stats = run(tmp_path, frames, author)
    assert seen(stats) == expected(frames)
    assert (stats.tail, stats.devices) == (author.at, 1)
    assert seen(reopened(tmp_path)) == expected(frames)


def test_live_and_dead_bytes_are_known_for_each_segment(tmp_path: Path) -> None:
    author = Author()
    frames = history(author, 9, 80)

    async def main() -> None:
        hosts = make_hosts(tmp_path)
        async with hosts.open(PATH, create=author.files) as host:
            await send(host, frames)
            segments = await host._log.segments()
            uses = host._index.state.segments
            assert len(segments) > 3
            assert [use.number for use in uses] == [segment.number for segment in segments]
            newest = {event.key: n for n, data in enumerate(frames, 1) for event in decode_frame(data).events}
            for segment, use in zip(segments, uses, strict=True):
                for lane in (0, 1):
                    events = [
                        (n, event)
                        for n in range(segment.first, segment.last + 1)
                        for event in decode_frame(frames[n - 1]).events
                        if event.lane == lane
                    ]
                    assert use.lanes[lane].total == sum(event.length + EVENT_SIZE for _, event in events)
                    live = [event for n, event in events if newest[event.key] == n]
                    assert use.lanes[lane].live == sum(event.length + EVENT_SIZE for event in live)
        await hosts.aclose()

    trio.run(main)


@pytest.mark.parametrize("folds", [1, 10, 1000])
def test_after_a_crash_the_index_is_brought_up_to_date_from_the_log(
    tmp_path: Path, folds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "FOLD_ROWS", folds)
    author = Author()
    frames = history(author, 1, 40)
    run(tmp_path, frames, author, killed=True)
    assert seen(reopened(tmp_path)) == expected(frames)


def damage_index(folder: Path, how: str) -> None:
    """Change what lies in the folder of the only index."""
    [index] = (folder / "index").iterdir()
    data = index / "data.mdb"
    if how == "flipped":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(bytes(content))
    elif how == "cut":
        data.write_bytes(data.read_bytes()[:5000])
    elif how == "no file":
        data.unlink()
    elif how == "no seal":
        (index / "seal").unlink()
    elif how == "bad seal":
        (index / "seal").write_bytes(b"{}\n")
    else:
        shutil.rmtree(index)


@pytest.mark.parametrize("how", ["flipped", "cut", "no file", "no seal", "bad seal", "nothing"])
def test_an_index_that_is_damaged_or_missing_is_made_anew(tmp_path: Path, how: str) -> None:
    author = Author()
    frames = history(author, 2, 40)
    run(tmp_path, frames, author)
    damage_index(tmp_path, how)
    assert seen(reopened(tmp_path)) == expected(frames)
    more = history(author, 3, 10)
    run(tmp_path, more, author)
    assert seen(reopened(tmp_path)) == expected(frames + more)


@pytest.mark.expect_log("made anew")
@pytest.mark.parametrize("longer", [False, True])
def test_an_index_of_another_history_is_not_believed(tmp_path: Path, longer: bool) -> None:
    author = Author()
    frames = history(author, 2, 12)
    run(tmp_path / "a", frames, author)
    other = Author(author.header, seed=2)
    others = history(other, 3, 30 if longer else 12)
    run(tmp_path / "b", others, other)
    shutil.rmtree(tmp_path / "a" / "index")
    shutil.copytree(tmp_path / "b" / "index", tmp_path / "a" / "index")
    assert seen(reopened(tmp_path / "a")) == expected(frames)


def test_a_log_with_a_batch_that_nobody_was_allowed_to_append_opens_nothing(tmp_path: Path) -> None:
    author = Author()
    stranger = Author(author.header, seed=5)

    async def main() -> None:
        engine = FileEngine(RealDisk(), tmp_path / "chains")
        log = await engine.open(PATH[1:], create=author.files)
        frame = stranger.frame(stranger.meta("a"), certified=False)
        await log.append([frame], log.tail, await log.take())
        await log.aclose()
        hosts = Hosts(engine, tmp_path / "index")
        with pytest.raises(DamagedError):
            async with hosts.open(PATH):
                pass
        await hosts.aclose()

    trio.run(main)


def test_the_index_is_not_rebuilt_when_nothing_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = Author()
    run(tmp_path, history(author, 2, 40), author)

    def rebuilt(*_: object) -> None:
        raise AssertionError("rebuilt")

    monkeypatch.setattr("atedb.node.catching._take_up", rebuilt)
    monkeypatch.setattr(index_module.Index, "clear", rebuilt)
    monkeypatch.setattr(index_module.Index, "fold", rebuilt)
    assert reopened(tmp_path).tail == author.at


def test_while_the_index_is_folded_appends_go_on_and_a_failed_fold_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author()
    frames = history(author, 4, 60)
    write = index_module.Fold.write
    failing = iter([True, False, True, True])

    def sometimes(fold: index_module.Fold) -> None:
        if next(failing, False):
            raise NoSpaceError("full")
        write(fold)

    monkeypatch.setattr(index_module.Fold, "write", sometimes)

    async def main() -> HostStats:
        hosts = make_hosts(tmp_path)
        async with hosts.open(PATH, create=author.files) as host, trio.open_nursery() as nursery:

            async def folding() -> None:
                while True:
                    try:
                        await host.fold_if_due()
                    except NoSpaceError:
                        pass
                    await trio.sleep(0)

            nursery.start_soon(folding)
            for frame in frames:
                await host.append("client", [frame])
            stats = host.stats()
            nursery.cancel_scope.cancel()
        await hosts.aclose()
        return stats

    assert seen(trio.run(main)) == expected(frames)
    assert seen(reopened(tmp_path)) == expected(frames)


def test_a_node_counts_what_a_client_counts_of_its_own_chain(tmp_path: Path) -> None:
    chain = Chain.create(tmp_path / "store", ROOT)
    rng = random.Random(3)
    for _ in range(30):
        changes = [
            Change(chain.object_key(b"T", bytes([n])), Lane(n % 2), rng.randbytes(200), tombstone=rng.random() < 0.3)
            for n in rng.sample(range(20), 4)
        ]
        chain.commit(changes)
    chain.barrier()
    live, stored = chain.live_bytes, chain.stored_bytes
    objects = [chain.object_count(lane) for lane in Lane]
    chain.close()

    async def main() -> HostStats:
        source = await FileEngine(RealDisk(), tmp_path).open("source", create=None)
        frames: list[bytes] = []
        while piece := await source.read(len(frames) + 1, 50_000):
            frames += piece
        files = ChainFiles((await source.document("chain"))[0], b"slots")
        await source.aclose()
        hosts = make_hosts(tmp_path / "node")
        async with hosts.open(PATH, create=files) as host:
            await host.append("client", frames)
            stats = host.stats()
        await hosts.aclose()
        return stats

    shutil.copytree(tmp_path / "store", tmp_path / "source.chain")
    stats = trio.run(main)
    assert [stats.meta.objects, stats.blob.objects] == objects
    assert (stats.meta.live + stats.blob.live, stats.meta.total + stats.blob.total) == (live, stored)
    again = Chain.open(tmp_path / "node" / "chains" / f"{PATH[1:]}.chain", ROOT, terms=no_terms)
    assert (again.head.sequence, again.live_bytes) == (stats.tail.sequence, live)
    again.close()
