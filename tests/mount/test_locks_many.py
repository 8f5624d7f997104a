"""Many locks of a mount that comes back to its server: had again and given back in bounded time, each for itself."""

from __future__ import annotations

import pytest
import trio

from atedb.errors import UnreachableError
from atefs.mount.leases import LEASE_SECONDS, LOCK_SECONDS
from atefs.mount.standing import Holder
from tests.mount.lock_world import FILE, GRACE, Mount, P, Q, Server, exclusive, run, shared


@pytest.mark.expect_log("on this machine only")
def test_who_locks_and_unlocks_again_and_again_without_the_server_is_of_no_more_weight_than_who_does_once() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, shared(128, 128))  # for as long as it lives, as SQLite has one in WAL mode
        assert await a.try_lock(P, exclusive(120, 125))
        a.cut()
        await trio.sleep(GRACE)
        for round in range(3000):
            start = 120 + round % 3
            assert await a.try_lock(P, shared(start, start) if round % 2 else exclusive(start, 125))
            await a.unlock(P, start, 125)
        connection = await a.connect()
        await trio.sleep(1)
        assert connection.asked < 10
        assert a.steps.count("settled") == 1
        assert a.locks.leases.holdings.lost == 0
        assert not await b.try_lock(P, exclusive(128, 128))
        assert await b.try_lock(P, exclusive(120, 127))

    run(test)


@pytest.mark.expect_log("on this machine only")
def test_what_was_locked_without_the_server_only_is_not_had_there_to_be_given_back() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, shared(128, 128))
        a.cut()
        assert await a.try_lock(P, exclusive(0, 9))
        await a.unlock(P, 0, 9)
        assert await b.try_lock(P, exclusive(0, 9))
        await a.connect()
        await trio.sleep(1)
        assert a.locks.leases.holdings.lost == 0
        assert not await b.try_lock(P, exclusive(128, 128))

    run(test)


def test_however_many_locks_there_are_they_are_had_again_if_each_answer_comes_in_time() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        for ino in range(1000, 2000):
            assert await a.try_lock(P, exclusive(), ino)
        for at in range(0, 2000, 2):
            assert await a.try_lock(Q, shared(at, at))
        a.cut()
        start = trio.current_time()
        connection = await a.connect(delay=1.0)
        assert trio.current_time() - start > 2 * LOCK_SECONDS
        assert connection.asked == 2000
        assert a.locks.leases.holdings.lost == 0
        assert not await b.try_lock(P, exclusive(), 1999)
        assert not await b.try_lock(P, exclusive(1998, 1998))

    run(test)


def test_an_answer_that_does_not_come_in_time_has_a_new_connection_made() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive())
        a.cut()
        with pytest.raises(UnreachableError):
            await a.connect(delay=LOCK_SECONDS + 1)
        await a.connect()
        assert not await b.try_lock(P, exclusive())
        assert a.locks.leases.holdings.lost == 0

    run(test)


def test_a_lock_that_the_server_refuses_to_take_over_is_kept_and_taken_over_later_and_all_others_at_once() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        for ino in (FILE, FILE + 1):
            assert await a.try_lock(P, exclusive(), ino)
        a.cut()
        server.refused = {a.locks.leases.claim(Holder(FILE, P, flock=False), exclusive()).name}
        await a.connect()
        with pytest.raises(UnreachableError):  # that the server has its other lock over this connection is not known
            await a.locks.lock(FILE, P, exclusive(), wait=False)
        assert await a.try_lock(P, exclusive(), FILE + 1)
        assert not await b.try_lock(P, exclusive(), FILE + 1)
        server.refused.clear()
        await trio.sleep(3 * LEASE_SECONDS)
        assert not await b.try_lock(P, exclusive())
        assert a.locks.leases.holdings.lost == 0

    run(test, alone=False)


def test_what_was_given_back_unanswered_and_others_have_since_is_no_lock_that_was_lost() -> None:
    async def test(a: Mount, b: Mount, _: Server) -> None:
        assert await a.try_lock(P, exclusive(0, 9))
        assert a.connection is not None
        a.connection.delay = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.try_lock, P, shared(0, 9))
            await trio.sleep(0.5)
            a.cut()
        assert await b.try_lock(P, shared(0, 9))
        await a.connect()
        await trio.sleep(1)
        assert a.locks.leases.holdings.lost == 0
        assert not await b.try_lock(P, exclusive(0, 9))
        await a.unlock(P)
        assert await b.try_lock(P, exclusive(0, 9))

    run(test)
