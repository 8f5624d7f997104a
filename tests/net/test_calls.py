"""A client and a node's session in one run, over a link in memory: every call, every answer, every refusal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.chain.position import Position
from atedb.crypto.hashing import digest
from atedb.errors import (
    AteError,
    InUseError,
    InvalidError,
    LimitError,
    NoSpaceError,
    QuotaError,
    StaleDocumentError,
    StaleError,
    StorageError,
    StoreNotFoundError,
)
from atedb.net.client import connect_transport
from atedb.net.errors import ConnectionLostError, RateError, RefusedError, UnavailableError, WrongServerError
from atedb.net.host import Access, Claim
from atedb.net.locks import LAST
from atedb.testing.links import Link
from tests.net.wire import FILES, IDENTITY, KEY, PATH, STRANGER, ListChain, Node, connected, run, serving


def claim(name: str, seconds: float = 20.0) -> Claim:
    return Claim(name, b"me", 0, LAST, True, seconds)


def test_every_call_is_carried_out_and_answered() -> None:
    async def main() -> None:
        node = Node()
        async with connected(node, opened=False) as connection:
            assert (connection.fingerprint, connection.time) == (KEY.fingerprint, 17)
            opened = await connection.open(PATH, create=FILES)
            assert opened == (b"header", Position(0, bytes(32)), 1 << 30, True)
            assert await connection.document("keys") == (b"slots", 1)
            assert await connection.put_document("keys", b"others", 1) == 2
            assert await connection.document("nothing") == (b"", 0)
            assert await connection.append([b"one", b"two"]) == Position(2, digest(b"two"))
            assert await connection.bodies([(1, 7), (2, 8)]) == [b"body\x07", b"body\x08"]
            assert await connection.take_lease(claim("compaction", 10.0)) == (1, 10.0, 2)
            await connection.test_lease(claim("compaction"))
            await connection.renew_leases(20.0)
            await connection.release_lease("compaction", b"me", 0, LAST)
            await connection.end_leases(b"m")
            assert node.chains[PATH].ended == [b"m"]
            stats = await connection.stats()
            assert (stats.sequence, stats.stored, stats.used, stats.quota) == (2, 6, 12345, 1 << 30)
            assert await connection.ping() < 1
            assert node.chains[PATH].quotas == [1 << 30]
        assert (node.guests, node.closed, node.open_now) == (1, 1, 0)
        assert node.memory.free == node.memory.total

    run(main)


def test_more_bodies_than_one_answer_has_are_asked_for_again() -> None:
    async def main() -> None:
        async with connected(Node()) as connection:
            wanted = [(1, place % 256) for place in range(2500)]
            assert await connection.bodies(wanted) == [b"body" + bytes([place]) for _, place in wanted]
            assert await connection.bodies([]) == []

    run(main)


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (QuotaError("1 GiB is used up"), QuotaError, "1 GiB is used up"),
        (InvalidError("a batch does not verify"), InvalidError, "a batch does not verify"),
        (LimitError("too much"), LimitError, "too much"),
        (StorageError("/srv/data/chains/x: input/output error"), UnavailableError, "the server cannot do it now"),
        (NoSpaceError("/srv/data is full"), UnavailableError, "the server's disk is full"),
        (InUseError("/srv/data is used by process 7"), AteError, "busy"),
    ],
)
def test_errors_keep_their_class_and_no_place_of_the_server(
    raised: AteError, expected: type[AteError], text: str, expect_log: Callable[[str], None]
) -> None:
    if expected is UnavailableError:
        expect_log("a request failed: /srv/data")

    async def main() -> None:
        node = Node()
        async with connected(node) as connection:
            node.chains[PATH].fail = raised
            with pytest.raises(expected, match=text) as caught:
                await connection.append([b"x"])
            assert "/srv" not in str(caught.value)
            node.chains[PATH].fail = None
            assert (await connection.append([b"x"])).sequence == 1

    run(main)


def test_a_stale_append_says_what_is_there_instead() -> None:
    async def main() -> None:
        async with connected(Node()) as connection:
            tail = await connection.append([b"one"])
            with pytest.raises(StaleError) as caught:
                await connection.append([b"stale"])
            assert caught.value.tail == tail
            with pytest.raises(StaleDocumentError):
                await connection.put_document("keys", b"x", 7)

    run(main)


@pytest.mark.expect_log("a request was ended by an error of this program")
def test_an_unforeseen_error_of_the_node_ends_one_request_only(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ListChain):
        async def document(self, name: str) -> tuple[bytes, int]:
            if name == "keys":
                raise ZeroDivisionError
            return await super().document(name)

    async def main() -> None:
        node = Node({PATH: Broken(documents={"chain": (b"header", 1)})})
        async with connected(node) as connection:
            with pytest.raises(UnavailableError):
                await connection.document("keys")
            assert (await connection.append([b"one"])).sequence == 1

    run(main)
    assert "ZeroDivisionError" in caplog.text


def test_appends_are_carried_out_in_the_order_in_which_they_were_made() -> None:
    async def main() -> None:
        node = Node()
        async with connected(node) as connection:
            chain = node.chains[PATH]
            chain.hold = trio.Event()
            # Large and small ones: pieces of the large ones are on their way when the small ones are made.
            made = [bytes([number]) * (300_000 if number % 3 == 0 else 10) for number in range(14)]
            async with trio.open_nursery() as nursery:
                for frame in made:
                    nursery.start_soon(connection.append, [frame])
                    await trio.sleep(0.01)
                await trio.sleep(1)
                assert chain.order == made  # all of them, and none is durable yet
                chain.hold.set()

    run(main)


def test_what_is_small_overtakes_an_upload() -> None:
    async def main() -> None:
        node = Node()
        link = Link(capacity=0, delay=lambda: 0.01)
        async with connected(node, link) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(connection.append, [bytes(8 << 20)])  # 128 pieces, 1.3 s
            await trio.sleep(0.1)
            assert await connection.ping() < 0.2
            assert len(await connection.bodies([(1, 1)])) == 1
            assert node.chains[PATH].frames == []
            nursery.cancel_scope.cancel()

    run(main)


def test_a_follower_gets_all_batches_in_order_also_beyond_its_window() -> None:
    async def main() -> None:
        node = Node({PATH: ListChain([bytes([n]) * 700_000 for n in range(20)], documents={"chain": (b"h", 1)})})
        async with connected(node) as connection:
            following = connection.follow(1)
            await trio.sleep(10)
            seen: list[bytes] = []
            async for frames in following:
                assert isinstance(frames, list)
                seen += frames
                if len(seen) == 20:
                    break
            assert seen == node.chains[PATH].frames
            await connection.append([b"news"])
            assert await anext(following) == [b"news"]
            await following.aclose()
            again = connection.follow(20)
            assert (await anext(again))[-1] == b"news"
            assert node.chains[PATH].following == 1

    run(main)


def test_a_follower_that_takes_nothing_is_sent_no_more_than_it_granted() -> None:
    async def main() -> None:
        node = Node({PATH: ListChain([bytes(1 << 20)] * 40, documents={"chain": (b"h", 1)})})
        link = Link()
        async with connected(node, link) as connection:
            following = connection.follow(1)
            await trio.sleep(20)
            assert sum(map(len, link.sent[1])) < 8 << 20
            for _ in range(13):
                await anext(following)
            await trio.sleep(1)
            assert sum(map(len, link.sent[1])) > 39 << 20

    run(main)


def test_a_stranger_and_somebody_elses_chain_are_refused_in_equal_words() -> None:
    async def main() -> None:
        node = Node({"/other/vault": ListChain(documents={"chain": (b"h", 1)})})
        link = Link()
        async with serving(node, link):
            with pytest.raises(RefusedError, match="not let in"):
                async with connect_transport(link.client, STRANGER, KEY.fingerprint):
                    raise AssertionError
        async with connected(node, opened=False) as connection:
            words = set()
            for path in ("/other/vault", "/other/nothing", "/nobody/vault"):
                with pytest.raises(RefusedError) as caught:
                    await connection.open(path)
                words.add(str(caught.value))
            assert len(words) == 1
            with pytest.raises(StoreNotFoundError) as missing:
                await connection.open(PATH)
            assert "/srv" not in str(missing.value)
            with pytest.raises(InvalidError):
                await connection.document("keys")
            assert (await connection.open(PATH, create=FILES)).header == b"header"
            with pytest.raises(InvalidError):
                await connection.open(PATH)
        assert node.guests == node.closed == 1

    run(main)


def test_who_may_only_read_changes_nothing() -> None:
    async def main() -> None:
        chain = ListChain([b"one"], documents={"chain": (b"h", 1), "keys": (b"k", 1)})
        node = Node({PATH: chain}, Access(None, False, False))
        async with connected(node) as connection:
            assert await connection.document("keys") == (b"k", 1)
            assert await anext(connection.follow(1)) == [b"one"]
            for refused in (
                connection.append([b"two"]),
                connection.put_document("keys", b"x", 1),
                connection.take_lease(claim("a")),
                connection.take_lease(claim("a"), wait=True),
                connection.renew_leases(1.0),
                connection.release_lease("a", b"me", 0, LAST),
                connection.end_leases(b"m"),
            ):
                with pytest.raises(RefusedError):
                    await refused
        async with connected(node, opened=False) as connection:
            with pytest.raises(RefusedError):
                await connection.open("/you@example.com/new", create=FILES)
        assert (chain.frames, chain.ended) == ([b"one"], [])

    run(main)


def test_a_rate_is_asked_for_before_anything_is_done() -> None:
    async def main() -> None:
        node = Node(spend_error=RateError("slower"))
        async with connected(node) as connection:
            for refused in (connection.append([b"x" * 5000]), connection.bodies([(1, 1)]), connection.stats()):
                with pytest.raises(RateError, match="slower"):
                    await refused
            assert node.chains[PATH].order == []
            assert max(node.spent) > 5000

    run(main)


def test_the_wrong_server_is_named_and_told_nothing() -> None:
    async def main() -> None:
        link = Link()
        async with serving(Node(), link):
            with pytest.raises(WrongServerError) as caught:
                async with connect_transport(link.client, IDENTITY, bytes(32)):
                    raise AssertionError
            assert (caught.value.expected, caught.value.found) == (bytes(32), KEY.fingerprint)
            assert len(link.sent[0]) == 1  # the hello

    run(main)


def test_a_link_that_is_cut_is_told_to_all_who_wait() -> None:
    async def main() -> None:
        node = Node()
        link = Link()
        errors: list[BaseException] = []

        async def expect(wait: object) -> None:
            try:
                await wait  # type: ignore[misc]
            except AteError as error:
                errors.append(error)

        async with connected(node, link) as connection:
            node.chains[PATH].hold = trio.Event()
            async with trio.open_nursery() as nursery:
                for wait in (connection.append([b"x"]), anext(connection.follow(1)), connection.wait_lost()):
                    nursery.start_soon(expect, wait)
                await trio.sleep(1)
                link.cut()
            assert connection.lost
            assert [type(error) for error in errors] == [ConnectionLostError] * 2
            with pytest.raises(ConnectionLostError):
                await connection.stats()
            with pytest.raises(ConnectionLostError):
                await anext(connection.follow(1))
        assert node.closed == 1
        assert node.memory.free == node.memory.total

    run(main)


def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async def main() -> None:
        link = Link()
        async with serving(Node(), link):
            with pytest.raises(KeyError):
                async with connect_transport(link.client, IDENTITY, None):
                    raise KeyError
        with trio.move_on_after(1) as scope:
            async with connected(Node()):
                await trio.sleep_forever()
        assert scope.cancelled_caught

    run(main)


def test_a_stop_answers_what_is_under_way_and_says_goodbye() -> None:
    async def main() -> None:
        node = Node()
        stopping, hold = trio.Event(), trio.Event()
        async with connected(node, stopping=stopping) as connection:
            node.chains[PATH].hold = hold
            following = connection.follow(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.append, [b"x"])
                await trio.sleep(1)
                stopping.set()
                await trio.sleep(1)
                assert not connection.lost
                with pytest.raises(UnavailableError, match="stopped"):
                    await anext(following)
                hold.set()
            await connection.wait_lost()
            with pytest.raises(ConnectionLostError, match="stopped"):
                await connection.stats()
        assert node.closed == 1

    run(main)


def test_a_session_that_is_cancelled_leaves_nothing_behind() -> None:
    async def main() -> None:
        node = Node()
        link = Link()
        async with serving(node, link) as scope, connect_transport(link.client, IDENTITY, None) as connection:
            await connection.open(PATH, create=FILES)
            node.chains[PATH].hold = trio.Event()
            async with trio.open_nursery() as nursery:

                async def lost() -> None:
                    with pytest.raises(ConnectionLostError):
                        await connection.append([bytes(1 << 20)])

                nursery.start_soon(lost)
                await trio.sleep(1)
                assert node.memory.free < node.memory.total
                scope.cancel()
                await connection.wait_lost()
        assert (node.closed, node.open_now, node.memory.free) == (1, 0, node.memory.total)
        assert link.server.closed

    run(main)


@settings(deadline=None, max_examples=60)
@given(
    cut=st.floats(0.0, 2.0),
    delay=st.sampled_from([0.0, 0.001, 0.02]),
    sizes=st.lists(st.sampled_from([1, 5000, 70_000, 400_000]), min_size=1, max_size=12),
)
def test_whenever_a_link_is_cut_what_was_acknowledged_is_there_and_what_was_followed_is_its_beginning(
    cut: float, delay: float, sizes: list[int]
) -> None:
    async def main() -> None:
        node, link = Node(), Link(delay=lambda: delay)
        acknowledged: dict[int, bytes] = {}
        followed: list[bytes] = []

        async with connected(node, link) as connection, trio.open_nursery() as nursery:

            async def append(number: int, size: int) -> None:
                frame = bytes([number]) * size
                try:
                    acknowledged[(await connection.append([frame])).sequence] = frame
                except ConnectionLostError:
                    pass

            async def follow() -> None:
                try:
                    async for frames in connection.follow(1):
                        assert isinstance(frames, list)
                        followed.extend(frames)
                except ConnectionLostError:
                    pass

            nursery.start_soon(follow)
            for number, size in enumerate(sizes):
                nursery.start_soon(append, number, size)
            await trio.sleep(cut)
            link.cut()
        frames = node.chains[PATH].frames
        assert all(frames[sequence - 1] == frame for sequence, frame in acknowledged.items())
        assert followed == frames[: len(followed)]
        assert (node.closed, node.open_now, node.memory.free) == (1, 0, node.memory.total)

    run(main)
