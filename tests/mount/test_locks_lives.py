"""Locks of one replica that is mounted again after its driver was killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atedb.errors import AteError, FencedError
from atedb.net.errors import RateError, RefusedError
from atefs.mount.leases import LEASE_SECONDS
from atefs.mount.standing import Holder
from tests.mount.lock_world import FILE, Mount, P, Q, Server, exclusive, run
from tests.vault.memory_chain import MemoryChain


@asynccontextmanager
async def mounted(server: Server, device: bytes) -> AsyncIterator[Mount]:
    """A mount of a replica. After the block nothing is heard of it, and nobody notices that it is gone."""
    mount = Mount(server, MemoryChain(), device=device)
    async with trio.open_nursery() as nursery:
        await mount.connect()
        nursery.start_soon(mount.locks.run)
        yield mount
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("same", [True, False])
def test_what_a_killed_mount_had_and_waited_for_ends_as_the_replica_is_mounted_again_and_no_other_one(
    same: bool,
) -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        assert await b.try_lock(P, exclusive(flock=True))
        async with trio.open_nursery() as dying:
            async with mounted(server, b"d" * 32) as killed:
                assert await killed.try_lock(P, exclusive())
                claim = killed.locks.leases.claim(Holder(FILE, Q, flock=True), exclusive())

            async def wait_in_vain() -> None:
                with suppress(FencedError):
                    await server.leases.take(killed.connection, claim, lambda _: None)

            dying.start_soon(wait_in_vain)
            await wait_all_tasks_blocked()
            async with mounted(server, (b"d" if same else b"e") * 32) as again:
                assert await again.try_lock(P, exclusive()) is same
                await b.unlock(P, flock=True)
                assert await again.try_lock(P, exclusive(flock=True)) is same
            dying.cancel_scope.cancel()

    run(test)


def test_what_a_killed_mount_had_goes_to_others_when_all_that_was_done_under_it_is_there() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        async with mounted(server, b"d" * 32) as killed:
            assert await killed.try_lock(P, exclusive())
        async with mounted(server, b"d" * 32) as again:
            again.settling = 3.0
            start = trio.current_time()
            assert await again.try_lock(Q, exclusive(flock=True))  # nobody else has to wait for that
            assert trio.current_time() == start
            await b.locks.lock(FILE, P, exclusive(), wait=True)
            assert again.steps[-1] == "settled"
            assert trio.current_time() - start == pytest.approx(again.settling)

    run(test)


def test_what_a_mount_has_itself_outlives_its_connections() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        async with mounted(server, b"d" * 32) as mount:
            for _ in range(3):
                assert await mount.try_lock(P, exclusive())
                mount.cut()
                await mount.connect()
            await trio.sleep(LEASE_SECONDS)
            assert mount.locks.leases.holdings.lost == 0
            assert not await b.try_lock(P, exclusive())

    run(test)


def test_what_a_mount_has_itself_does_not_end_when_earlier_ones_are_ended_late() -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        async with mounted(server, b"d" * 32) as mount:
            mount.settling = 10.0
            assert await mount.try_lock(P, exclusive())
            await trio.sleep(1)
            mount.cut()
            server.refused = {mount.locks.leases.claim(Holder(FILE, P, flock=False), exclusive()).name}
            await mount.connect()  # the server does not know over this connection yet what it has
            await trio.sleep(LEASE_SECONDS - 5)
            server.refused.clear()
            await trio.sleep(LEASE_SECONDS)
            assert mount.locks.leases.holdings.lost == 0
            assert not await b.try_lock(P, exclusive())

    run(test)


@pytest.mark.parametrize("refusal", [RefusedError("you may read only"), RateError("slower")])
def test_a_server_that_does_not_end_what_a_killed_mount_had_ends_it_with_its_lease(refusal: AteError) -> None:
    async def test(a: Mount, b: Mount, server: Server) -> None:
        async with mounted(server, b"d" * 32) as killed:
            assert await killed.try_lock(P, exclusive())
            server.refusal = refusal
        async with mounted(server, b"d" * 32) as again:
            await trio.sleep(LEASE_SECONDS / 2)
            server.refusal = None
            await again.locks.lock(FILE, P, exclusive(), wait=True)
            assert trio.current_time() <= LEASE_SECONDS + 1

    run(test)
