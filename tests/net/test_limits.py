"""Slow, silent, flooding and lying ends: each costs itself its connection, within a bound of time and memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from atedb.crypto.kem import KemKey
from atedb.errors import BusyError, LimitError, StorageError
from atedb.net import serving as serving_module
from atedb.net import session
from atedb.net.budget import ByteBudget
from atedb.net.client import connect_transport
from atedb.net.connection import ClientProtocol, ServerProtocol
from atedb.net.errors import ConnectionLostError, ProtocolError, UnavailableError
from atedb.net.messages import (
    Append,
    Batches,
    BodiesAre,
    Done,
    Failed,
    Follow,
    GetDocument,
    GetStats,
    Goodbye,
    Grant,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Welcome,
    encode,
)
from atedb.net.parts import PART
from atedb.net.requests import ANSWER_SECONDS, SILENCE_SECONDS
from atedb.net.serving import MAX_UNDER_WAY
from atedb.net.session import HANDSHAKE_SECONDS, SLACK_SECONDS
from atedb.net.session import SILENCE_SECONDS as SERVER_SILENCE
from atedb.testing.links import Link
from tests.net.wire import FILES, IDENTITY, KEY, PATH, ListChain, Node, connected, run, serving


class Raw:
    """A client without manners: says what it is told to."""

    def __init__(self, link: Link) -> None:
        self.transport = link.client
        self.protocol = ClientProtocol(IDENTITY, None)
        self.heard: list[object] = []

    async def enter(self) -> None:
        while not self.protocol.ready:
            await self.flush()
            self.heard += self.protocol.receive(await self.transport.receive())

    async def open(self) -> None:
        await self.enter()
        await self.say(Open(2, PATH, FILES))
        await self.hear()
        assert isinstance(self.heard[-1], Opened)

    async def say(self, *messages: Message) -> None:
        for message in messages:
            self.protocol._send(message)
        await self.flush()

    async def flush(self) -> None:
        while (data := self.protocol.next_to_send()) is not None:
            await self.transport.send(data)

    async def hear(self) -> None:
        self.heard += self.protocol.receive(await self.transport.receive())

    async def hear_all(self) -> None:
        try:
            while True:
                await self.hear()
        except ConnectionLostError:
            pass


def with_raw(test: Callable[[Raw, Node], Awaitable[None]], node: Node | None = None, capacity: int = 4) -> None:
    """Run a test with such a client, and see that nothing of it is left with the node."""
    node = node or Node()

    async def main() -> None:
        link = Link(capacity=capacity)
        async with serving(node, link):
            await test(Raw(link), node)
        assert link.server.closed

    run(main)
    assert node.guests == node.closed
    assert (node.open_now, node.memory.free) == (0, node.memory.total)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_who_does_not_finish_the_handshake_is_gone_in_time(steps: int) -> None:
    async def test(raw: Raw, node: Node) -> None:
        start = trio.current_time()
        for step in range(steps):
            await raw.transport.send(raw.protocol.next_to_send() or b"")
            if step < 2:
                raw.protocol.receive(await raw.transport.receive())
        await raw.hear_all()
        assert HANDSHAKE_SECONDS - 0.1 <= trio.current_time() - start < HANDSHAKE_SECONDS + 1
        assert node.guests == 0

    with_raw(test)


def test_who_says_nothing_is_gone_in_time_and_who_pings_is_not() -> None:
    async def silent(raw: Raw, node: Node) -> None:
        start = trio.current_time()
        await raw.open()
        await raw.hear_all()
        assert SERVER_SILENCE - 1 < trio.current_time() - start < SERVER_SILENCE + 10

    async def alive(raw: Raw, node: Node) -> None:
        await raw.open()
        for number in range(100):
            await trio.sleep(SERVER_SILENCE / 2)
            await raw.say(Ping(number + 3))
            await raw.hear()
        assert raw.heard[-1] == Pong(102)

    with_raw(silent)
    with_raw(alive)


def test_an_idle_connection_of_a_client_lives_on() -> None:
    async def main() -> None:
        async with connected(Node()) as connection:
            await trio.sleep(3600)
            assert not connection.lost
            assert (await connection.append([b"x"])).sequence == 1

    run(main)


def test_a_server_that_falls_silent_is_noticed_in_time() -> None:
    async def main() -> None:
        silent = False
        link = Link(capacity=100, down=lambda data: () if silent else (data,))
        async with connected(Node(), link) as connection:
            silent = True
            start = trio.current_time()
            await connection.wait_lost()
            assert trio.current_time() - start < SILENCE_SECONDS + 1
            with pytest.raises(ConnectionLostError, match="silent"):
                await connection.stats()

    run(main)


def test_a_server_that_lives_but_does_not_answer_is_given_up_in_time() -> None:
    async def main() -> None:
        node = Node()
        async with connected(node) as connection:
            node.chains[PATH].hold = trio.Event()
            start = trio.current_time()
            with pytest.raises(ConnectionLostError, match="not answered"):
                await connection.append([b"x"])
            assert ANSWER_SECONDS - 1 < trio.current_time() - start < ANSWER_SECONDS + 1

    run(main)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_server_that_stops_in_the_handshake_is_given_up_in_time(after: int) -> None:
    async def main() -> None:
        count = 0

        def some(data: bytes) -> tuple[bytes, ...]:
            nonlocal count
            count += 1
            return (data,) if count <= after else ()

        link = Link(down=some)
        start = trio.current_time()
        async with serving(Node(), link):
            with pytest.raises(ConnectionLostError):
                async with connect_transport(link.client, IDENTITY, None, timeout=5):
                    raise AssertionError
        assert trio.current_time() - start < 6
        assert link.client.closed

    run(main)


def test_who_reads_nothing_is_gone_in_time_and_fills_no_memory() -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        node.chains[PATH].frames += [bytes(1 << 20)] * 50
        await raw.say(Follow(3, 1, True, 64 << 20))
        await trio.sleep(100)
        assert raw.transport.closed is False
        with pytest.raises(ConnectionLostError):
            await raw.say(Ping(4))

    with_raw(test)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_flood_of_pings_is_held_back_not_queued(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not bounded:
        monkeypatch.setattr(session, "_MAX_URGENT", 1 << 30)

    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        said = 0
        with trio.move_on_after(20):
            for number in range(3000):
                await raw.say(Ping(number + 3))
                said += 1
        assert (said < 300) == bounded
        await trio.sleep(30)

    with_raw(test)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_flood_of_requests_is_held_back_not_queued(bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not bounded:
        monkeypatch.setattr(serving_module, "MAX_UNDER_WAY", 1 << 30)

    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        node.chains[PATH].hold = trio.Event()
        with trio.move_on_after(5):
            for number in range(1000):
                await raw.say(Append(number + 3, [b"frame"]))
        await trio.sleep(1)
        assert len(node.chains[PATH].order) == (MAX_UNDER_WAY if bounded else 1000)

    with_raw(test)


def test_a_large_message_that_does_not_get_on_ends_the_connection() -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        start = trio.current_time()
        raw.protocol._send(Append(3, [bytes(10 * PART)]))
        await raw.transport.send(raw.protocol.next_to_send() or b"")
        assert raw.protocol._sealer is not None
        for number in range(4, 100):  # it is not silent, but the next piece never comes
            await trio.sleep(5)
            await raw.transport.send(raw.protocol._sealer.seal(b"\0" + encode(Ping(number))))
            try:
                await raw.hear()
            except ConnectionLostError:
                break
        assert number > 6
        assert trio.current_time() - start < SLACK_SECONDS + 100

    with_raw(test)


def test_a_large_message_waits_for_its_tenants_memory_and_then_not_for_ever() -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        await node.memory.take(node.memory.total - 5 * PART)
        await raw.say(Append(3, [bytes(3 * PART)]))
        await raw.hear()
        await raw.say(Append(4, [bytes(9 * PART)]))
        await raw.hear_all()
        assert [type(message).__name__ for message in raw.heard[-2:]] == ["Appended", "Goodbye"]
        assert isinstance(raw.heard[-1], Goodbye)
        assert raw.heard[-1].code == "busy"
        node.memory.give(node.memory.total - 5 * PART)

    with_raw(test, capacity=100)


@pytest.mark.parametrize(
    "said",
    [
        [Welcome(3, 1)],
        [Pong(3)],
        [Follow(3, 1, True, 64 << 20), Grant(3, 1)],
    ],
)
def test_who_breaks_the_protocol_is_told_and_gone(said: list[Message]) -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        await raw.say(*said)
        await raw.hear_all()
        assert raw.heard[-1] == Goodbye(1, "invalid", raw.heard[-1].text)  # type: ignore[attr-defined]

    with_raw(test)


@pytest.mark.parametrize("size", [10, 3 * PART])
def test_two_requests_of_one_number_end_the_connection_and_hold_no_memory(size: int) -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        node.chains[PATH].hold = trio.Event()
        await raw.say(Append(3, [bytes(size)]), Append(3, [bytes(size)]))
        await raw.hear_all()
        assert isinstance(raw.heard[-1], Goodbye)

    with_raw(test)


def test_a_second_follower_is_refused_and_grants_to_nobody_are_nothing() -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.open()
        await raw.say(Grant(7, 1), Follow(3, 1, True, 10), Follow(4, 1, True, 10))
        await raw.hear()
        assert isinstance(raw.heard[-1], Failed)
        assert raw.heard[-1].id == 4

    with_raw(test)


def test_requests_before_a_chain_is_open_are_refused_and_the_connection_stays() -> None:
    async def test(raw: Raw, node: Node) -> None:
        await raw.enter()
        for message in (GetStats(2), GetDocument(3, "keys"), Append(4, [b"x"])):
            await raw.say(message)
            await raw.hear()
            assert isinstance(raw.heard[-1], Failed)
            assert raw.heard[-1].code == "invalid"
        await raw.say(Open(5, PATH, FILES))
        await raw.hear()
        assert isinstance(raw.heard[-1], Opened)

    with_raw(test)


@pytest.mark.expect_log("nobody can be let in")
def test_a_node_that_cannot_tell_who_asks_lets_nobody_in() -> None:
    class Node_(Node):
        def authenticate(self, identity: bytes) -> Node:
            raise StorageError("/srv/data/tenants cannot be read")

    async def main() -> None:
        link = Link()
        async with serving(Node_(), link):
            with pytest.raises(UnavailableError) as caught:
                async with connect_transport(link.client, IDENTITY, None):
                    raise AssertionError
            assert "/srv" not in str(caught.value)

    run(main)


class Liar:
    """A server that lets everybody in, and then says what it is told to."""

    def __init__(self, *answers: Message) -> None:
        self.answers = answers

    async def serve(self, link: Link) -> None:
        protocol = ServerProtocol(KemKey(KEY.private))
        try:
            while True:
                if protocol.identity is not None and not protocol.ready:
                    protocol.welcome(1)
                while (data := protocol.next_to_send()) is not None:
                    await link.server.send(data)
                if protocol.receive(await link.server.receive()) and protocol.ready:
                    for answer in self.answers:
                        protocol._send(answer)
        except ConnectionLostError:
            pass


@pytest.mark.parametrize(
    "answers",
    [
        [Pong(99)],
        [BodiesAre(2, [b"a", b"b", b"c"])],
        [Batches(2, [b"frame"])],
        [Pong(2)],
        [Ping(2)],
        [Welcome(2, 1)],
        [Goodbye(1, "unknown", "text")],
    ],
)
def test_a_server_that_answers_what_was_not_asked_is_left(answers: list[Message]) -> None:
    async def main() -> None:
        link = Link()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Liar(*answers).serve, link)
            async with connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection:
                with pytest.raises((ConnectionLostError, ProtocolError)):
                    await connection.bodies([(1, 1), (1, 2)])
                assert connection.lost
            nursery.cancel_scope.cancel()

    run(main)


def test_a_server_that_sends_more_than_was_granted_is_left() -> None:
    async def main() -> None:
        link = Link()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Liar(*[Batches(2, [bytes(1 << 20)])] * 10).serve, link)
            async with connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection:
                following = connection.follow(1)
                await connection.wait_lost()
                assert len(following._waiting) <= 5
            nursery.cancel_scope.cancel()

    run(main)


def test_whoever_follows_is_told_when_a_server_ends_it_without_a_word() -> None:
    async def main() -> None:
        link = Link()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Liar(Done(2, 0)).serve, link)
            async with connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection:
                with trio.fail_after(60), pytest.raises(ProtocolError, match="without a word"):
                    await anext(connection.follow(1))
            nursery.cancel_scope.cancel()

    run(main)


def test_words_of_a_server_steer_no_terminal() -> None:
    async def main() -> None:
        link = Link()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Liar(Failed(2, "busy", "\x1b[2Jgone\n")).serve, link)
            async with connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection:
                with pytest.raises(BusyError) as caught:
                    await connection.stats()
            assert str(caught.value) == "?[2Jgone?"
            nursery.cancel_scope.cancel()

    run(main)


def test_a_budget_is_handed_out_in_order_and_given_back_when_cancelled() -> None:
    async def main() -> None:
        budget = ByteBudget(100)
        await budget.take(60)
        order: list[int] = []

        async def take(size: int) -> None:
            await budget.take(size)
            order.append(size)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, 70)
            await trio.sleep(1)
            nursery.start_soon(take, 31)
            await trio.sleep(1)
            assert order == []  # what is small does not overtake, or what is large would wait for ever
            budget.give(60)
            await trio.sleep(1)
            assert order == [70]
            budget.give(70)
        assert order == [70, 31]
        budget.give(31)
        with trio.move_on_after(1):
            await budget.take(50)
            await budget.take(51)
        budget.give(50)
        assert budget.free == 100
        with pytest.raises(LimitError):
            await budget.take(101)

    run(main)


def test_nothing_of_a_list_chain_is_followed_after_the_end() -> None:
    async def main() -> None:
        chain = ListChain([b"one"], documents={"chain": (b"h", 1)})
        node = Node({PATH: chain})
        async with connected(node) as connection:
            await anext(connection.follow(1))
            assert chain.following == 1
        assert chain.following == 0

    run(main)
