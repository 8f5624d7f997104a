"""When what is synced is promised, and when it is committed instead."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from atefs.mount.committer import BRAKE_BYTES, INTERVAL, MIB
from tests.mount.scene import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_lone_syncs_are_promises_while_there_is_room_and_one_commit_later(scene: Scene) -> None:
    async def play() -> None:
        chain = scene.chain
        chain.room = 2
        for number in range(1, 3):
            scene.write(4096)
            await scene.committer.sync()
            await scene.committer.sync()  # nothing is new
            assert (chain.promises, chain.written, chain.barriers) == (number, 0, 0)
            assert not scene.committer.clean
        await trio.sleep(INTERVAL + 0.1)
        assert (chain.promises, chain.written, scene.vault.settled_bytes) == (2, 1, 8192)
        scene.write(4096)
        await scene.committer.sync()
        assert (chain.promises, chain.written) == (2, 2)

    scene.play(play)


def test_several_who_sync_at_once_share_a_promise_and_what_is_due_stays_due(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.room = 100

        async def one() -> None:
            scene.write(4096)
            await trio.testing.wait_all_tasks_blocked()
            await scene.committer.sync_here()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        assert (scene.chain.promises, scene.chain.written, scene.chain.barriers) == (1, 0, 0)
        await trio.sleep(INTERVAL + 0.1)
        assert (scene.chain.written, scene.vault.settled_bytes) == (1, 4 * 4096)

    scene.play(play)


def test_who_waits_for_room_waits_for_a_commit(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.room = 100
        scene.write(BRAKE_BYTES + 1)
        scene.committer._weigh()
        await scene.committer.room()
        assert (scene.chain.promises, scene.chain.written) == (0, 1)

    scene.play(play)


def test_more_than_is_done_on_the_spot_goes_the_long_way_when_it_finds_no_room(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.room = 3
        for _ in range(3):
            scene.write(MIB // 2)
            assert scene.committer.sync_now()
        scene.write(MIB // 2)
        assert not scene.committer.sync_now()
        await scene.committer.sync()
        assert (scene.chain.promises, scene.chain.written, scene.vault.settled_bytes) == (3, 1, 2 * MIB)

    scene.play(play)


def test_what_was_promised_is_committed_when_there_is_no_room_for_more(scene: Scene) -> None:
    async def play() -> None:
        chain = scene.chain
        chain.room = 1
        for _ in range(2):
            scene.write(4096)
            await scene.committer.sync()
        assert (chain.promises, chain.written, chain.barriers) == (1, 1, 1)
        await scene.committer.share()
        assert (scene.vault.settled_bytes, scene.committer.clean) == (8192, True)

    scene.play(play)


def test_a_slow_disk_is_not_waited_for_on_the_spot(scene: Scene) -> None:
    async def play() -> None:
        chain = scene.chain
        chain.room = 100
        scene.committer._barrier_mean = 1.0
        scene.write(4096)
        await scene.committer.sync()
        assert (chain.promises, chain.written, chain.barriers) == (0, 1, 1)

    scene.play(play)
