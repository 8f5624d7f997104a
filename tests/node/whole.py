"""A whole node in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from atedb.crypto.kem import KemKey
from atedb.net.url import ServerUrl
from atedb.node.config import Config
from atedb.node.server import Running, _Node


def with_node(config: Config, body: Callable[[Running, ServerUrl], Awaitable[None]]) -> None:
    """Run `body` beside a node. It gets the address of a chain that is not there yet, or was made by a run before."""

    async def main() -> None:
        serving = trio.Event()
        told: list[Running] = []

        def ready(running: Running) -> None:
            told.append(running)
            serving.set()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_Node(config, KemKey.generate(), ready).run)
                await serving.wait()
                scheme = "wss" if told[0].tls else "ws"
                await body(told[0], ServerUrl.parse(f"{scheme}://127.0.0.1:{told[0].port}/db/anna/vault"))
                nursery.cancel_scope.cancel()

    trio.run(main)
