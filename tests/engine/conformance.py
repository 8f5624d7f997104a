"""What every engine promises, whatever it stores chains in: subclass, and say how one is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from atedb.chain.position import START, Position
from atedb.engine.interface import MAX_DOCUMENT, BatchLog, Engine
from atedb.errors import (
    ClosedError,
    FencedError,
    InUseError,
    InvalidError,
    LimitError,
    ReadOnlyError,
    StaleDocumentError,
    StaleError,
    StoreExistsError,
    StoreNotFoundError,
)
from tests.engine.frames import Author

NAME = "you@example.com/vault"
NO_NAMES = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a.chain", "a.chain/b", "a b", "a\0", "a\n", "ü"]
NO_NAMES += ["a/" * 8 + "a", "a" * 128]


class EngineConformance:
    """The suite. An engine that `make` returns for the same folder finds what an earlier one stored there."""

    def make(self, folder: Path) -> Engine:
        """An engine over what lies in `folder`."""
        raise NotImplementedError

    def run(self, folder: Path, body: Callable[[Engine, BatchLog, int, Author], Awaitable[None]]) -> Author:
        """Run `body` with a new chain, a token and an author of frames for it."""
        author = Author()

        async def main() -> None:
            engine = self.make(folder)
            log = await engine.open(NAME, create=author.files)
            await body(engine, log, await log.take(), author)
            await log.aclose()

        trio.run(main)
        return author

    # -- chains

    def test_a_chain_is_there_once_it_was_made_and_not_before(self, tmp_path: Path) -> None:
        async def main() -> None:
            engine, author = self.make(tmp_path), Author()
            assert await engine.names() == []
            with pytest.raises(StoreNotFoundError):
                await engine.open(NAME)
            log = await engine.open(NAME, create=author.files)
            assert (log.tail, log.chain_id) == (START, author.header.chain_id)
            await log.aclose()
            assert await engine.names() == [NAME]
            assert await engine.stored(NAME) > 0
            await (await engine.open(NAME)).aclose()

        trio.run(main)

    def test_creating_again_opens_the_same_chain_and_refuses_to_replace_it_with_another(self, tmp_path: Path) -> None:
        async def main() -> None:
            engine, author = self.make(tmp_path), Author()
            log = await engine.open(NAME, create=author.files)
            await log.append(author.frames(1), START, await log.take())
            await log.aclose()
            with pytest.raises(StoreExistsError):
                await engine.open(NAME, create=Author().files)
            again = await engine.open(NAME, create=author.files)
            assert again.tail == author.at
            await again.aclose()

        trio.run(main)

    def test_a_chain_is_open_once(self, tmp_path: Path) -> None:
        async def body(engine: Engine, _log: BatchLog, _token: int, _author: Author) -> None:
            with pytest.raises(InUseError):
                await engine.open(NAME)

        self.run(tmp_path, body)

    def test_a_header_that_no_root_signed_makes_no_chain(self, tmp_path: Path) -> None:
        async def main() -> None:
            engine, files = self.make(tmp_path), Author().files
            for header in (b"", b"{}", files.header.replace(b'"created": 1', b'"created": 2')):
                with pytest.raises(InvalidError):
                    await engine.open(NAME, create=files._replace(header=header))
            with pytest.raises(LimitError):
                await engine.open(NAME, create=files._replace(keys=bytes(MAX_DOCUMENT + 1)))
            assert await engine.names() == []

        trio.run(main)

    @pytest.mark.parametrize("name", NO_NAMES)
    def test_what_is_no_name_opens_nothing(self, tmp_path: Path, name: str) -> None:
        async def main() -> None:
            with pytest.raises(LimitError):
                await self.make(tmp_path).open(name, create=Author().files)

        trio.run(main)
        assert not list(tmp_path.iterdir())

    def test_one_chain_may_lie_below_the_path_of_another(self, tmp_path: Path) -> None:
        async def main() -> None:
            engine = self.make(tmp_path)
            names = ["a", "a/b", "a/chain", "a/segments", "b"]
            logs = [await engine.open(name, create=Author().files) for name in names]
            assert await engine.names() == names
            for log in logs:
                await log.aclose()

        trio.run(main)

    # -- batches

    def test_what_was_appended_is_read_in_order_also_after_opening_again(self, tmp_path: Path) -> None:
        frames: list[bytes] = []

        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            for size in (10, 5000, 300_000):
                at = author.at
                batch = author.frames(3, size)
                assert await log.append(batch, at, token) == author.at == log.tail
                frames.extend(batch)
            assert await self.everything(log) == frames
            assert await log.read(10, 1000) == []

        author = self.run(tmp_path, body)

        async def again() -> None:
            log = await self.make(tmp_path).open(NAME)
            assert log.tail == author.at
            assert await self.everything(log) == frames
            await log.aclose()

        trio.run(again)

    async def everything(self, log: BatchLog, limit: int = 20_000) -> list[bytes]:
        """All frames, in pieces."""
        found: list[bytes] = []
        while piece := await log.read(len(found) + 1, limit):
            assert len(piece) == 1 or sum(len(frame) for frame in piece) <= limit
            found += piece
        return found

    def test_any_part_of_a_frame_can_be_read(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            frames = author.frames(3, 900)
            await log.append(frames, START, token)
            assert await log.read_range(2, 0, 1 << 30) == frames[1]
            assert await log.read_range(3, 100, 50) == frames[2][100:150]
            assert await log.read_range(3, len(frames[2]) - 5, 50) == frames[2][-5:]
            assert await log.read_range(3, 1 << 30, 50) == b""
            for sequence, offset, length in ((0, 0, 1), (4, 0, 1), (-1, 0, 1), (1, -1, 1), (1, 0, -1)):
                with pytest.raises(InvalidError):
                    await log.read_range(sequence, offset, length)
            with pytest.raises(InvalidError):
                await log.read(0, 10)

        self.run(tmp_path, body)

    def test_an_append_after_anything_but_the_newest_batch_is_refused(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            first, second = author.frame(author.meta("a")), author.frame(author.meta("b"))
            tail = await log.append([first], START, token)
            for expected in (START, Position(1, bytes(32)), Position(2, tail.hash)):
                with pytest.raises(StaleError) as caught:
                    await log.append([second], expected, token)
                assert caught.value.tail == tail
            assert (log.tail, await self.everything(log)) == (tail, [first])
            await log.append([second], tail, token)

        self.run(tmp_path, body)

    def test_frames_that_do_not_follow_each_other_are_refused_all_together(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            one, two, three = author.frames(3)
            cut, longer = one[:-8], one + bytes(8)
            for frames in ([], [one, three], [one, one], [two, one], [one, b""], [cut], [longer], [two], [bytes(999)]):
                with pytest.raises(InvalidError):
                    await log.append(frames, START, token)
                assert log.tail == START
            await log.append([one, two, three], START, token)

        self.run(tmp_path, body)

    def test_appends_that_wait_together_are_each_told_their_own_end(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            ends = {}

            async def append(number: int, frame: bytes, expected: Position) -> None:
                ends[number] = await log.append([frame], expected, token)

            async with trio.open_nursery() as nursery:
                for number in range(1, 21):
                    expected = author.at
                    await self.started(nursery, append, number, author.frames(1)[0], expected)
            assert {number: end.sequence for number, end in ends.items()} == {n: n for n in range(1, 21)}
            assert len(await self.everything(log)) == 20

        self.run(tmp_path, body)

    async def started(self, nursery: trio.Nursery, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task, and let it come as far as it comes without waiting for a thread."""
        nursery.start_soon(task, *args)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    def test_of_two_that_append_at_one_place_one_is_told_of_the_other(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            other = Author(author.header, seed=2)
            told: list[object] = []

            async def append(frame: bytes) -> None:
                try:
                    told.append(await log.append([frame], START, token))
                except StaleError as error:
                    told.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(append, author.frame(author.meta("a")))
                nursery.start_soon(append, other.frame(other.meta("a")))
            [won] = [one for one in told if isinstance(one, Position)]
            [lost] = [one for one in told if isinstance(one, StaleError)]
            assert lost.tail == won == log.tail

        self.run(tmp_path, body)

    def test_who_waits_for_a_batch_hears_of_it_when_it_is_durable(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            heard = []

            async def wait(after: int) -> None:
                heard.append((after, await log.wait_past(after)))

            async with trio.open_nursery() as nursery:
                await self.started(nursery, wait, 0)
                await self.started(nursery, wait, 1)
                one = await log.append(author.frames(1), START, token)
                await trio.testing.wait_all_tasks_blocked()
                assert heard == [(0, one)]
                two = await log.append(author.frames(1), one, token)
            assert heard == [(0, one), (1, two)]
            assert await log.wait_past(0) == two

        self.run(tmp_path, body)

    def test_a_closed_log_says_so_to_whoever_waits_and_to_whoever_asks(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            async def wait() -> None:
                with pytest.raises(ClosedError):
                    await log.wait_past(0)

            async with trio.open_nursery() as nursery:
                await self.started(nursery, wait)
                await log.aclose()
            calls = [log.append(author.frames(1), START, token), log.read(1, 1), log.read_range(1, 0, 1), log.take()]
            calls += [log.wait_past(0), log.document("keys"), log.put_document("keys", b"", 0, token)]
            for call in calls:
                with pytest.raises(ClosedError):
                    await call
            await log.aclose()

        self.run(tmp_path, body)

    def test_the_segments_cover_the_chain(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            [empty] = await log.segments()
            assert (empty.first, empty.last, empty.sealed) == (1, 0, False)
            await log.append(author.frames(5), START, token)
            segments = await log.segments()
            assert [(s.first, s.last) for s in segments[:1]] == [(1, 5)]
            assert await log.segments(6) == segments[-1:]
            assert await log.free_bytes() > 0

        self.run(tmp_path, body)

    # -- fencing

    def test_a_newer_token_shuts_out_every_older_one_also_after_opening_again(self, tmp_path: Path) -> None:
        first: list[int] = []

        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            newer = await log.take()
            assert newer > token
            frames = author.frames(1)
            for old in (token, 0, newer + 1):
                with pytest.raises(FencedError):
                    await log.append(frames, START, old)
                with pytest.raises(FencedError):
                    await log.put_document("keys", b"", 0, old)
            await log.append(frames, START, newer)
            first.append(newer)

        author = self.run(tmp_path, body)

        async def again() -> None:
            log = await self.make(tmp_path).open(NAME)
            newest = await log.take()
            assert newest > first[0]
            with pytest.raises(FencedError):
                await log.append(author.frames(1), log.tail, first[0])
            await log.aclose()

        trio.run(again)

    # -- documents

    def test_a_document_is_replaced_only_by_who_has_read_it(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            assert await log.document("chain") == (author.files.header, (await log.document("chain"))[1])
            assert await log.document("leases") == (b"", 0)
            keys, generation = await log.document("keys")
            assert keys == author.files.keys
            newer = await log.put_document("keys", b"new slots", generation, token)
            assert newer not in (generation, 0)
            assert await log.document("keys") == (b"new slots", newer)
            for old in (generation, 0, newer + 1):
                with pytest.raises(StaleDocumentError):
                    await log.put_document("keys", b"other", old, token)
            with pytest.raises(StaleDocumentError):
                await log.put_document("leases", b"x", 1, token)
            await log.put_document("leases", b"x", 0, token)
            with pytest.raises(StaleDocumentError):
                await log.put_document("leases", b"y", 0, token)

        self.run(tmp_path, body)

        async def again() -> None:
            log = await self.make(tmp_path).open(NAME)
            assert (await log.document("keys"))[0] == b"new slots"
            assert (await log.document("leases"))[0] == b"x"
            await log.aclose()

        trio.run(again)

    def test_the_header_stays_and_what_is_no_document_is_refused(self, tmp_path: Path) -> None:
        async def body(_engine: Engine, log: BatchLog, token: int, author: Author) -> None:
            with pytest.raises(ReadOnlyError):
                await log.put_document("chain", b"x", (await log.document("chain"))[1], token)
            with pytest.raises(LimitError):
                await log.put_document("keys", bytes(MAX_DOCUMENT + 1), 0, token)
            for name in ("", "../keys", "Keys", "a/b", "a.b", "x" * 33, "keys\n"):
                with pytest.raises(InvalidError):
                    await log.document(name)
                with pytest.raises(InvalidError):
                    await log.put_document(name, b"", 0, token)
            assert (await log.document("chain"))[0] == author.files.header

        self.run(tmp_path, body)
