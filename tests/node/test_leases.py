"""Leases: whoever is heard of keeps them, others get them in turn when they are free; all of it through a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from atedb.errors import ClosedError, FencedError, InvalidError
from atedb.net.errors import DeadlockError, HeldError, NoLocksError
from atedb.net.host import Claim
from atedb.net.locks import LAST, LockBounds
from atedb.node import leases as leases_module
from atedb.node.host import ChainHost
from atedb.node.leases import Leases
from tests.engine.frames import Author
from tests.node.chains import PATH, make_hosts

A, B, C = "connection a", "connection b", "connection c"


def run(folder: Path, *bodies: Callable[[ChainHost], Awaitable[None]]) -> None:
    """Run each of `bodies` with the chain in `folder`, with a restart in between; time passes only when all wait."""
    author = Author()

    async def main() -> None:
        for body in bodies:
            hosts = make_hosts(folder)
            async with hosts.open(PATH, create=author.files) as host:
                await body(host)
            await hosts.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def claim(
    owner: bytes, name: str = "lock", *, start: int = 0, end: int = LAST, shared: bool = False, token: int = 0
) -> Claim:  # fmt: skip
    return Claim(name, owner, start, end, not shared, 10.0, token)


async def is_held(host: ChainHost, client: str, wanted: Claim) -> bool:
    """Whether it cannot be had now; if it can, it is."""
    try:
        await host.take_lease(client, wanted)
    except HeldError:
        return True
    return False


def test_a_lease_has_one_holder_until_its_time_is_up_and_then_a_loser_can_win_it(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        first = await host.take_lease(A, claim(b"a"))
        assert await is_held(host, B, claim(b"b"))
        assert not await is_held(host, B, claim(b"b", "another"))
        await trio.sleep(9)
        assert await is_held(host, B, claim(b"b"))
        await trio.sleep(2)
        won = await host.take_lease(B, claim(b"b"))
        assert won.token > first.token
        assert await is_held(host, A, claim(b"a"))
        with pytest.raises(FencedError):
            await host.renew_leases(A, 10)
        await host.renew_leases(A, 10)  # it is told once
        await host.release_lease(A, "lock", b"a", 0, LAST)
        assert await is_held(host, A, claim(b"a"))

    run(tmp_path, body)


def test_all_of_a_connection_is_renewed_together_and_who_does_not_renew_has_lost(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        for name in ("one", "two"):
            await host.take_lease(A, claim(b"a", name))
            await host.take_lease(B, claim(b"b", name + "'"))
        for _ in range(5):
            await trio.sleep(8)
            await host.renew_leases(A, 10)
        for name in ("one", "two"):
            assert await is_held(host, C, claim(b"c", name))
            assert not await is_held(host, C, claim(b"c", name + "'"))

    run(tmp_path, body)


def test_who_is_late_keeps_what_nobody_wanted(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        kept = await host.take_lease(A, claim(b"a", "kept"))
        gone = await host.take_lease(A, claim(b"a", "gone"))
        host.leave(A)
        await trio.sleep(60)
        await host.take_lease(B, claim(b"b", "gone"))
        await host.release_lease(B, "gone", b"b", 0, LAST)
        again = await host.take_lease(C, claim(b"a", "kept", token=kept.token))
        assert again.token > kept.token
        with pytest.raises(FencedError):  # nobody has it now, but somebody had
            await host.take_lease(C, claim(b"a", "gone", token=gone.token))
        assert await is_held(host, B, claim(b"b", "kept"))
        with pytest.raises(FencedError):
            await host.take_lease(C, claim(b"a", "never", token=again.token))

    run(tmp_path, body)


def test_a_lease_of_somebody_who_never_comes_back_ends_some_day(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        lease = await host.take_lease(A, claim(b"a"))
        host.leave(A)
        await trio.sleep(leases_module.COURTESY + 11)
        await host.tidy_leases()
        with pytest.raises(FencedError):
            await host.take_lease(A, claim(b"a", token=lease.token))

    run(tmp_path, body)


def test_who_waits_is_given_it_in_turn(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        order: list[bytes] = []
        told: list[HeldError] = []

        async def wait(client: str, owner: bytes) -> None:
            await host.take_lease(client, claim(owner), told.append)
            order.append(owner)
            await trio.sleep(1)
            await host.release_lease(client, "lock", owner, 0, LAST)

        await host.take_lease(A, claim(b"a"))
        async with trio.open_nursery() as nursery:
            for owner in (b"1", b"2", b"3"):
                nursery.start_soon(wait, B, owner)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1)
            assert order == []
            await host.release_lease(A, "lock", b"a", 0, LAST)
            await trio.sleep(0.5)
            assert await is_held(host, A, claim(b"a"))
        assert order == [b"1", b"2", b"3"]
        assert [(held.start, held.end, held.exclusive) for held in told] == [(0, LAST, True)] * 3
        assert not await is_held(host, A, claim(b"a"))

    run(tmp_path, body)


def test_who_waits_is_given_it_when_the_holders_time_is_up(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a"))
        await trio.sleep(4)
        await host.renew_leases(A, 10)
        host.leave(A)
        start = trio.current_time()
        await host.take_lease(B, claim(b"b"), lambda _: None)
        assert 9.9 < trio.current_time() - start < 10.5

    run(tmp_path, body)


def test_who_stops_waiting_is_given_nothing(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a"))
        with trio.move_on_after(1):
            await host.take_lease(B, claim(b"b"), lambda _: None)
        await host.release_lease(A, "lock", b"a", 0, LAST)
        assert not await is_held(host, C, claim(b"c"))

    run(tmp_path, body)


def test_ranges_and_shared_leases_go_by_the_rules_of_locks(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a", start=0, end=9))
        await host.take_lease(B, claim(b"b", start=10, end=19, shared=True))
        await host.take_lease(C, claim(b"c", start=10, end=19, shared=True))
        assert await is_held(host, C, claim(b"c", start=9, end=10, shared=True))
        with pytest.raises(HeldError) as held:
            await host.test_lease(claim(b"x", start=5, end=15))
        assert (held.value.start, held.value.end, held.value.exclusive) == (0, 9, True)
        await host.test_lease(claim(b"x", start=15, end=30, shared=True))
        assert not await is_held(host, A, claim(b"a", start=20, end=30))  # a test takes nothing
        await host.release_lease(A, "lock", b"a", 4, 5)
        assert not await is_held(host, C, claim(b"c", start=4, end=5))
        with pytest.raises(InvalidError):
            await host.take_lease(A, claim(b"a", start=5, end=4))

    run(tmp_path, body)


def test_to_wait_for_oneself_through_others_is_refused(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a", "one"))
        await host.take_lease(B, claim(b"b", "two"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.take_lease, A, claim(b"a", "two"), lambda _: None)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeadlockError):
                await host.take_lease(B, claim(b"b", "one"), lambda _: None)
            nursery.cancel_scope.cancel()

    run(tmp_path, body)


def test_after_a_restart_only_those_are_given_leases_who_had_them(tmp_path: Path) -> None:
    tokens = {}

    async def before(host: ChainHost) -> None:
        tokens["lock"] = (await host.take_lease(A, claim(b"a"))).token
        await host.take_lease(B, claim(b"b", "other"))

    async def after(host: ChainHost) -> None:
        assert await is_held(host, C, claim(b"c"))
        assert await is_held(host, C, claim(b"c", "never held"))
        with pytest.raises(HeldError):
            await host.test_lease(claim(b"c", "never held"))
        for first in (0, 10):  # piece by piece
            again = await host.take_lease(A, claim(b"a", start=first, end=first + 9, token=tokens["lock"]))
            assert again.token > tokens["lock"]
        start = trio.current_time()
        other = await host.take_lease(C, claim(b"c", "other"), lambda _: None)  # B has not come back
        assert 9 < trio.current_time() - start < 11
        assert other.token > again.token
        assert await is_held(host, C, claim(b"c", start=5, end=5)) is False  # A was silent, too

    run(tmp_path, before, after)


def test_a_token_from_before_the_last_leases_is_worth_nothing(tmp_path: Path) -> None:
    tokens = []

    async def first(host: ChainHost) -> None:
        tokens.append((await host.take_lease(A, claim(b"a"))).token)

    async def second(host: ChainHost) -> None:
        await trio.sleep(11)
        await host.take_lease(B, claim(b"b"))
        await host.release_lease(B, "lock", b"b", 0, LAST)
        await host.take_lease(B, claim(b"b", "other"))

    async def third(host: ChainHost) -> None:
        with pytest.raises(FencedError):
            await host.take_lease(A, claim(b"a", token=tokens[0]))

    run(tmp_path, first, second, third)


def test_a_chain_without_leases_gives_them_at_once_after_a_restart(tmp_path: Path) -> None:
    async def closed(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a"))
        await host.release_lease(A, "lock", b"a", 0, LAST)

    async def opened(host: ChainHost) -> None:
        assert not await is_held(host, B, claim(b"b"))
        await host.release_lease(B, "lock", b"b", 0, LAST)
        await trio.sleep(leases_module.LULL)
        await host.tidy_leases()
        assert (await marks(host)) == [0.0]
        assert not await is_held(host, B, claim(b"b"))
        assert (await marks(host)) == [10.0]

    run(tmp_path, closed, opened)


async def marks(host: ChainHost) -> list[float]:
    """For how long leases were given, as it is written down."""
    data, _ = await host._log.document(leases_module.DOCUMENT)
    return [msgspec.msgpack.decode(data)[1]]


def test_no_lease_is_given_before_it_is_known_on_stable_storage_that_there_may_be_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(host: ChainHost) -> None:
        async def fail(*_: object) -> int:
            raise ClosedError("no")

        with monkeypatch.context() as patch:
            patch.setattr(host._log, "put_document", fail)
            with pytest.raises(ClosedError):
                await host.take_lease(A, claim(b"a"))
        assert not await is_held(host, B, claim(b"b"))
        with monkeypatch.context() as patch:
            patch.setattr(host._log, "put_document", fail)
            assert not await is_held(host, B, claim(b"b", "another"))  # it is known once for all

    run(tmp_path, body)


def test_there_is_a_bound_and_those_whose_time_is_up_make_room(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        leases = Leases(host._log, 1, LockBounds(locks_per_name=2, locks=4, waiters_per_name=1, waiters=1))
        _, leases._generation = await host._log.document(leases_module.DOCUMENT)
        leases._noted = 10.0
        for name in range(4):
            await leases.take(A, claim(b"a", str(name)))
        with pytest.raises(NoLocksError):
            await leases.take(B, claim(b"b", "more"))
        await leases.release(A, "0", b"a", 0, LAST)
        await leases.take(B, claim(b"b", "more"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leases.take, B, claim(b"b", "1"), lambda _: None)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(NoLocksError):
                await leases.take(B, claim(b"c", "1"), lambda _: None)
            nursery.cancel_scope.cancel()
        await trio.sleep(11)
        for name in range(4):
            await leases.take(C, claim(b"c", f"new {name}"))

    run(tmp_path, body)


def test_what_was_given_and_never_heard_of_does_not_stand_in_the_way(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a", start=0, end=99))
        host.leave(A)
        await host.take_lease(B, claim(b"a", start=0, end=9))  # the same owner, over another connection
        assert not await is_held(host, C, claim(b"c", start=10, end=99))
        assert await is_held(host, C, claim(b"c", start=0, end=9))

    run(tmp_path, body)


def test_what_an_owner_waits_for_over_a_connection_that_it_has_left_is_not_given_to_it(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        mine = await host.take_lease(A, claim(b"a", start=0, end=0))
        await host.take_lease(B, claim(b"b", start=1, end=1))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:  # the server has not noticed yet that this connection is of no use any more
                with pytest.raises(FencedError):
                    await host.take_lease(A, claim(b"a", start=1, end=1), lambda _: None)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await host.take_lease("connection a'", claim(b"a", start=0, end=0, token=mine.token))
            await host.release_lease(B, "lock", b"b", 1, 1)
        await trio.sleep(8)
        await host.renew_leases("connection a'", 10)
        await trio.sleep(8)
        assert await is_held(host, C, claim(b"c", start=0, end=0))
        assert not await is_held(host, C, claim(b"c", start=1, end=1))

    run(tmp_path, body)


def test_what_owners_have_whose_bytes_begin_alike_ends_at_once_over_all_other_connections(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        first = await host.take_lease(A, claim(b"one 1"))
        await host.take_lease(A, claim(b"one 2", "another"))
        await host.take_lease(A, claim(b"two 1", "third"))
        await host.take_lease(C, claim(b"one 3", "fourth"))
        await host.end_leases(C, b"one")
        assert not await is_held(host, B, claim(b"b"))
        assert not await is_held(host, B, claim(b"b", "another"))
        assert await is_held(host, B, claim(b"b", "third"))
        assert await is_held(host, B, claim(b"b", "fourth"))
        with pytest.raises(FencedError):
            await host.renew_leases(A, 10)
        with pytest.raises(FencedError):
            await host.take_lease(A, claim(b"one 1", token=first.token))

    run(tmp_path, body)


def test_what_owners_wait_for_whose_bytes_begin_alike_is_given_to_the_next(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        order: list[bytes] = []

        async def wait(client: str, owner: bytes) -> None:
            await host.take_lease(client, claim(owner), lambda _: None)
            order.append(owner)

        async def in_vain(client: str, owner: bytes) -> None:
            with pytest.raises(FencedError):
                await wait(client, owner)

        await host.take_lease(A, claim(b"one 1"))
        async with trio.open_nursery() as nursery:
            for waiter, client, owner in (
                (in_vain, B, b"one 2"), (wait, B, b"two 1"), (in_vain, B, b"one 3"), (wait, C, b"one 4"),
            ):  # fmt: skip
                nursery.start_soon(waiter, client, owner)
                await trio.testing.wait_all_tasks_blocked()
            await host.end_leases(C, b"one ")
            await trio.testing.wait_all_tasks_blocked()
            assert order == [b"two 1"]
            await host.release_lease(B, "lock", b"two 1", 0, LAST)
        assert order == [b"two 1", b"one 4"]

    run(tmp_path, body)


def test_whoever_waits_until_a_restarted_server_gives_something_waits_no_longer_when_that_ends(tmp_path: Path) -> None:
    async def before(host: ChainHost) -> None:
        await host.take_lease(A, claim(b"a"))

    async def after(host: ChainHost) -> None:
        async with trio.open_nursery() as nursery:

            async def in_vain() -> None:
                with pytest.raises(FencedError):
                    await host.take_lease(A, claim(b"one 1"), lambda _: None)

            nursery.start_soon(in_vain)
            await trio.sleep(1)
            await host.end_leases(C, b"one")
        await trio.sleep(11)
        assert not await is_held(host, B, claim(b"b"))

    run(tmp_path, before, after)
