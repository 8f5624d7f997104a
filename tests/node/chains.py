"""A node's chains in one trio run, and what tests do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from atedb.chain.disk import RealDisk
from atedb.engine.files import FileEngine
from atedb.node.host import ChainHost
from atedb.node.hosts import Hosts
from tests.engine.frames import Author

PATH = "/you@example.com/vault"


def make_hosts(folder: Path, *, most_open: int = 1000, idle: float = 60.0, centralized: bool = False) -> Hosts:
    """The chains that lie in `folder`."""
    engine = FileEngine(RealDisk(), folder / "chains")
    return Hosts(engine, folder / "index", most_open=most_open, idle=idle, centralized=centralized)


@asynccontextmanager
async def one_chain(folder: Path, author: Author) -> AsyncIterator[ChainHost]:
    """The author's chain, open in a node."""
    hosts = make_hosts(folder)
    async with hosts.open(PATH, create=author.files) as host:
        yield host
    await hosts.aclose()


def with_chain(
    folder: Path, body: Callable[[ChainHost, Author], Awaitable[None]], author: Author | None = None
) -> None:
    """Run `body` with a chain in `folder`."""
    author = author or Author()

    async def main() -> None:
        async with one_chain(folder, author) as host:
            await body(host, author)

    trio.run(main)


async def settle(count: int = 3) -> None:
    """Let other tasks run as far as they come without waiting for a thread."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()
