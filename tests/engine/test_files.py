"""The embedded engine: the suite that all engines pass, and what concerns its files."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from atedb.chain import log as log_module
from atedb.chain.disk import RealDisk
from atedb.chain.position import START
from atedb.chain.verify import verify_log
from atedb.engine.filelog import FileLog
from atedb.engine.files import FileEngine
from atedb.errors import DamagedError, ReadOnlyError, StaleError, StorageError, StoreNotFoundError
from tests.engine.conformance import NAME, EngineConformance
from tests.engine.frames import Author

STORE = f"{NAME}.chain"
ACTIVE = f"{STORE}/segments/00000001.seg"


class TestFiles(EngineConformance):
    """Files pass the suite."""

    def make(self, folder: Path) -> FileEngine:
        """Chains in a folder."""
        return FileEngine(RealDisk(), folder)


class TestSmallSegments(TestFiles):
    """Files pass the suite with a segment for every few batches."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log_module, "SEGMENT_TARGET", 2000)


def opened(folder: Path, body: Callable[[FileLog], Awaitable[None]]) -> None:
    """Run `body` with the chain that lies in `folder`."""

    async def main() -> None:
        log = await FileEngine(RealDisk(), folder).open(NAME)
        await body(log)
        await log.aclose()

    trio.run(main)


def stored(folder: Path, count: int = 5, *, killed: bool = False) -> Author:
    """A chain of so many batches in `folder`, each appended alone. killed: the process did not close it."""
    author = Author()

    async def main() -> None:
        log = await FileEngine(RealDisk(), folder).open(NAME, create=author.files)
        token = await log.take()
        for _ in range(count):
            expected = author.at
            await log.append(author.frames(1, 500), expected, token)
        if killed:
            log._undo.close()
        else:
            await log.aclose()

    trio.run(main)
    return author


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


async def all_sequences(log: FileLog, expected: int) -> None:
    """Every batch can be read."""
    found = 0
    while frames := await log.read(found + 1, 1500):
        found += len(frames)
    assert found == expected


def frame_ends(folder: Path) -> list[int]:
    """Where the frames of the first segment end."""
    ends: list[int] = []

    async def body(log: FileLog) -> None:
        at = 128
        for frame in await log.read(1, 1 << 20):
            at += len(frame)
            ends.append(at)

    copy = folder.with_name(folder.name + "-copy")
    shutil.copytree(folder, copy)
    opened(copy, body)
    return ends


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_changed_batch_that_was_acknowledged_is_damage_and_is_not_cut_off(
    tmp_path: Path, number: int, killed: bool
) -> None:
    stored(tmp_path / "x", killed=killed)
    end = frame_ends(tmp_path / "x")[number - 1]
    segment = tmp_path / "x" / ACTIVE
    flip(segment, end - 100)
    (tmp_path / "x" / STORE / "tail").unlink()  # with it, only what comes after it would be looked at
    before = segment.read_bytes()
    with pytest.raises(DamagedError, match=f"batch {number} was acknowledged"):
        opened(tmp_path / "x", lambda log: all_sequences(log, 5))
    assert segment.read_bytes() == before


@pytest.mark.expect_log("torn tail")
def test_without_the_records_of_what_was_acknowledged_the_same_batch_would_be_cut_off(tmp_path: Path) -> None:
    stored(tmp_path / "x", killed=True)
    flip(tmp_path / "x" / ACTIVE, frame_ends(tmp_path / "x")[2] - 100)
    for name in ("tail", "places"):
        (tmp_path / "x" / STORE / name).unlink()
    opened(tmp_path / "x", lambda log: all_sequences(log, 2))


@pytest.mark.parametrize("note", [True, False])
def test_a_segment_that_was_cut_short_is_damage(tmp_path: Path, note: bool) -> None:
    stored(tmp_path / "x")
    ends = frame_ends(tmp_path / "x")
    with (tmp_path / "x" / ACTIVE).open("r+b") as file:
        file.truncate(ends[3])
    (tmp_path / "x" / STORE / ("places" if note else "tail")).unlink()
    with pytest.raises(DamagedError):
        opened(tmp_path / "x", lambda log: all_sequences(log, 5))


