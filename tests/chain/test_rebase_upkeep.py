"""What a rebase writes and leaves: no more with every rebase."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from atedb.chain import log as log_module
from atedb.chain import verify as verify_module
from atedb.chain.disk import Buffer, RealDisk, RealFile
from atedb.chain.slim import slim_frame
from atedb.chain.verify import verify_log
from atedb.chain.walk import segment_numbers
from tests.chain.conftest import ROOT, noise
from tests.chain.followed import mine_wins
from tests.chain.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def contend(world: World, rounds: int) -> None:
    """Both write something each time, and `one` finds that `two` was first."""
    one, two = world["one"], world["two"]
    for i in range(rounds):
        two.put(**{f"two{i % 5}": str(i)})
        two.sync()
        one.put(**{f"one{i % 5}": str(i)})
        assert one.replica.pending_count
        one.sync()


def prepared(world: World) -> None:
    world["one"].put(a="1")
    world["one"].put_blob("blob", noise(100_000))
    world["one"].sync()
    world["two"].sync()


def test_rebases_leave_no_segments_behind(world: World) -> None:
    prepared(world)
    for _ in range(4):
        contend(world, 15)
        one = world.again("one", clean=False)
        assert segment_numbers(one.chain._disk, one.chain.store) == [1]
    world["two"].sync()
    assert world["one"].state() == world["two"].state()
    assert len(world["one"].state()) == 11
    report = verify_log(world.folder / "one" / "store", ROOT, data=True)
    assert (report.damage, report.segments) == ([], 1)


def test_without_joining_each_leaves_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "JOIN_MOST", 0)
    prepared(world)
    contend(world, 15)
    one = world["one"]
    assert len(segment_numbers(one.chain._disk, one.chain.store)) == 16


def test_what_a_rebase_writes_does_not_depend_on_the_rebases_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write, replace = RealFile.write, RealDisk.replace

    def counted(file: RealFile, buffers: Sequence[Buffer], offset: int) -> None:
        written.append(sum(map(len, buffers)))
        write(file, buffers, offset)

    def counted_whole(disk: RealDisk, path: Path, data: bytes) -> None:
        written.append(len(data))
        replace(disk, path, data)

    prepared(world)
    contend(world, 5)
    one, two = world["one"], world["two"]
    sizes = []
    for i in range(30):
        two.put(b=str(i))
        two.sync()
        one.put(c=str(i))
        one.chain.barrier()
        frames = one.server.frames[one.replica.acked.sequence :]
        rest = one.replica.receive([slim_frame(frame) for frame in frames], one.note)
        with monkeypatch.context() as counting:
            counting.setattr(RealFile, "write", counted)
            counting.setattr(RealDisk, "replace", counted_whole)
            written.clear()
            one.replica.rebase(rest, mine_wins, one.note)
        batches = sum(map(len, rest)) + one.replica.pending_bytes
        sizes.append(sum(written) - 2 * batches)
        assert one.send()
    assert max(sizes) - min(sizes) <= 64
    assert max(sizes) < 2048  # two manifests, two notes, the header of a segment, and what is remembered of the head


def sound_meanwhile(world: World) -> bool:
    """Whether a log seems sound while a rebase replaces the end of it that is just being read."""
    prepared(world)
    one, two = world["one"], world["two"]
    one.put(b="1")
    one.put(b="2")
    one.chain.barrier()
    two.put(**{f"two{i}": "2" for i in range(20)})
    two.sync()
    pending = one.replica.acked.sequence + 1
    read: list[int] = []

    def progress(done: int, _whole: int) -> None:
        read.append(done)
        if len(read) == pending:  # when the first of the batches that will be replaced has been read
            one.fetch()

    report = verify_log(world.folder / "one" / "store", ROOT, data=True, progress=progress)
    assert len(read) >= pending
    return (report.damage, report.tail, report.sequence) == ([], None, one.chain.head.sequence)


def test_a_log_that_is_rebased_while_it_is_verified_is_sound(world: World) -> None:
    assert sound_meanwhile(world)


def test_read_but_once_it_seems_not_to_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "TRIES", 1)
    assert not sound_meanwhile(world)
