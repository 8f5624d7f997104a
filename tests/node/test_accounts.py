"""Accounts of a node: registering, logging in, tokens, the second factor. Each protection has its negative twin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from atedb.account import way
from atedb.account.client import AccountClient
from atedb.account.messages import AskWay, Entered, Login, WayIs, encode, statement
from atedb.account.root import AccountRoot
from atedb.account.token import Token
from atedb.account.way import CheapPasswordError, WayKeys, WayKind
from atedb.chain.disk import RealDisk
from atedb.crypto import totp
from atedb.crypto.secret import Secret
from atedb.crypto.signing import BadSignatureError
from atedb.crypto.slot import KdfParams
from atedb.crypto.totp import accepted_step
from atedb.errors import AteError, InvalidError
from atedb.net.errors import RateError, RefusedError
from atedb.node import desk, visitors
from atedb.node.ladder import EVERY, LOCKS
from tests.node.account_world import ANNA, BEN, OTHER, PASSWORD, Person, World, in_world, refused

CHAIN = f"/{ANNA}/vault"


def test_the_first_user_is_the_administrator_and_invites_the_others(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        first = world.reception.desk.first_code
        anna = await world.register(ANNA)
        await refused(world.register(BEN, first), "invitation is not good")
        async with world.client(anna.identity) as client:
            assert (await client.me()).admin
            await refused(client.invite(BEN), "second factor")
            await client.sudo(anna.code())
            invited = await client.invite(BEN)
        await refused(world.register("carl@example.com", invited.code), "not for this user")
        ben = await world.register(BEN, invited.code)
        async with world.client(ben.identity) as client:
            assert not (await client.me()).admin
            await client.sudo(ben.code())
            await refused(client.invite(""), "only an administrator")
        await refused(world.register(BEN, invited.code), "invitation is not good")

    in_world(tmp_path, body)


def test_an_invitation_is_good_for_one_of_two_who_come_at_once(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            invited = await client.invite("")
        refusals: list[AteError] = []

        async def come(email: str) -> None:
            try:
                await world.register(email, invited.code)
            except RefusedError as error:
                refusals.append(error)

        async with trio.open_nursery() as nursery:
            for email in (BEN, "carl@example.com"):
                nursery.start_soon(come, email)
        assert len(refusals) == 1
        assert len(world.reception.accounts.all) == 2

    in_world(tmp_path, body)


def test_an_invitation_is_good_for_a_week(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            invited = await client.invite("")
        world.now = invited.expires
        await refused(world.register(BEN, invited.code), "invitation is not good")

    in_world(tmp_path, body)


def test_whoever_registers_with_an_invitation_for_anybody_gets_no_name_that_is_taken(tmp_path: Path) -> None:
    """Else they could read, as ciphertext, and overwrite what whoever had that name before has stored."""

    async def body(world: World) -> None:
        world.reception.desk.tenants.add(BEN, [], {})
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            anybody, ben = await client.invite(""), await client.invite(BEN)
        await refused(world.register(BEN, anybody.code), "not for this user")
        await world.register(BEN, ben.code)

    in_world(tmp_path, body)


def test_a_login_gives_the_account_s_root_and_is_let_in(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        entry = await world.log_in(anna)
        assert entry.root.secret == anna.enrolment.entry.root.secret
        async with world.client(entry.token.identity) as client:
            assert (await client.me()).email == ANNA
            assert {one.id for one in await client.tokens()} == {entry.token.id, anna.enrolment.entry.token.id}

    in_world(tmp_path, body)


def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        before = world.reception.accounts.all[ANNA]
        world.start()
        assert world.reception.accounts.all[ANNA] == before
        assert not world.reception.desk.first_code
        await world.log_in(anna)

    in_world(tmp_path, body)


async def _unknown(world: World, anna: Person) -> None:
    await world.log_in(Person(world, BEN, anna.enrolment))


async def _wrong_password(world: World, anna: Person) -> None:
    await world.log_in(anna, OTHER)


async def _wrong_code(world: World, anna: Person) -> None:
    await world.log_in(anna, code="000000")


async def _no_code(world: World, anna: Person) -> None:
    token = Token.generate()
    async with world.client() as client:
        with Secret.passphrase(PASSWORD) as secret:
            await client.log_in(ANNA, secret, "", world.login(token), token)


FAILURES = [_unknown, _wrong_password, _wrong_code, _no_code]
Failure = Callable[[World, Person], Awaitable[None]]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda one: one.__name__[1:])
def test_a_login_fails_in_the_same_words_whatever_is_wrong(tmp_path: Path, failure: Failure) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        await refused(failure(world, anna), "^the user, the password or the code of the authenticator is not right")

    in_world(tmp_path, body)


def test_a_refused_login_costs_the_same_whether_there_is_such_a_user_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: signatures verified, codes made, writes to the disk."""
    counted: list[str] = []

    def count(module: object, name: str) -> None:
        real = getattr(module, name)

        def counting(*arguments: object, **options: object) -> object:
            counted.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counting)

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        await world.log_in(anna)
        for module, name in (
            (desk, "verify_signature"), (desk, "SigningKey"), (totp, "totp_code"), (RealDisk, "replace"),
            (RealDisk, "open"),
        ):  # fmt: skip
            count(module, name)
        costs = []
        for person in (anna, Person(world, BEN, anna.enrolment)):
            code = anna.code()
            counted.clear()
            await refused(world.log_in(person, OTHER, code), "is not right")
            costs.append(sorted(counted))
        assert costs[0] == costs[1] == ["SigningKey", *["totp_code"] * 3, "verify_signature"]

    in_world(tmp_path, body)


