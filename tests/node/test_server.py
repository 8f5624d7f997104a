"""A whole node in this process: what holds while one of its services fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from atedb.crypto.signing import SigningKey
from atedb.net import websocket
from atedb.net.client import connect
from atedb.net.url import ServerUrl
from atedb.node import server
from atedb.node.config import Config
from atedb.node.server import Running
from tests.engine.frames import Author, position_of
from tests.node.whole import with_node

ANNA = SigningKey(b"a" * 32)


def config(folder: Path) -> Config:
    return Config(data=folder, port=0, http_port=0)


@pytest.mark.expect_log("ERROR atedb.node.supervisor: the service chains failed; it is started again in 0.1 s")
def test_who_is_connected_stays_when_listening_fails_and_others_come_in_again_on_the_same_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fail = websocket.listen, trio.Event()

    async def listen(*arguments: Any, **options: Any) -> None:
        async def later() -> None:
            await fail.wait()
            raise OSError("the network has gone")

        async with trio.open_nursery() as nursery:
            if not fail.is_set():
                nursery.start_soon(later)
            await real(*arguments, **options)

    monkeypatch.setattr(server, "listen", listen)

    async def body(running: Running, url: ServerUrl) -> None:
        author = Author()
        async with connect(url, ANNA, running.fingerprint) as connection:
            await connection.open("/anna/vault", create=author.files)
            fail.set()
            await trio.testing.wait_all_tasks_blocked()
            frames = author.frames(3)
            assert await connection.append(frames) == position_of(frames[-1])
            while True:
                try:
                    async with connect(url, ANNA, running.fingerprint) as other:
                        await other.ping()
                        break
                except Exception:
                    await trio.sleep(0.01)
            assert not connection.lost

    with_node(config(tmp_path), body)


def test_a_node_that_is_cancelled_leaves_its_chains_closed_and_whole(tmp_path: Path) -> None:
    author = Author()
    frames = author.frames(5)

    async def write(running: Running, url: ServerUrl) -> None:
        async with connect(url, ANNA, running.fingerprint) as connection:
            await connection.open("/anna/vault", create=author.files)
            await connection.append(frames)

    async def read(running: Running, url: ServerUrl) -> None:
        async with connect(url, ANNA, running.fingerprint) as connection:
            assert (await connection.open("/anna/vault")).tail == position_of(frames[-1])

    with_node(config(tmp_path), write)
    with_node(config(tmp_path), read)
