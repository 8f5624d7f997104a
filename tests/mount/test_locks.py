"""Locks between mounts that have their server: who gets them, when, and what has been done by then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atedb.errors import UnreachableError
from atedb.net.errors import DeadlockError
from atedb.net.locks import Lock
from atefs.mount.leases import LOCK_SECONDS, RELEASE_SECONDS
from atefs.mount.locks import FOLLOW_SECONDS
from atefs.mount.standing import Holder
from tests.mount.lock_world import FILE, Mount, P, Q, Server, exclusive, run, shared


def test_what_one_mount_has_the_other_one_has_not_though_their_owners_have_the_same_number() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        assert not await b.try_lock(P, exclusive(9, 9))
        assert not await a.try_lock(Q, shared(9, 9))
        assert await b.try_lock(P, exclusive(10, 19))
        assert await b.try_lock(P, exclusive(flock=True))
        found = await b.locks.test(FILE, P, shared())
        assert found == Lock(0, 9, True, 0)
        assert await a.locks.test(FILE, Q, shared(0, 5)) == Lock(0, 9, True, 1)
        assert await a.locks.test(FILE, P, shared(0, 9)) is None
        await a.unlock(P, 5, 5)
        assert await b.try_lock(P, exclusive(5, 5))

    run(test)


def test_all_is_on_the_server_before_a_lock_is_given_back_and_here_before_it_is_had() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        a.settling, b.following = 1.0, 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: b.locks.lock(FILE, P, exclusive(), wait=True))
            await wait_all_tasks_blocked()
            start = trio.current_time()
            await a.unlock(P)
        assert trio.current_time() - start == pytest.approx(2.0, abs=0.1)
        assert a.steps[-1] == "settled"
        assert b.steps == ["followed 11"]

    run(test)


def test_what_was_only_read_under_a_lock_has_nobody_wait() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, shared())
        await a.unlock(P)
        assert "settled" not in a.steps
        assert await b.try_lock(P, exclusive())

    run(test)


def test_to_share_what_one_had_alone_is_to_give_something_back() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        assert await a.try_lock(P, shared(0, 9))
        assert a.steps[-1] == "settled"
        assert await b.try_lock(P, shared(0, 9))
        assert not await b.try_lock(P, shared(0, 10))
        assert not await a.try_lock(P, exclusive(0, 9))
        assert await a.try_lock(P, exclusive(10, 20))

    run(test)


def test_to_share_what_one_had_alone_and_more_is_to_have_all_on_the_server_first() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        a.settling = 1.0
        start = trio.current_time()
        assert await a.try_lock(P, shared(5, 14))
        assert a.steps[-2] == "settled"
        assert await b.try_lock(P, shared(5, 14))
        a.settling = RELEASE_SECONDS + 1
        assert not await a.try_lock(P, shared(0, 20))
        assert trio.current_time() - start == pytest.approx(1.0 + RELEASE_SECONDS)
        assert not await b.try_lock(P, shared(0, 0))

    run(test)


def test_to_convert_a_flock_is_to_give_it_up_first() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, shared(flock=True))
        assert await b.try_lock(P, shared(flock=True))
        assert not await a.try_lock(P, exclusive(flock=True))
        assert not a.locks.holds(FILE, P, flock=True)
        assert await b.try_lock(P, exclusive(flock=True))

    run(test)


def test_a_lock_that_cannot_be_settled_is_given_back_later() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.settling = RELEASE_SECONDS + 3
        start = trio.current_time()
        await a.unlock(P)
        assert trio.current_time() - start == pytest.approx(RELEASE_SECONDS)
        assert not await b.try_lock(P, exclusive())
        a.settling = 1.0
        await b.locks.lock(FILE, P, exclusive(), wait=True)
        assert "settled" in a.steps

    run(test)


def test_a_lock_that_takes_too_long_to_give_back_is_given_back_as_soon_as_all_is_on_the_server() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        start = trio.current_time()
        a.settled_at = start + RELEASE_SECONDS + 0.1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.unlock, P)
            nursery.start_soon(lambda: b.locks.lock(FILE, P, exclusive(), wait=True))
        assert trio.current_time() - start == pytest.approx(RELEASE_SECONDS + 0.1)

    run(test)


def test_a_program_that_is_killed_as_it_gives_a_lock_back_has_it_given_back_all_the_same() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.settling = 1.0
        with trio.move_on_after(0.5):
            await a.unlock(P)
        start = trio.current_time()
        await b.locks.lock(FILE, P, exclusive(), wait=True)
        assert trio.current_time() - start == pytest.approx(1.0)

    run(test)


def test_for_many_locks_it_is_waited_once_until_all_is_on_the_server() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        for ino in range(100, 300):
            assert await a.try_lock(P, exclusive(), ino)
        a.settling = RELEASE_SECONDS + 1
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for ino in range(100, 300):
                nursery.start_soon(cast(Any, a.locks.unlock(ino, P)))
        for ino in range(100, 300):
            await b.locks.lock(ino, P, exclusive(), wait=True)
        assert trio.current_time() - start < 3 * a.settling
        assert a.steps.count("settled") <= 2

    run(test)


def test_who_wants_back_what_it_has_just_given_back_waits_for_as_long_as_that_moves() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.settled_at = trio.current_time() + 100
        await a.unlock(P)
        start = trio.current_time()
        assert not await a.try_lock(P, exclusive())  # without patience it is not waited for
        assert trio.current_time() - start == pytest.approx(RELEASE_SECONDS)
        await a.locks.lock(FILE, P, exclusive(), wait=True)
        assert trio.current_time() == pytest.approx(a.settled_at)
        assert not await b.try_lock(P, exclusive())

    run(test, alone=False)


def test_who_wants_back_what_cannot_be_given_back_is_told_so() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.settling, a.unsettled = 1.0, UnreachableError("it takes nothing")
        await a.unlock(P)
        for wait in (False, True):
            start = trio.current_time()
            with pytest.raises(UnreachableError, match="it takes nothing"):
                await a.locks.lock(FILE, P, exclusive(), wait=wait)
            assert trio.current_time() - start < RELEASE_SECONDS + 2 * a.settling
        a.unsettled = None
        await b.locks.lock(FILE, P, exclusive(), wait=True)

    run(test, alone=False)


def test_the_next_owner_of_a_number_is_not_harmed_by_what_the_last_one_gives_back() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        for _round in range(10):
            assert await a.try_lock(P, exclusive(flock=True))
            done = a.locks.unlock(FILE, P, flock=True)
            assert done is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: a.locks.lock(FILE, P, exclusive(flock=True), wait=True))
                nursery.start_soon(done)
            assert not await b.try_lock(P, exclusive(flock=True))
            await a.unlock(P, flock=True)
        assert await b.try_lock(P, exclusive(flock=True))

    run(test)


def test_who_gives_up_waiting_has_nothing_also_if_it_was_given_at_that_moment() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, shared(0, 9))
        assert await b.try_lock(P, shared(0, 9))
        assert b.connection is not None
        b.connection.delay = 1.0  # the answer is on its way when it is no longer waited for
        with trio.move_on_after(2):
            await b.locks.lock(FILE, P, exclusive(0, 9), wait=True)
        with trio.move_on_after(0.5) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: b.locks.lock(FILE, P, exclusive(0, 9), wait=True))
                await wait_all_tasks_blocked()
                await a.unlock(P)
        assert scope.cancelled_caught
        b.connection.delay = 0.0
        await trio.sleep(1)
        assert await a.try_lock(P, shared(0, 9))  # b has what it had
        assert not await a.try_lock(P, exclusive(0, 9))
        assert b.locks.status()["waiting"] == 0

    run(test)


def test_waiting_for_oneself_through_another_machine_is_found_out() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 0))
        assert await b.try_lock(P, exclusive(1, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.locks.lock(FILE, P, exclusive(1, 1), wait=True))
            await wait_all_tasks_blocked()
            with pytest.raises(DeadlockError):
                await b.locks.lock(FILE, P, exclusive(0, 0), wait=True)
            nursery.cancel_scope.cancel()

    run(test)


def test_a_server_that_does_not_answer_wedges_nobody() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        server.silent = True
        for call, bound in (
            (lambda: a.locks.lock(FILE, Q, exclusive(10, 19), wait=False), LOCK_SECONDS),
            (lambda: a.locks.test(FILE, Q, exclusive(10, 19)), LOCK_SECONDS),
        ):
            start = trio.current_time()
            with pytest.raises(UnreachableError):
                await cast(Any, call)()
            assert trio.current_time() - start <= bound + 0.1
        start = trio.current_time()
        await a.unlock(P)
        assert trio.current_time() - start <= RELEASE_SECONDS + 0.1

    run(test, alone=False)


def test_many_who_want_one_file_of_a_server_that_does_not_answer_wait_no_longer_than_one() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        server.silent = True
        start = trio.current_time()

        async def ask(at: int) -> None:
            with pytest.raises(UnreachableError):
                await a.locks.lock(FILE, P + at, exclusive(at, at), wait=False)
            assert trio.current_time() - start <= LOCK_SECONDS + 0.1

        async with trio.open_nursery() as nursery:
            for at in range(20):
                nursery.start_soon(ask, at)

    run(test, alone=False)


@pytest.mark.parametrize("wait", [False, True])
def test_a_link_that_is_lost_again_and_again_before_anything_is_answered_wedges_nobody(wait: bool) -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        async def flap() -> None:
            while True:
                assert a.connection is not None
                a.connection.delay = 1.0
                await trio.sleep(0.5)
                a.cut()
                await trio.sleep(0.5)
                await a.connect()

        for call in (
            lambda: a.locks.lock(FILE, P, exclusive(), wait=wait),
            lambda: a.locks.test(FILE, P, exclusive()),
        ):
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flap)
                with pytest.raises(UnreachableError):
                    await cast(Any, call)()
                assert trio.current_time() - start < 2 * LOCK_SECONDS
                nursery.cancel_scope.cancel()
            (a.connection or await a.connect()).delay = 0.0
            await trio.sleep(1)
        assert await b.try_lock(P, exclusive())

    run(test, alone=False)


def test_who_waits_for_what_somebody_has_does_so_however_often_the_link_is_lost() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await b.try_lock(P, exclusive())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.locks.lock(FILE, P, exclusive(), wait=True))
            for _round in range(100):
                await trio.sleep(1)
                a.cut()
                await trio.sleep(0.1)
                await a.connect()
            await trio.sleep(1)
            assert a.locks.status()["waiting"] == 1
            await b.unlock(P)
        assert not await b.try_lock(P, exclusive())

    run(test, alone=False)


@pytest.mark.expect_log("on this machine only|is lost")
def test_who_waits_for_what_another_program_here_has_without_the_server_waits_until_that_is_clear() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        a.cut()
        assert await a.try_lock(Q, exclusive())
        assert await b.try_lock(P, exclusive())
        await a.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.locks.lock(FILE, P, exclusive(), wait=True))
            await trio.sleep(1)
            server.refused = {a.locks.leases.claim(Holder(FILE, Q, flock=False), exclusive()).name}
            await b.unlock(P)
            await trio.sleep(1)
            server.refused.clear()
            await trio.sleep(1)
            assert not a.locks.holds(FILE, P, flock=False)
            await a.unlock(Q)
        assert a.locks.holds(FILE, P, flock=False)
        assert not await b.try_lock(P, exclusive())

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_a_server_that_does_not_answer_counts_as_none_where_locks_may_be_this_machines() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        server.silent = True
        for asked in (a.try_lock(P, exclusive(0, 9)), a.locks.test(FILE, Q, exclusive(10, 19))):
            start = trio.current_time()
            assert await cast(Any, asked) in (True, None)
            assert trio.current_time() - start <= LOCK_SECONDS + 0.1
        assert not await a.try_lock(Q, exclusive(9, 9))
        a.cut()
        server.silent = False
        await a.connect()
        assert not await b.try_lock(Q, exclusive(9, 9))
        assert a.locks.leases.holdings.lost == 0

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_a_link_that_is_cut_while_a_lock_is_asked_for_or_tested_is_no_error() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        for ask in (lambda: a.try_lock(P, exclusive(0, 9)), lambda: a.locks.test(FILE, Q, exclusive(10, 19))):
            answers: list[object] = []

            async def asking(ask: Callable[[], Awaitable[object]] = ask, answers: list[object] = answers) -> None:
                answers.append(await ask())

            server.silent = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asking)
                await trio.sleep(1)
                a.cut()
            assert answers in ([True], [None])
            server.silent = False
            await a.connect()
        assert not await b.try_lock(Q, exclusive(9, 9))

    run(test)


def test_what_is_not_here_in_time_is_not_had() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await b.try_lock(P, exclusive(5, 5))
        b.following = FOLLOW_SECONDS + 10
        with pytest.raises(UnreachableError):
            await b.locks.lock(FILE, P, exclusive(0, 9), wait=False)
        b.following = 0.0
        await trio.sleep(1)
        assert await a.try_lock(P, exclusive(0, 4))  # it was given back
        assert not await a.try_lock(P, exclusive(5, 5))  # and what was had before is had

    run(test, alone=False)
