"""Tokens of accounts: what they open, who makes them, and when they end. The twins are without a protection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from atedb.account.client import AccountClient
from atedb.account.messages import Rights
from atedb.account.token import Token
from atedb.errors import AteError, InvalidError, StoreNotFoundError
from atedb.net.errors import ConnectionLostError, RefusedError
from tests.engine.frames import Author
from tests.node.account_world import ANNA, BEN, World, in_world, refused

CHAIN = f"/{ANNA}/vault"


def test_a_token_opens_the_chains_that_it_is_for_and_no_others(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        mine, other = Author(), Author()
        token, new = world.token(CHAIN)
        reader, read_only = world.token(CHAIN, rights=Rights.READ)
        async with world.client(anna.identity) as client:
            await client.make_token(new)
            await client.make_token(read_only)
            foreign = world.token(f"/{BEN}/vault")[1]
            await refused(client.make_token(foreign), "cannot be for", InvalidError)
        async with world.connected(reader.identity) as connection:
            await refused(connection.open(CHAIN, create=mine.files), "may not make chains")
        async with world.connected(token.identity) as connection:
            await refused(connection.open(f"/{ANNA}/other", create=other.files), "no chain here")
            assert (await connection.open(CHAIN, create=mine.files)).writable
            await connection.append(mine.frames(1))
        async with world.connected(reader.identity) as connection:
            assert not (await connection.open(CHAIN)).writable
            await refused(connection.append(mine.frames(1)), "not write to it")
            await refused(connection.put_document("keys", b"", 0), "not write to it")
        async with world.connected(anna.identity) as connection:
            with pytest.raises(StoreNotFoundError):
                await connection.open(f"/{ANNA}/other")

    in_world(tmp_path, body)


async def _revoked(world: World, client: AccountClient, token: Token) -> None:
    await client.revoke(token.id)


async def _expired(world: World, client: AccountClient, token: Token) -> None:
    world.now += 3600
    world.guests._dismiss_strangers()  # what `watch` does each second


async def _tenant_removed(world: World, client: AccountClient, token: Token) -> None:
    world.reception.desk.tenants.remove(ANNA)
    await world.guests.renew()


@pytest.mark.parametrize("ended", [_revoked, _expired, _tenant_removed], ids=lambda one: one.__name__[1:])
def test_a_token_that_has_ended_stops_working_on_connections_that_are_open(
    tmp_path: Path, ended: Callable[[World, AccountClient, Token], Awaitable[None]]
) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        author = Author()
        token, new = world.token(seconds=3600)
        async with world.client(anna.identity) as client:
            await client.make_token(new)
            async with world.connected(token.identity) as connection:
                await connection.open(CHAIN, create=author.files)
                await connection.append(author.frames(1))
                await ended(world, client, token)
                with pytest.raises(ConnectionLostError):
                    await connection.append(author.frames(1))
        assert token.identity.public in world.put_out
        with pytest.raises(RefusedError, match="not let in here"):
            async with world.connected(token.identity):
                pass

    in_world(tmp_path, body)


def test_twin_without_looking_at_the_connections_a_revoked_token_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        author = Author()
        token, new = world.token()
        world.reception.accounts.changed = lambda: None
        async with world.client(anna.identity) as client:
            await client.make_token(new)
            async with world.connected(token.identity) as connection:
                await connection.open(CHAIN, create=author.files)
                await client.revoke(token.id)
                await connection.append(author.frames(1))

    in_world(tmp_path, body)


def test_a_token_makes_no_tokens_and_changes_nothing_of_the_account(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        token, new = world.token()
        async with world.client(anna.identity) as client:
            await client.make_token(new)
        async with world.client(token.identity) as client:
            assert (await client.me()).token.id == token.id
            for asked in (
                client.make_token(world.token()[1]), client.tokens(), client.revoke(token.id), client.invite(""),
                client.sudo(anna.code()),
            ):  # fmt: skip
                await refused(asked, "a token may not do that")
            await client.leave()
        with pytest.raises(RefusedError, match="not let in here"):
            async with world.client(token.identity):
                pass
        async with world.client(anna.identity) as client:
            await client.revoke(anna.enrolment.entry.token.id)  # answered, although it is its own

    in_world(tmp_path, body)


def test_the_owner_sees_when_and_from_where_a_token_was_used(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        token, new = world.token()
        async with world.client(anna.identity) as client:
            await client.make_token(new)
            assert [one.used for one in await client.tokens() if one.id == token.id] == [0]
            world.now += 60
            async with world.client(token.identity, "198.51.100.4"):
                pass
            (seen,) = [one for one in await client.tokens() if one.id == token.id]
        assert (seen.used, seen.address) == (int(world.now), "198.51.100.4")
        world.start()
        assert seen in [one.info for one in world.reception.accounts.all[ANNA].tokens]

    in_world(tmp_path, body)


def test_many_tokens_are_listed_in_parts_and_their_number_has_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atedb.node.accounts.MAX_TOKENS", 20)

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        longest = [f"/{ANNA}/{'x' * 90}{number:02}" for number in range(16)]
        async with world.client(anna.identity) as client:
            made = [world.token(*longest, seconds=3600)[1] for _ in range(19)]
            for new in made:
                await client.make_token(new)
            assert len(await client.tokens()) == 20
            await refused(client.make_token(world.token()[1]), "20 tokens already", AteError)
            world.now += 3600
            await client.make_token(world.token()[1])
            assert len(await client.tokens()) == 2

    in_world(tmp_path, body)
