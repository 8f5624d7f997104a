"""What clients are given to read: slim frames without a look at the blobs, and single bodies, in bounded pieces."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from atedb.chain.event import Lane
from atedb.chain.frame import decode_frame
from atedb.chain.slim import sealed_body, slim_frame
from atedb.errors import (
    InvalidError,
    LimitError,
)
from atedb.node import host as host_module
from atedb.node.host import ChainHost
from tests.engine.frames import Author
from tests.node.chains import with_chain


def test_single_bodies_are_served_in_the_order_in_which_they_were_asked_for(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frames = [
            author.frame(*[author.blob(f"{n}/{i}", bytes([i]) * (100 + 3000 * i)) for i in range(12)], author.meta("m"))
            for n in range(4)
        ]
        for frame in frames:
            await host.append("client", [frame])
        wanted = [(2, 3), (2, 4), (2, 11), (1, 0), (4, 12), (4, 2), (4, 1), (2, 3), (2, 3)]
        expected = []
        for sequence, place in wanted:
            expected.append(sealed_body(decode_frame(frames[sequence - 1]), frames[sequence - 1], place))
        assert await host.bodies(wanted, limit=1 << 20) == expected
        assert await host.bodies(wanted, limit=1) == expected[:1]
        for count in range(1, len(expected) + 1):
            size = sum(map(len, expected[:count]))
            assert await host.bodies(wanted, limit=size) == expected[:count]
        assert await host.bodies([], limit=1) == []
        for bad in ((0, 0), (5, 0), (1, 13), (1, -1), (-1, 0)):
            with pytest.raises(InvalidError):
                await host.bodies([(1, 0), bad], limit=1 << 20)

    with_chain(tmp_path, body)


def test_more_bodies_than_a_request_may_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "MAX_WANTED", 100)

    async def body(host: ChainHost, author: Author) -> None:
        await host.append("client", [author.frame(author.blob("a", bytes(4000)))])
        assert len(await host.bodies([(1, 0)] * 100, limit=1 << 20)) == 100
        with pytest.raises(LimitError):
            await host.bodies([(1, 0)] * 101, limit=1 << 20)

    with_chain(tmp_path, body)


def test_slim_frames_are_the_same_whether_the_frame_is_small_or_large_and_whether_it_is_recent(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frames = [
            author.frame(author.meta("a", bytes(700)), author.blob("b", bytes(size)), author.meta("c"),
                         author.blob("d", bytes(size // 2)), author.end("x", Lane.BLOB))
            for size in (10, 1001, 40_000, 90_001, 500_000)
        ]  # fmt: skip
        frames.append(author.frame(*[author.meta(f"m{n}", bytes(100)) for n in range(3000)]))
        frames.append(author.frame(*[author.meta(f"m{n}") for n in range(1500)], author.blob("e", bytes(99))))
        slim = [slim_frame(frame) for frame in frames]
        async with aclosing(host.follow(1)) as following:
            for frame in frames:
                await host.append("client", [frame])
            got: list[bytes] = []
            async for piece in following:
                assert isinstance(piece, list)
                got += piece
                if len(got) == len(slim):
                    break
        assert got == slim
        for limit in (1, 3000, 1 << 20):
            found: list[bytes] = []
            while piece := await host.read(len(found) + 1, limit, slim=True):
                assert len(piece) == 1 or sum(len(frame) for frame in piece) <= limit
                found += piece
            assert found == slim

    with_chain(tmp_path, body)


def test_a_slim_read_of_a_large_frame_does_not_read_its_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        blobs = [author.blob(f"b{n}", bytes(100_000)) for n in range(20)]
        frame = author.frame(author.meta("a"), *blobs, author.meta("c"))
        await host.append("client", [frame])
        read = 0
        plain = host._log.read_range

        async def counting(sequence: int, offset: int, length: int) -> bytes:
            nonlocal read
            data = await plain(sequence, offset, length)
            read += len(data)
            return data

        monkeypatch.setattr(host._log, "read_range", counting)
        assert await host.read(1, 1, slim=True) == [slim_frame(frame)]
        assert read < 100_000 < len(frame)

    with_chain(tmp_path, body)
