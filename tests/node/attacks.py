"""What clients that were let in, and mean harm, try; and a node to try it on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from atedb.chain.slim import slim_frame
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, InvalidError, StaleError
from atedb.net.client import ServerConnection, connect_transport
from atedb.net.session import serve_connection
from atedb.node.config import Config
from atedb.node.guests import Guests, NodeGuest
from atedb.node.hosts import Hosts
from atedb.node.reception import Reception
from atedb.node.tenants import Tenants
from atedb.testing.links import Link
from tests.engine.frames import Author
from tests.net.wire import KEY
from tests.node.chains import make_hosts

ANNA, BEN = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
PATH = "/anna/vault"
PATIENCE = 20.0

Attack = Callable[[ServerConnection, Author], Awaitable[object]]


class Node:
    """A node with two tenants, and any number of connections to it."""

    def __init__(self, folder: Path, hosts: Hosts, nursery: trio.Nursery) -> None:
        tenants = Tenants(folder)
        for name, key in (("anna", ANNA), ("ben", BEN)):
            tenants.add(name, [key.public.hex()], {})
        self._guests = Guests(tenants, Config(data=folder), hosts, Reception(folder, bytes(32), hosts.used))
        self._hosts = hosts
        self._nursery = nursery

    def _admit(self, identity: bytes) -> NodeGuest:
        return self._guests.admit(identity, lambda: None)

    @asynccontextmanager
    async def connected(self, key: SigningKey) -> AsyncIterator[ServerConnection]:
        """A connection of the owner of a key."""
        link = Link()
        self._nursery.start_soon(serve_connection, link.server, KEY, self._admit, self._hosts)
        async with connect_transport(link.client, key, KEY.fingerprint) as connection:
            yield connection


def with_node(folder: Path, body: Callable[[Node], Awaitable[None]]) -> None:
    """Run `body` with a node."""

    async def main() -> None:
        hosts = make_hosts(folder)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                await body(Node(folder, hosts, nursery))
            nursery.cancel_scope.cancel()
        await hosts.aclose()

    trio.run(main)


async def forged(connection: ServerConnection, author: Author) -> None:
    impostor = Author(author.header, seed=7)  # has no certificate of its own, and shows that of another device
    impostor.at, impostor.device.public = author.at, author.device.public
    await connection.append([impostor.frame(impostor.meta("a"), versions=[9], certified=False)])


async def of_a_stranger(connection: ServerConnection, author: Author) -> None:
    stranger = Author(author.header, seed=7)
    stranger.at = author.at
    await connection.append([stranger.frame(stranger.meta("a"), versions=[9], certified=False)])


async def altered(connection: ServerConnection, author: Author) -> None:
    frame = bytearray(author.frame(author.meta("a", bytes(100))))
    frame[-30] ^= 1
    await connection.append([bytes(frame)])


async def replayed(connection: ServerConnection, author: Author) -> None:
    frame = author.frame(author.meta("b"))
    await connection.append([frame])
    await connection.append([frame])


async def out_of_order(connection: ServerConnection, author: Author) -> None:
    _, second = author.frames(2)
    await connection.append([second])


async def with_a_gap(connection: ServerConnection, author: Author) -> None:
    first, _, third = author.frames(3)
    await connection.append([first, third])


async def older_version(connection: ServerConnection, author: Author) -> None:
    await connection.append([author.frame(author.meta("a"), versions=[1])])


async def of_another_chain(connection: ServerConnection, author: Author) -> None:
    other = Author(seed=3, root=b"another root" + bytes(20))
    other.at = author.at
    await connection.append([other.frame(other.meta("a"))])


async def slim(connection: ServerConnection, author: Author) -> None:
    await connection.append([slim_frame(author.frame(author.blob("b", bytes(9000))))])


async def nonsense(connection: ServerConnection, _author: Author) -> None:
    await connection.append([b"\xff" * 5000])


async def large_nonsense(connection: ServerConnection, _author: Author) -> None:
    await connection.append([bytes(20 << 20)])


async def another_header(connection: ServerConnection, _author: Author) -> None:
    await connection.put_document("chain", b"{}", 1)


async def large_document(connection: ServerConnection, _author: Author) -> None:
    await connection.put_document("leases", b"x" * 1000, 0)


async def bodies_that_are_not_there(connection: ServerConnection, _author: Author) -> None:
    await connection.bodies([(1 << 40, 1)])


async def second_open(connection: ServerConnection, _author: Author) -> None:
    await connection.open("/anna/other")


ATTACKS: list[tuple[Attack, type[AteError]]] = [
    (forged, InvalidError),
    (of_a_stranger, InvalidError),
    (altered, InvalidError),
    (replayed, StaleError),
    (out_of_order, StaleError),
    (with_a_gap, InvalidError),
    (older_version, InvalidError),
    (of_another_chain, InvalidError),
    (slim, InvalidError),
    (nonsense, InvalidError),
    (large_nonsense, InvalidError),
    (another_header, InvalidError),
    (large_document, InvalidError),
    (bodies_that_are_not_there, InvalidError),
    (second_open, InvalidError),
]


async def begin(connection: ServerConnection) -> Author:
    """A chain with one batch."""
    author = Author()
    await connection.open(PATH, create=author.files)
    await connection.append([author.frame(author.meta("a"))])
    return author
