"""A node with accounts, in this process, and people who connect to it over the real protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from atedb.account.client import AccountClient, Enrolment, Entry, login_token
from atedb.account.messages import ALL_CHAINS, NewToken, Rights
from atedb.account.token import Bundle, Token
from atedb.crypto.kem import KemKey
from atedb.crypto.secret import Secret
from atedb.crypto.signing import SigningKey
from atedb.crypto.totp import STEP_SECONDS, totp_code
from atedb.errors import AteError
from atedb.net.client import ServerConnection, connect_transport
from atedb.net.errors import RefusedError
from atedb.net.host import Guest
from atedb.net.session import serve_connection
from atedb.node.config import Config
from atedb.node.guests import Guests
from atedb.node.reception import Reception
from atedb.node.tenants import Tenants
from atedb.testing.links import Link
from tests.node.chains import make_hosts

KEY = KemKey.generate()
PATIENCE = 60.0
ANNA, BEN = "anna@example.com", "ben@example.com"
PASSWORD, OTHER = "correct horse", "battery staple"
MONTH = 30 * 86_400


class Person:
    """Somebody who has registered. enrolment: what they were given."""

    def __init__(self, world: World, email: str, enrolment: Enrolment) -> None:
        self._world = world
        self.email = email
        self.enrolment = enrolment

    @property
    def identity(self) -> SigningKey:
        """That of the first login."""
        return self.enrolment.entry.token.identity

    def code(self) -> str:
        """What the authenticator shows: of a step that was not shown before."""
        self._world.now += STEP_SECONDS
        return totp_code(self.enrolment.totp, self._world.now)


class World:
    """now: seconds since 1970. put_out: connections that the node has ended, by whose key."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.now = 1_800_000_000.0
        self.put_out: list[bytes] = []
        self.folder = folder
        self._nursery = nursery
        self.hosts = make_hosts(folder)
        Tenants(folder).require()
        self.start()

    def start(self) -> None:
        """As after a restart: everything is what is on the disk."""
        self.reception = Reception(self.folder, bytes(32), self.hosts.used, lambda: self.now)
        self.guests = Guests(Tenants(self.folder), Config(data=self.folder), self.hosts, self.reception)

    @asynccontextmanager
    async def connected(self, key: SigningKey | None, address: str = "192.0.2.1") -> AsyncIterator[ServerConnection]:
        """A connection of the owner of a key, or of a visitor."""
        link = Link(capacity=64)

        def authenticate(identity: bytes) -> Guest:
            if not identity:
                return self.guests.visit(address)

            def put_out() -> None:
                self.put_out.append(identity)
                link.cut()

            return self.guests.admit(identity, put_out, address)

        self._nursery.start_soon(serve_connection, link.server, KEY, authenticate, self.hosts)
        async with connect_transport(link.client, key, KEY.fingerprint) as connection:
            yield connection

    @asynccontextmanager
    async def client(self, key: SigningKey | None = None, address: str = "192.0.2.1") -> AsyncIterator[AccountClient]:
        """The same, for what is about accounts."""
        async with self.connected(key, address) as connection:
            yield AccountClient(connection)

    def login(self, token: Token, days: int = 30) -> NewToken:
        """What is said of a login's token."""
        return login_token(token, "a test", int(self.now) + days * 86_400)

    async def register(self, email: str, invitation: str = "", password: str = PASSWORD) -> Person:
        """Somebody new; the first one, if no invitation is given."""
        token = Token.generate()
        async with self.client() as client:
            with Secret.passphrase(password) as secret:
                enrolment = await client.register(
                    invitation or self.reception.desk.first_code, email, secret, self.login(token), token
                )
        return Person(self, email, enrolment)

    async def log_in(
        self, person: Person, password: str = PASSWORD, code: str = "", address: str = "192.0.2.1"
    ) -> Entry:
        """Another login of somebody."""
        token = Token.generate()
        async with self.client(address=address) as client:
            with Secret.passphrase(password) as secret:
                return await client.log_in(person.email, secret, code or person.code(), self.login(token), token)

    def token(self, *chains: str, rights: Rights = Rights.WRITE, seconds: int = MONTH) -> tuple[Token, NewToken]:
        """A token that may be made, and what is said of it."""
        token = Token.generate()
        bundle = token.seal(Bundle())
        expires = int(self.now) + seconds
        return token, NewToken(token.identity.public, "a token", expires, chains or (ALL_CHAINS,), rights, bundle)


def in_world(folder: Path, body: Callable[[World], Awaitable[None]]) -> None:
    """Run `body` with a node that has no account yet."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World(folder, nursery)
            with trio.fail_after(PATIENCE):
                await body(world)
            nursery.cancel_scope.cancel()
        await world.hosts.aclose()

    trio.run(main)


async def refused(asked: Awaitable[object], match: str, kind: type[AteError] = RefusedError) -> None:
    """What is asked for is refused, in words that match."""
    with pytest.raises(kind, match=match):
        await asked
