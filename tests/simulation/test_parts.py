"""What a simulation hands in: threads that take turns, a network that fails, chance that repeats itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atedb import threads
from atedb.crypto.aead import random_bytes
from atedb.net.errors import ConnectionLostError
from atedb.testing.chance import determined
from atedb.testing.disk import FaultyDisk, PowerCut
from atedb.testing.links import LinkEnd
from atedb.testing.lockstep import Lockstep
from atedb.testing.network import CONNECT_SECONDS, Network, Reach


def run(test: Callable[[], Awaitable[None]]) -> None:
    trio.run(test, clock=MockClock(autojump_threshold=0))


# Threads


def test_the_programs_start_threads_where_a_simulation_can_have_them_take_turns() -> None:
    root = Path(__file__).parents[2]
    modules = [path for package in ("atedb", "atefs") for path in (root / package).rglob("*.py")]
    users = [path.relative_to(root) for path in modules if "to_thread" in path.read_text()]
    assert users == [Path("atedb/threads.py")]


def test_a_call_runs_in_a_thread_while_the_event_loop_stands_still() -> None:
    async def test() -> None:
        threads.hand_in(Lockstep(random.Random(1), 0.1))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await trio.lowlevel.checkpoint()

        def call() -> tuple[int, threading.Thread]:
            before = ticks
            for _ in range(10_000):
                pass
            return ticks - before, threading.current_thread()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            passed, thread = await threads.run(call)
            nursery.cancel_scope.cancel()
        assert passed == 0
        assert thread is not threading.current_thread()

    trio.run(test)


def test_what_a_call_raises_comes_back() -> None:
    async def test() -> None:
        threads.hand_in(Lockstep(random.Random(1), 0.1))
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)

    run(test)


def test_a_call_asks_the_event_loop_which_goes_on_meanwhile() -> None:
    async def test() -> None:
        threads.hand_in(Lockstep(random.Random(1), 0.1))
        token = trio.lowlevel.current_trio_token()

        async def answer(question: int) -> int:
            await trio.sleep(question)
            return question + 1

        found = await threads.run(lambda: [threads.ask(answer, number, token=token) for number in (1, 2)])
        assert found == [2, 3]
        assert trio.current_time() >= 3

    run(test)


def test_when_its_process_dies_a_call_that_waits_ends_with_it() -> None:
    async def test() -> None:
        lockstep = Lockstep(random.Random(1), 0.1)
        threads.hand_in(lockstep)
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:

            async def waits() -> None:
                with pytest.raises(PowerCut):
                    await threads.run(lambda: threads.ask(trio.sleep_forever, token=token))

            nursery.start_soon(waits)
            await trio.sleep(1)
            lockstep.kill(PowerCut())

    run(test)


# The network


class Peer:
    """A network with a server that keeps the ends it is given."""

    def __init__(self, longest: float = 1.0) -> None:
        self.network = Network(random.Random(3), longest)
        self.ends: list[LinkEnd] = []
        self.network.listener = self.ends.append


def test_messages_of_a_link_keep_their_order() -> None:
    async def test() -> None:
        peer = Peer()
        end = await peer.network.dial("m")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(50):
                    await end.send(b"%d" % number)

            nursery.start_soon(send)
            assert [int(await peer.ends[0].receive()) for _ in range(50)] == list(range(50))

    run(test)


def test_without_a_network_or_a_server_nobody_connects() -> None:
    async def test() -> None:
        peer = Peer()
        peer.network.set_reach("m", Reach.REFUSED)
        with pytest.raises(ConnectionLostError):
            await peer.network.dial("m")
        peer.network.set_reach("m", Reach.OPEN)
        await peer.network.dial("m")
        peer.network.end_server()
        with pytest.raises(ConnectionLostError):
            await peer.network.dial("m")

    run(test)


def test_a_silent_network_carries_nothing_and_does_not_say_so() -> None:
    async def test() -> None:
        peer = Peer()
        end = await peer.network.dial("m")
        peer.network.set_reach("m", Reach.SILENT)
        await end.send(b"lost")
        with trio.move_on_after(CONNECT_SECONDS) as bound:
            await peer.ends[0].receive()
        assert bound.cancelled_caught
        peer.network.set_reach("m", Reach.OPEN)
        await end.send(b"lost as well")
        with trio.move_on_after(CONNECT_SECONDS) as bound:
            await peer.ends[0].receive()
        assert bound.cancelled_caught

    run(test)


def test_a_link_is_cut_in_the_middle_of_a_conversation() -> None:
    async def test() -> None:
        peer = Peer(0.0)
        end = await peer.network.dial("m")
        peer.network.cut_after("m", 2)
        for number in b"123":
            await end.send(bytes([number]))
        with pytest.raises(ConnectionLostError):
            await end.send(b"4")
        with pytest.raises(ConnectionLostError):
            await peer.ends[0].receive()

    run(test)


# Chance and the disk


def test_random_bytes_follow_from_the_seed_inside_and_do_not_outside() -> None:
    found = []
    for seed in (1, 1, 2):
        with determined(seed):
            found.append(random_bytes(32))
    assert found[0] == found[1] != found[2]
    assert random_bytes(32) != random_bytes(32)


def test_a_killed_process_leaves_what_it_wrote_and_a_power_cut_what_it_synced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk = FaultyDisk(tmp_path / "disk")
    file = disk.create(disk.root / "f")
    file.write([b"synced"], 0)
    file.sync()
    disk.sync_folder(disk.root)
    file.write([b"SYNCED"], 0)
    disk.cut()
    with pytest.raises(PowerCut):
        file.write([b"nothing"], 0)
    assert (disk.root / "f").read_bytes() == b"SYNCED"
    disk.revive()
    file.write([b"again!"], 0)
    seen = set()
    for seed in range(20):
        found = tmp_path / f"found{seed}"
        found.mkdir()
        disk.survivors(found, random.Random(seed))
        seen.add((found / "f").read_bytes())
    assert seen == {b"synced", b"SYNCED", b"again!"}