def test_an_unknown_user_is_asked_the_same_question_each_time_as_a_known_one_is(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.register(ANNA)

        async def question(email: str, kind: WayKind) -> way.Question:
            async with world.client() as client:
                return (await client.ask(AskWay(email, kind), WayIs)).question

        for kind in WayKind:
            known, unknown = await question(ANNA, kind), await question(BEN, kind)
            assert (known.kdf, len(known.salt)) == (unknown.kdf, len(unknown.salt))
            assert known.salt != unknown.salt
            assert unknown == await question(BEN, kind)
            world.start()
            assert unknown == await question(BEN, kind)

    in_world(tmp_path, body)


@pytest.mark.parametrize("known", [True, False])
def test_every_fifth_failure_locks_for_longer_whether_there_is_such_a_user_or_not(tmp_path: Path, known: bool) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        ben = Person(world, BEN, anna.enrolment)
        for lock in LOCKS:
            for attempt in range(EVERY):
                code = anna.code()
                address = f"192.0.2.{attempt}"
                tried = world.log_in(anna if known else ben, OTHER, code, address)
                await refused(tried, "is not right")
            world.start()  # a lock outlives the server
            world.now += lock - 1
            await refused(world.log_in(anna if known else ben, PASSWORD, "123456"), "too many attempts", RateError)
            world.now += 1
        if known:
            await world.log_in(anna)
            world.now += 1
            await refused(world.log_in(anna, OTHER), "is not right")  # the first one again

    in_world(tmp_path, body)


def test_a_code_is_good_for_one_login_only(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        code = anna.code()
        await world.log_in(anna, code=code)
        await refused(world.log_in(anna, code=code), "is not right")
        world.start()
        await refused(world.log_in(anna, code=code), "is not right")

    in_world(tmp_path, body)


def test_twin_without_noting_its_step_a_code_is_good_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = accepted_step
    steps = iter(range(1, 1 << 30))

    def forgetful(secret: bytes, code: str, now: float, after: int) -> int | None:
        return next(steps) if real(secret, code, now, 0) is not None else None

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        code = anna.code()
        await world.log_in(anna, code=code)
        await world.log_in(anna, code=code)

    monkeypatch.setattr(visitors, "accepted_step", forgetful)
    in_world(tmp_path, body)


async def _login_bytes(world: World, client: AccountClient, anna: Person, conversation: bytes) -> bytes:
    """A correct login, signed for a conversation."""
    question = (await client.ask(AskWay(ANNA, WayKind.PASSWORD), WayIs)).question
    with Secret.passphrase(PASSWORD) as secret:
        keys = WayKeys.of(secret, ANNA, WayKind.PASSWORD, question)
    login = Login(ANNA, anna.code(), world.login(Token.generate()), b"")
    return encode(msgspec.structs.replace(login, signature=keys.login.sign(statement(login, conversation))))


def test_a_login_that_was_recorded_is_of_no_use_in_another_conversation(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.connected(None) as heard, world.connected(None) as other:
            said = await _login_bytes(world, AccountClient(heard), anna, heard.conversation)
            await refused(other.inquire(said), "is not right")

    in_world(tmp_path, body)


def test_twin_signed_for_any_conversation_it_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "statement", lambda message, _conversation: statement(message, b""))

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.connected(None) as heard, world.connected(None) as other:
            said = await _login_bytes(world, AccountClient(heard), anna, b"")
            await other.inquire(said)

    in_world(tmp_path, body)


def test_a_server_that_asks_for_a_cheap_login_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = way.Question(KdfParams(opslimit=1, memlimit=8192), bytes(16))

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        monkeypatch.setattr(world.reception.desk, "question", lambda _email, _kind: cheap)
        await refused(world.log_in(anna), "cheap to guess", CheapPasswordError)
        monkeypatch.setattr(way.Question, "verify", lambda _self, _kind: None)  # the twin: it is told what it asks for
        await refused(world.log_in(anna), "is not right")

    in_world(tmp_path, body)


def test_what_the_server_keeps_opens_nothing_and_equal_passwords_look_different(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            ben = await world.register(BEN, (await client.invite(BEN)).code)
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        for person in (anna, ben):
            root, token = person.enrolment.entry.root.secret, person.enrolment.entry.token
            for secret in (root, root.hex().encode(), token.text.encode(), token._secret, PASSWORD.encode()):
                assert secret not in stored
            assert person.enrolment.recovery.encode() not in stored
        ways = [world.reception.accounts.all[email].password for email in (ANNA, BEN)]
        assert ways[0].salt != ways[1].salt
        assert ways[0].login != ways[1].login
        assert ways[0].sealed != ways[1].sealed

    in_world(tmp_path, body)


def test_a_password_is_changed_by_whoever_knows_it_and_the_old_one_is_good_no_more(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        root = anna.enrolment.entry.root
        with Secret.passphrase(PASSWORD) as old, Secret.passphrase(OTHER) as new:
            async with world.client(anna.identity) as client:
                await refused(client.change_password(ANNA, root, old, new), "second factor")
                await client.sudo(anna.code())
                await refused(client.change_password(ANNA, root, new, new), "is not right")
                await client.change_password(ANNA, root, old, new)
        await refused(world.log_in(anna), "is not right")
        assert (await world.log_in(anna, OTHER)).root.secret == root.secret

    in_world(tmp_path, body)


def test_a_recovery_code_gets_the_account_back_once_and_ends_all_tokens(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        token = Token.generate()
        with Secret.recovery_code(anna.enrolment.recovery) as code, Secret.passphrase(OTHER) as password:
            async with world.client() as client:
                again = await client.recover(ANNA, code, password, world.login(token), token)
            async with world.client() as client:
                await refused(client.recover(ANNA, code, password, world.login(token), token), "is not right")
        assert again.entry.root.secret == anna.enrolment.entry.root.secret
        with pytest.raises(RefusedError, match="not let in here"):
            async with world.client(anna.identity):
                pass
        back = Person(world, ANNA, again)
        await world.log_in(back, OTHER)
        assert again.totp != anna.enrolment.totp

    in_world(tmp_path, body)


def test_a_visitor_may_open_no_chain_and_a_member_may_not_do_what_visitors_do(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.connected(None) as connection:
            await refused(connection.open(CHAIN), "not logged in")
            await refused(AccountClient(connection).me(), "cannot be read", InvalidError)
        async with world.client(anna.identity) as client:
            login = Login(ANNA, "", world.login(Token.generate()), b"")
            await refused(client.ask(login, Entered), "cannot be read", InvalidError)

    in_world(tmp_path, body)


def test_visitors_of_one_address_have_a_rate_and_others_another(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.register(ANNA)
        async with world.client(address="192.0.2.7") as client:
            asked = AskWay(ANNA, WayKind.PASSWORD)
            async with trio.open_nursery() as nursery:
                failures: list[AteError] = []

                async def ask() -> None:
                    try:
                        await client.ask(asked, WayIs)
                    except AteError as error:
                        failures.append(error)

                world.guests.visit("192.0.2.7")._bucket.charge(100)
                nursery.start_soon(ask)
            assert isinstance(failures[0], RateError)
        async with world.client(address="192.0.2.8") as client:
            await client.ask(asked, WayIs)

    in_world(tmp_path, body)


@pytest.mark.expect_log("cannot be used, and nobody is let in by it")
def test_a_damaged_account_lets_nobody_in_and_keeps_nobody_else_out(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            ben = await world.register(BEN, (await client.invite(BEN)).code)
        (tmp_path / "accounts" / f"{ANNA}.json").write_text("{}")
        world.start()
        with pytest.raises(RefusedError):
            async with world.client(anna.identity):
                pass
        await world.log_in(ben)
        for path in (tmp_path / "accounts").iterdir():
            path.write_text("{}")
        world.start()
        assert not world.reception.desk.first_code  # or somebody else could become the administrator

    in_world(tmp_path, body)


# -- other users


def test_members_are_told_each_other_s_cards_and_visitors_are_not(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        async with world.client(anna.identity) as client:
            await client.sudo(anna.code())
            ben = await world.register(BEN, (await client.invite(BEN)).code)
            assert await client.card(BEN) == ben.enrolment.entry.root.card(BEN)
            await refused(client.card("carl@example.com"), "there is no user carl@example.com")
        async with world.client() as client:
            await refused(client.card(ANNA), "cannot be read", InvalidError)

    in_world(tmp_path, body)


def test_a_card_that_is_another_s_or_was_not_signed_by_its_key_is_refused(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        real = world.reception.accounts.all[ANNA]
        other = AccountRoot(b"o" * 32).card(BEN)
        patched = msgspec.structs.replace(other, email=ANNA)
        for card, match, kind in (
            (other, "another user's card", InvalidError),
            (patched, "does not verify", BadSignatureError),
            (msgspec.structs.replace(real.card, kem=other.kem), "does not verify", BadSignatureError),
        ):
            world.reception.accounts._accounts[ANNA] = msgspec.structs.replace(real, card=card)
            async with world.client(anna.identity) as client:
                await refused(client.card(ANNA), match, kind)

    in_world(tmp_path, body)
