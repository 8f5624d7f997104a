"""Whoever follows a chain and appends to it gets no batch back: the server says only where each has its place."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from atedb.chain.position import START, Position
from atedb.chain.slim import slim_frame
from atedb.net.client import ServerConnection
from atedb.node.authors import Authors
from atedb.node.host import ChainHost
from atedb.testing.links import Link
from tests.engine.frames import Author, position_of
from tests.net.wire import PATH, ListChain, Node, connected
from tests.node.chains import with_chain


@asynccontextmanager
async def client(host: ChainHost, link: Link | None = None) -> AsyncIterator[ServerConnection]:
    async with connected(Node(chains={PATH: cast(ListChain, host)}), link) as connection:
        yield connection


class Reader:
    """Follows over a connection, and keeps what comes: frames, and the places of what is one's own."""

    def __init__(self, connection: ServerConnection, nursery: trio.Nursery) -> None:
        self.connection = connection
        self.mine: dict[int, bytes] = {}
        self.got: list[bytes] = []
        self.at = START
        nursery.start_soon(self._follow)

    async def append(self, *frames: bytes) -> None:
        for frame in frames:
            self.mine[position_of(frame).sequence] = slim_frame(frame)
        await self.connection.append(frames)

    async def _follow(self) -> None:
        async for news in self.connection.follow(1):
            if isinstance(news, Position):
                assert news.sequence > self.at.sequence
                self.got += [self.mine[number] for number in range(self.at.sequence + 1, news.sequence + 1)]
                assert position_of(self.got[-1]) == news
            else:
                assert not [frame for frame in news if frame in self.mine.values()]
                self.got += news
            self.at = position_of(self.got[-1])
            assert self.at.sequence == len(self.got)


@pytest.mark.parametrize("seed", range(3))
def test_all_who_follow_have_one_order_of_all_batches_and_get_none_of_their_own(tmp_path: Path, seed: int) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        rng = random.Random(seed)
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(client(host)) for _ in range(3)]
            nursery = await stack.enter_async_context(trio.open_nursery())
            readers = [Reader(connection, nursery) for connection in connections]
            await trio.testing.wait_all_tasks_blocked()
            sent: list[bytes] = []
            for _ in range(60):
                frames = [author.frame(author.meta("a"), author.blob("b")) for _ in range(rng.randint(1, 3))]
                sent += frames
                await rng.choice(readers).append(*frames)
                if rng.random() < 0.3:
                    await trio.testing.wait_all_tasks_blocked()
            await trio.testing.wait_all_tasks_blocked()
            for reader in readers:
                assert reader.mine
                assert reader.got == [slim_frame(frame) for frame in sent]
            nursery.cancel_scope.cancel()

    with_chain(tmp_path, body)


def test_what_was_appended_before_one_follows_is_given_like_any_other_batch(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        async with client(host) as connection:
            frames = author.frames(3)
            await connection.append(frames)
            assert await anext(connection.follow(1)) == frames

    with_chain(tmp_path, body)


def bytes_back(tmp_path: Path) -> float:
    """Bytes that a server sends for each batch of 2 KiB of metadata that its only client appends."""
    counted: list[int] = []

    async def body(host: ChainHost, author: Author) -> None:
        link = Link()
        async with client(host, link) as connection, trio.open_nursery() as nursery:
            reader = Reader(connection, nursery)
            await trio.testing.wait_all_tasks_blocked()
            before = sum(map(len, link.sent[1]))
            for frame in author.frames(50, 2048):
                await reader.append(frame)
            await trio.testing.wait_all_tasks_blocked()
            assert reader.at == author.at
            counted.append(sum(map(len, link.sent[1])) - before)
            nursery.cancel_scope.cancel()

    with_chain(tmp_path, body)
    return counted[0] / 50


def test_what_one_appends_costs_next_to_nothing_on_the_way_back(tmp_path: Path) -> None:
    assert bytes_back(tmp_path) < 150


def test_if_nobody_noted_whose_it_is_it_costs_as_much_as_on_the_way_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Authors, "add", lambda *_: None)
    monkeypatch.setattr(Reader, "_follow", _whole)
    assert bytes_back(tmp_path) > 2048


async def _whole(reader: Reader) -> None:
    async for news in reader.connection.follow(1):
        assert isinstance(news, list)
        reader.got += news
        reader.at = position_of(reader.got[-1])


def test_a_long_row_of_own_batches_is_one_piece_of_news_for_whoever_takes_nothing_up(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        async with client(host) as connection:
            following = connection.follow(1)
            await trio.testing.wait_all_tasks_blocked()
            for frame in author.frames(100):
                await connection.append([frame])
            await trio.testing.wait_all_tasks_blocked()
            assert len(following._waiting) == 1
            assert await anext(following) == author.at

    with_chain(tmp_path, body)


def test_what_is_forgotten_or_somebody_elses_is_nobodys_own() -> None:
    authors = Authors()
    a, b = object(), object()
    ends = [Position(number, bytes([number]) * 32) for number in range(20)]
    authors.add(1, ends[3], a)
    authors.add(4, ends[4], a)
    authors.add(5, ends[6], b)
    authors.add(7, ends[7], a)
    assert [authors.own(a, n) for n in (1, 2, 4, 5, 7, 8)] == [ends[4], ends[4], ends[4], None, ends[7], None]
    assert [authors.own(b, n) for n in (4, 5, 6, 7)] == [None, ends[6], ends[6], None]
    assert [authors.before(b, n, 7) for n in (1, 4, 7)] == [4, 4, 7]
    assert [authors.before(a, n, 19) for n in (5, 8)] == [6, 19]
    authors.add(9, ends[9], a)  # nobody who appended batch 8 follows
    assert [authors.own(a, n) for n in (4, 7, 9)] == [None, None, ends[9]]
    authors.forget()
    assert authors.own(a, 9) is None
