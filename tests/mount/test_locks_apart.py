"""Locks of mounts whose link is cut, whose server is restarted or silent: kept, lost, or of this machine only."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atedb.errors import AteError, BusyError, FencedError, UnreachableError
from atedb.net.errors import RateError, UnavailableError
from atefs.mount.leases import LEASE_SECONDS, RENEW_SECONDS
from atefs.mount.standing import Holder
from tests.mount.lock_world import FILE, GRACE, Mount, P, Q, Server, exclusive, run, shared


def test_locks_are_had_over_the_next_connection_as_well_and_renewed() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        assert await a.try_lock(P, shared(20, 29))
        for _round in range(3):
            a.cut()
            await trio.sleep(LEASE_SECONDS - 1)
            await a.connect()
            await trio.sleep(3 * LEASE_SECONDS)
            assert not await b.try_lock(P, exclusive(0, 0))
            assert not await b.try_lock(P, exclusive(29, 29))
            assert await b.try_lock(P, shared(29, 29))
            await b.unlock(P)
        assert a.locks.leases.holdings.lost == 0

    run(test)


@pytest.mark.expect_log("is lost")
def test_a_lock_that_somebody_else_had_meanwhile_is_lost_and_one_that_nobody_wanted_is_not() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        assert await a.try_lock(P, exclusive(flock=True))
        a.cut()
        await trio.sleep(LEASE_SECONDS + 1)
        assert await b.try_lock(P, exclusive(3, 3))
        await b.unlock(P)
        await a.connect()
        assert a.locks.leases.holdings.lost == 1
        assert not a.locks.holds(FILE, P, flock=False)
        assert a.locks.holds(FILE, P, flock=True)
        assert await b.try_lock(P, exclusive())
        assert not await b.try_lock(P, exclusive(flock=True))

    run(test)


@pytest.mark.expect_log("is lost")
def test_a_mount_that_was_asleep_notices_what_it_has_lost_when_it_renews() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive())
        assert a.connection is not None
        server.leases._sessions[a.connection].ends = trio.current_time()
        assert await b.try_lock(P, exclusive())
        await trio.sleep(LEASE_SECONDS)
        assert a.locks.leases.holdings.lost == 1
        assert not a.locks.holds(FILE, P, flock=False)

    run(test)


@pytest.mark.parametrize("refusal", [RateError("slower"), BusyError("not now"), UnavailableError("its disk is full")])
def test_locks_are_renewed_again_after_a_server_has_refused_it_for_a_while(refusal: AteError) -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive())
        server.refusal = refusal
        await trio.sleep(2 * RENEW_SECONDS)
        server.refusal = None
        await trio.sleep(2 * LEASE_SECONDS)
        assert not await b.try_lock(P, exclusive())
        assert a.locks.leases.holdings.lost == 0
        await a.unlock(P)
        assert await b.try_lock(P, exclusive())

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_what_was_locked_without_a_server_that_refuses_it_at_first_is_locked_there_in_the_end() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await b.try_lock(P, exclusive(9, 9))
        a.cut()
        assert await a.try_lock(P, exclusive(0, 9))
        await a.connect()
        server.refusal = RateError("slower")
        await trio.sleep(2 * RENEW_SECONDS)
        server.refusal = None
        await b.unlock(P)
        await trio.sleep(RENEW_SECONDS)
        assert not await b.try_lock(P, exclusive(0, 0))
        assert a.locks.leases.holdings.lost == 0

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_without_a_server_locks_are_this_machines_and_then_the_servers() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        a.cut()
        start = trio.current_time()
        assert await a.try_lock(P, exclusive(0, 9))
        assert trio.current_time() - start == pytest.approx(GRACE)
        assert not await a.try_lock(Q, exclusive(0, 9))
        assert await a.locks.test(FILE, Q, exclusive(0, 9)) is not None
        assert await a.locks.test(FILE, Q, exclusive(10, 19)) is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.locks.lock(FILE, Q, exclusive(9, 9), wait=True))
            await wait_all_tasks_blocked()
            await a.unlock(P, 9, 9)
        assert a.locks.status() == {"held": 2, "waiting": 0, "lost": 0, "shared": False}
        await a.connect()
        assert not await b.try_lock(P, exclusive(9, 9))
        assert not await b.try_lock(P, exclusive(0, 0))
        await a.unlock(Q)
        assert await b.try_lock(P, exclusive(9, 9))

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_who_waits_without_a_server_goes_on_waiting_with_it() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await b.try_lock(P, exclusive(10, 10))
        a.cut()
        assert await a.try_lock(P, exclusive(0, 9))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: a.locks.lock(FILE, Q, exclusive(0, 10), wait=True))
            await wait_all_tasks_blocked()
            await a.connect()
            await a.unlock(P)
            await trio.sleep(1)
            assert not a.locks.holds(FILE, Q, flock=False)
            assert a.locks.status()["waiting"] == 1
            await b.unlock(P)
        assert not await b.try_lock(P, exclusive(0, 0))

    run(test)


@pytest.mark.expect_log("on this machine only|is lost")
def test_a_lock_from_without_the_server_that_somebody_has_is_lost_in_the_end() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        a.cut()
        assert await a.try_lock(P, exclusive())
        assert await b.try_lock(P, exclusive())
        await a.connect()
        await trio.sleep(LEASE_SECONDS + 2)
        assert a.locks.leases.holdings.lost == 1
        assert not a.locks.holds(FILE, P, flock=False)

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_a_restarted_server_gives_locks_to_those_who_had_them_and_to_others_later() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        a.cut()
        b.cut()
        await server.start()
        await trio.sleep(GRACE)
        assert await b.try_lock(P, exclusive(10, 19))  # without the server
        await a.connect()
        await b.connect()
        assert not await a.try_lock(P, exclusive(0, 10))  # as long as the server does not know who had what
        assert await a.try_lock(P, exclusive(0, 9))  # but this is what it had
        assert await a.try_lock(P, exclusive(2, 3))
        await trio.sleep(LEASE_SECONDS + 1)
        assert (a.locks.leases.holdings.lost, b.locks.leases.holdings.lost) == (0, 0)
        assert not await b.try_lock(Q, exclusive(0, 9))
        assert not await a.try_lock(Q, exclusive(10, 19))
        await a.unlock(P)
        assert await b.try_lock(Q, exclusive(0, 9))

    run(test)


def test_a_restarted_server_lets_those_who_had_a_lock_have_it_shared_at_once() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        a.cut()
        b.cut()
        await server.start()
        await a.connect()
        await b.connect()
        assert await a.try_lock(P, shared(0, 9))
        await trio.sleep(1)
        assert a.locks.leases.holdings.lost == 0
        await trio.sleep(LEASE_SECONDS + 1)
        assert not await b.try_lock(Q, exclusive(0, 9))
        assert await b.try_lock(Q, shared(0, 9))

    run(test)


@pytest.mark.expect_log("is lost")
@pytest.mark.parametrize("still", [True, False])
def test_who_asks_for_what_it_has_already_is_not_told_so_if_others_have_got_it(still: bool) -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        assert a.connection is not None
        server.leases._sessions[a.connection].ends = trio.current_time()  # it was asleep for long
        assert await b.try_lock(P, exclusive(9, 9))
        if not still:
            await b.unlock(P)
        assert await a.try_lock(P, exclusive(0, 9)) is not still
        assert a.locks.leases.holdings.lost == 1
        assert a.locks.holds(FILE, P, flock=False) is not still

    run(test)


def test_what_was_given_back_without_the_server_is_given_back_when_all_is_there() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.cut()
        await a.unlock(P)
        assert a.steps[-1:] != ["settled"]
        a.settling = 3.0
        await a.connect()
        assert not await b.try_lock(P, exclusive())
        await trio.sleep(4)
        assert a.steps[-1] == "settled"
        assert await b.try_lock(P, exclusive())
        assert a.locks.leases.holdings.lost == 0

    run(test)


def test_where_nothing_may_be_done_without_a_server_nobody_gets_a_lock() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.cut()
        for wait in (False, True):
            start = trio.current_time()
            with pytest.raises(UnreachableError):
                await a.locks.lock(FILE, Q, shared(), wait=wait)
            assert trio.current_time() - start <= GRACE
        with pytest.raises(UnreachableError):
            await b_waits_while_its_link_is_cut(b)
        await a.unlock(P)
        assert not a.locks.holds(FILE, P, flock=False)

    async def b_waits_while_its_link_is_cut(b: Mount) -> None:
        failure: list[Exception] = []

        async def wait() -> None:
            try:
                await b.locks.lock(FILE, P, exclusive(), wait=True)
            except UnreachableError as error:
                failure.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            b.cut()
        raise failure[0]

    run(test, alone=False)


def test_tokens_rise_with_each_time_a_lock_is_had() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        tokens = []
        for mount, _round in itertools.product((a, b), range(2)):
            assert mount.locks.token(FILE) == 0
            assert await mount.try_lock(P, exclusive(flock=True))
            tokens.append(mount.locks.token(FILE))
            await mount.unlock(P, flock=True)
        assert sorted(set(tokens)) == tokens

    run(test)


def test_without_the_token_a_lock_that_others_had_is_had_again_unnoticed() -> None:
    """The negative twin of losing one: this is what tokens are for."""

    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await a.try_lock(P, exclusive())
        holder = Holder(FILE, P, flock=False)
        token = a.locks.leases.holdings.standings[holder].token
        a.cut()
        await trio.sleep(LEASE_SECONDS + 1)
        assert await b.try_lock(P, exclusive())
        await b.unlock(P)
        claim = a.locks.leases.claim(holder, exclusive())
        await server.leases.take("a", claim)
        with pytest.raises(FencedError):
            await server.leases.take("a", claim._replace(token=token))

    run(test)