def test_an_older_segment_with_another_length_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 2000)
    stored(tmp_path)
    path = tmp_path / ACTIVE
    path.write_bytes(path.read_bytes() + bytes(8))
    with pytest.raises(DamagedError, match="segment 1"):
        opened(tmp_path, lambda log: all_sequences(log, 5))


@pytest.mark.expect_log("torn tail")
def test_what_a_crash_left_of_a_batch_is_cut_off(tmp_path: Path) -> None:
    author = stored(tmp_path, killed=True)
    with (tmp_path / ACTIVE).open("r+b") as file:
        file.seek(-8, 2)
        file.truncate()
    segment = tmp_path / ACTIVE
    whole = segment.read_bytes().rstrip(b"\0")
    frame = author.frame(author.meta("new", bytes(300)))
    segment.write_bytes(whole + bytes(-len(whole) % 8) + frame[:200])
    opened(tmp_path, lambda log: all_sequences(log, 5))


@pytest.mark.parametrize("segments", [2000, 256 << 20])
@pytest.mark.parametrize("what", ["missing", "zeros", "noise", "short"])
def test_every_batch_is_found_without_the_records_of_places(
    tmp_path: Path, what: str, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", segments)
    stored(tmp_path, 12)
    places = tmp_path / STORE / "places"
    size = places.stat().st_size
    if what == "missing":
        places.unlink()
    else:
        places.write_bytes({"zeros": bytes(size), "noise": bytes(range(256)) * (size // 256), "short": b""}[what])
    opened(tmp_path, lambda log: all_sequences(log, 12))
    opened(tmp_path, lambda log: all_sequences(log, 12))


def test_damage_is_named_when_the_batch_is_read(tmp_path: Path) -> None:
    stored(tmp_path / "x")
    flip(tmp_path / "x" / ACTIVE, frame_ends(tmp_path / "x")[1] + 4)

    async def body(log: FileLog) -> None:
        assert len(await log.read(1, 900)) == 1
        with pytest.raises(DamagedError, match="segment 1"):
            await log.read(3, 10)
        with pytest.raises(DamagedError, match="segment 1"):
            await log.read_range(3, 0, 10)

    opened(tmp_path / "x", body)


@pytest.mark.parametrize("create", [False, True])
def test_a_chain_whose_header_is_missing_is_damaged_and_not_made_anew(tmp_path: Path, create: bool) -> None:
    author = stored(tmp_path)
    (tmp_path / STORE / "chain").unlink()

    async def main() -> None:
        with pytest.raises(DamagedError):
            await FileEngine(RealDisk(), tmp_path).open(NAME, create=author.files if create else None)

    trio.run(main)
    (tmp_path / STORE / "chain").write_bytes(author.files.header)
    opened(tmp_path, lambda log: all_sequences(log, 5))


def test_a_creation_that_was_cut_short_is_no_chain_and_can_be_done_again(tmp_path: Path) -> None:
    author = stored(tmp_path, 0)
    (tmp_path / STORE / "chain").unlink()

    async def main() -> None:
        engine = FileEngine(RealDisk(), tmp_path)
        assert await engine.names() == []
        with pytest.raises(StoreNotFoundError):
            await engine.open(NAME)
        await (await engine.open(NAME, create=author.files)).aclose()

    trio.run(main)


def test_opening_reads_what_came_after_the_last_note_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path, 300)
    read: list[int] = []
    real = RealDisk.open

    def counting(disk: RealDisk, path: Path, *, writable: bool = False) -> object:
        file = real(disk, path, writable=writable)
        plain = file.read

        def count(length: int, offset: int) -> bytearray:
            data = plain(length, offset)
            read.append(len(data))
            return data

        file.read = count  # type: ignore[method-assign]
        return file

    monkeypatch.setattr(RealDisk, "open", counting)

    async def nothing(_log: FileLog) -> None:
        return

    opened(tmp_path, nothing)
    assert sum(read) < 1000


def test_appends_that_wait_together_share_a_barrier(tmp_path: Path) -> None:
    author = Author()

    async def main() -> None:
        log = await FileEngine(RealDisk(), tmp_path).open(NAME, create=author.files)
        token = await log.take()
        barriers = log._log.barriers
        async with trio.open_nursery() as nursery, log._turn:  # as when a barrier is under way
            for _ in range(50):
                expected = author.at
                nursery.start_soon(log.append, author.frames(1), expected, token)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        assert log._log.barriers == barriers + 1
        await log.aclose()

    trio.run(main)
    opened(tmp_path, lambda log: all_sequences(log, 50))


def test_a_cancelled_append_has_happened_whole_or_not_at_all(tmp_path: Path) -> None:
    author = Author()

    async def main() -> None:
        log = await FileEngine(RealDisk(), tmp_path).open(NAME, create=author.files)
        token = await log.take()
        first, second = author.frames(2), author.frames(2)

        async def append(frames: list[bytes], number: int) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await log.append(frames, START if number == 0 else middle, token)

        middle = (await reference(first)).tail
        scopes: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, first, 0)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.start_soon(append, second, 1)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            for scope in scopes:
                scope.cancel()
        assert log.tail == middle  # the first was with the disk already; the second still waited
        with pytest.raises(StaleError):
            await log.append(first, START, token)
        await log.append(second, middle, token)
        await log.aclose()

    async def reference(frames: list[bytes]) -> FileLog:
        log = await FileEngine(RealDisk(), tmp_path / "other").open(NAME, create=author.files)
        await log.append(frames, START, await log.take())
        await log.aclose()
        return log

    trio.run(main)


def test_a_failed_barrier_ends_all_changes_and_a_new_opening_starts_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = stored(tmp_path)

    async def body(log: FileLog) -> None:
        token = await log.take()

        def fail() -> None:
            raise StorageError("no")

        before = log.tail
        monkeypatch.setattr(log._log, "barrier", fail)
        expected = author.at
        frames = author.frames(1)
        with pytest.raises(StorageError):
            await log.append(frames, expected, token)
        with pytest.raises(ReadOnlyError):
            await log.append(frames, expected, token)
        assert log.tail == before
        assert await log.read(before.sequence + 1, 10) == []

    opened(tmp_path, body)
    opened(tmp_path, lambda log: all_sequences(log, 6))


def test_an_append_whose_place_cannot_be_recorded_still_has_its_barrier_and_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = stored(tmp_path, 3)

    async def body(log: FileLog) -> None:
        def fail(*_: object) -> None:
            raise StorageError("no")

        token, barriers = await log.take(), log._log.barriers
        monkeypatch.setattr(log._places, "put", fail)
        expected = author.at
        assert await log.append(author.frames(1), expected, token) == author.at == log.tail
        assert log._log.barriers == barriers + 1
        assert len(await log.read(4, 10)) == 1

    opened(tmp_path, body)
    opened(tmp_path, lambda log: all_sequences(log, 4))


@pytest.mark.expect_log("could not be noted")
def test_an_append_is_acknowledged_even_if_the_newest_batch_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = stored(tmp_path, 3)

    async def body(log: FileLog) -> None:
        def fail() -> None:
            raise StorageError("no")

        token, expected = await log.take(), author.at
        with monkeypatch.context() as patch:
            patch.setattr(log, "_note", fail)
            assert await log.append(author.frames(1), expected, token) == author.at

    opened(tmp_path, body)
    opened(tmp_path, lambda log: all_sequences(log, 4))


def test_the_folder_of_a_chain_is_a_store_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 2000)
    stored(tmp_path)
    report = verify_log(tmp_path / STORE, None, data=True)
    assert (report.damage, report.batches) == ([], 5)
