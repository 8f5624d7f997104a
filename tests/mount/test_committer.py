"""When commits happen, who shares them, and who learns that one failed."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio
import trio.testing

from atedb.errors import Absent, NoSpaceError, NotResident, StorageError
from atefs.mount import committer as module
from atefs.mount.committer import BRAKE_BYTES, COMMIT_BYTES, EAGER, INTERVAL
from atefs.mount.waiting import Waiting
from tests.mount.scene import Scene


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_nobody_syncs_is_committed_and_durable_within_five_seconds(scene: Scene) -> None:
    async def play() -> None:
        scene.write(100)
        await trio.sleep(INTERVAL - 0.5)
        assert scene.chain.written == 0
        await trio.sleep(1)
        assert scene.chain.written == scene.chain.durable == 1

    assert INTERVAL < 5
    scene.play(play)


def test_what_became_durable_in_time_is_remembered_once_outside_of_the_store(scene: Scene) -> None:
    async def play() -> None:
        scene.write(100)
        await trio.sleep(10 * INTERVAL)

    scene.play(play)
    assert scene.chain.remembered == [1]


def test_an_idle_vault_commits_nothing(scene: Scene) -> None:
    async def play() -> None:
        await trio.sleep(1000)

    scene.play(play)
    assert scene.chain.written == scene.chain.barriers == scene.write_backs == 0


def test_while_a_file_is_open_for_writing_the_kernel_hands_over_its_pages(scene: Scene) -> None:
    async def play() -> None:
        scene.committer.writers = 1
        scene.write(1)
        await trio.sleep(5 * INTERVAL)
        assert scene.write_backs >= 4
        scene.committer.writers = 0
        await trio.sleep(2 * INTERVAL)
        count = scene.write_backs
        await trio.sleep(10 * INTERVAL)
        assert scene.write_backs == count

    scene.play(play)


def test_a_commit_contains_what_the_kernel_hands_over_for_it_however_long_that_takes(scene: Scene) -> None:
    async def hand_over() -> None:
        await trio.sleep(10 * INTERVAL)
        scene.write(100)

    async def play() -> None:
        scene.hand_over = hand_over
        scene.committer.writers = 1
        scene.write(1)
        await trio.sleep(10 * INTERVAL)
        assert scene.chain.written == 0
        scene.committer.writers = 0
        await trio.sleep(2 * INTERVAL)
        assert (scene.chain.written, scene.vault.settled_bytes) == (1, 101)

    scene.play(play)


def test_a_kernel_that_hands_over_more_than_there_is_room_for_does_not_wait_for_ever(scene: Scene) -> None:
    """Where syncfs waits until all is taken: its last pages wait for room, and room for the commit that awaits it."""
    taken = 0

    async def hand_over() -> None:
        nonlocal taken
        scene.committer.writers = 0
        for _ in range(20):
            await scene.committer.room()  # as requests to write do
            scene.write(BRAKE_BYTES // 4)
            taken += 1

    async def play() -> None:
        scene.hand_over = hand_over
        scene.committer.writers = 1
        scene.write(1)
        await trio.sleep(3 * INTERVAL)
        assert taken == 20
        assert scene.vault.settled_bytes == 20 * (BRAKE_BYTES // 4) + 1

    scene.play(play)


def test_a_kernel_that_never_ends_handing_over_is_asked_once_and_keeps_nobody_from_room(scene: Scene) -> None:
    async def play() -> None:
        scene.hand_over = trio.sleep_forever
        scene.committer.writers = 1
        scene.write(1)
        await trio.sleep(2 * INTERVAL)
        for turn in range(1, 4):
            scene.write(BRAKE_BYTES + 1)
            await scene.committer.room()
            assert scene.vault.settled_bytes == turn * (BRAKE_BYTES + 1) + 1
            await trio.sleep(2 * INTERVAL)
        assert scene.write_backs == 1

    scene.play(play)


def test_much_at_once_is_committed_at_once(scene: Scene) -> None:
    async def play() -> None:
        scene.write(COMMIT_BYTES)
        await trio.sleep(0.1)
        assert scene.chain.written == 1

    scene.play(play)


def test_a_lone_sync_is_one_commit_and_one_barrier_on_the_spot(scene: Scene) -> None:
    async def play() -> None:
        scene.write(4096)
        await scene.committer.sync()
        assert (scene.chain.written, scene.chain.barriers) == (1, 1)
        await scene.committer.sync()
        assert (scene.chain.written, scene.chain.barriers) == (1, 1)

    scene.play(play)


def test_what_is_to_be_shared_is_settled_and_whoever_sends_it_is_told(scene: Scene) -> None:
    async def play() -> None:
        told: list[int] = []
        scene.committer.committed = lambda: told.append(scene.chain.settled)
        assert scene.committer.clean
        scene.write(4096)
        assert not scene.committer.clean
        await scene.committer.sync()
        assert (scene.chain.settled, scene.committer.clean) == (0, False)  # put off until there is time
        await scene.committer.share()
        assert (told[-1], scene.committer.clean) == (1, True)

    scene.play(play)


def test_many_syncs_at_once_share_a_commit_and_a_barrier(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "pending", lambda self: True)

    async def one() -> None:
        scene.write(4096)
        await scene.committer.sync()
        assert scene.chain.durable == scene.chain.written > 0

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)

    scene.play(play)
    assert scene.chain.barriers <= 3


def test_a_writer_waits_while_too_much_is_in_memory(scene: Scene) -> None:
    async def play() -> None:
        scene.write(BRAKE_BYTES + 1)
        assert scene.committer.full
        await scene.committer.room()
        assert not scene.committer.full
        assert scene.vault.settled_bytes == BRAKE_BYTES + 1

    scene.play(play)


def test_commits_wait_for_no_thread_however_many_requests_have_one(scene: Scene) -> None:
    """A silent link, or a disk, may keep each of them for half a minute."""

    async def play() -> None:
        stuck = threading.Event()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                missing = (Absent, NotResident)[number % 2](lambda: bool(stuck.wait()))  # type: ignore[arg-type]
                nursery.start_soon(partial(scene.loop.fetch, missing, abandon=True))
            await trio.testing.wait_all_tasks_blocked()
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            scene.write(COMMIT_BYTES)
            await scene.committer.sync()
            assert scene.chain.durable == 1
            nursery.cancel_scope.cancel()
        stuck.set()

    scene.play(play)


def test_what_must_be_fetched_for_a_commit_is_fetched(scene: Scene) -> None:
    async def play() -> None:
        scene.write(1)
        scene.vault.absent = 3
        await scene.committer.sync()
        scene.write(COMMIT_BYTES)
        scene.vault.absent = 3
        await scene.committer.sync()

    scene.play(play)
    assert scene.chain.written == 2


@pytest.mark.expect_log("a commit failed")
@pytest.mark.parametrize("size", [1, COMMIT_BYTES])
def test_a_full_disk_is_told_at_sync_and_at_close_and_tried_again(scene: Scene, size: int) -> None:
    async def play() -> None:
        scene.chain.failure = NoSpaceError("full")
        scene.write(size)
        with pytest.raises(NoSpaceError):
            await scene.committer.sync()
        with pytest.raises(NoSpaceError):
            scene.committer.check()
        assert scene.vault.dirty_bytes == size
        scene.chain.failure = None
        await trio.sleep(3 * INTERVAL)
        assert scene.vault.settled_bytes == size
        scene.committer.check()
        await scene.committer.sync()

    scene.play(play)


@pytest.mark.expect_log("a commit failed")
def test_a_writer_that_waits_for_room_learns_that_there_is_none(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.failure = NoSpaceError("full")
        scene.write(BRAKE_BYTES + 1)
        with pytest.raises(NoSpaceError):
            await scene.committer.room()

    scene.play(play)


@pytest.mark.expect_log("a commit failed")
def test_a_chain_that_failed_for_good_stays_failed(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.failure = scene.chain.failed = StorageError("the disk is gone")
        scene.write(1)
        with pytest.raises(StorageError):
            await scene.committer.sync()
        await trio.sleep(3 * INTERVAL)
        with pytest.raises(StorageError):
            scene.committer.check()

    scene.play(play)


def test_checkpoints_are_made_when_due(scene: Scene) -> None:
    async def play() -> None:
        scene.chain.due = True
        scene.write(COMMIT_BYTES)
        await trio.sleep(2 * INTERVAL)

    scene.play(play)
    assert scene.chain.checkpoints == 1


def test_the_end_takes_everything_along(scene: Scene) -> None:
    async def play() -> None:
        await trio.lowlevel.checkpoint()

    scene.play(play)
    scene.vault.write(module.MIB * 3)
    trio.run(scene.committer.finish)
    assert scene.vault.settled_bytes == module.MIB * 3
    assert scene.chain.durable == scene.chain.written == 1


def test_a_commit_on_the_spot_is_settled_when_nobody_waits_and_before_the_next(scene: Scene) -> None:
    def no_request(_: float) -> list[tuple[int, int]]:
        return []

    async def play() -> None:
        scene.write(1)
        assert scene.committer.sync_now()
        assert (scene.chain.durable, scene.chain.settled) == (1, 0)
        scene.write(1)
        assert scene.committer.sync_now()
        assert (scene.chain.durable, scene.chain.settled) == (2, 1)
        scene.loop._nap(no_request, 0)
        assert (scene.chain.settled, scene.chain.ready) == (2, 1)
        assert scene.vault.settled_bytes == 2

    scene.play(play)


def test_where_others_wait_to_see_it_a_change_is_committed_at_once_and_durable(scene: Scene) -> None:
    async def play() -> None:
        heard = []
        scene.committer.eager = True
        scene.committer.committed = lambda: heard.append(scene.chain.durable)
        scene.write(100)
        await trio.sleep(2 * EAGER)
        assert heard == [1]
        await trio.sleep(INTERVAL / 2)
        scene.write(100)
        await trio.sleep(2 * EAGER)
        assert heard == [1, 2]

    scene.play(play)


def test_eager_commits_do_not_make_the_kernel_hand_over_its_pages_more_often(scene: Scene) -> None:
    async def play() -> None:
        scene.committer.eager = True
        scene.committer.writers = 1
        for _ in range(100):
            scene.write(1)
            await trio.sleep(INTERVAL / 10)
        assert scene.chain.written > 90
        assert 8 <= scene.write_backs <= 12
        assert len(scene.chain.remembered) <= 12

    scene.play(play)


def test_a_sync_waits_for_what_lies_upstream_and_fails_with_it(scene: Scene) -> None:
    async def play() -> None:
        asked: list[int] = []

        async def upstream(sequence: int) -> None:
            asked.append(sequence)
            await trio.sleep(3)
            if sequence > 1:
                raise StorageError("out of reach")

        scene.committer.upstream = upstream
        scene.write(100)
        assert not scene.committer.sync_now()
        start = trio.current_time()
        await scene.committer.sync()
        assert trio.current_time() - start >= 3
        scene.write(100)
        with pytest.raises(StorageError, match="out of reach"):
            await scene.committer.sync()
        assert asked == [1, 2]
        assert scene.chain.durable == 2
        scene.committer.check()  # it is safe here: closing a file has nothing to complain about

    scene.play(play)


def test_nothing_is_committed_while_somebody_is_alone_but_what_they_flush(scene: Scene) -> None:
    async def play() -> None:
        synced = trio.Event()

        async def sync() -> None:
            await scene.committer.sync()
            synced.set()

        async with trio.open_nursery() as nursery:
            async with scene.committer.alone():
                scene.write(100)
                assert not scene.committer.sync_now()
                nursery.start_soon(sync)
                await trio.sleep(3 * INTERVAL)
                assert scene.chain.written == 0
                scene.committer.flush()
                assert scene.chain.written == 1
                assert not synced.is_set()
                scene.write(100)
            await synced.wait()
            assert scene.chain.durable == 2

    scene.play(play)


def test_whoever_wants_to_be_alone_waits_for_a_commit_under_way_and_for_each_other(scene: Scene) -> None:
    async def play() -> None:
        order: list[str] = []

        async def one(name: str) -> None:
            async with scene.committer.alone():
                order.append(f"{name} in")
                await trio.sleep(1)
                order.append(f"{name} out")

        scene.write(2 * COMMIT_BYTES)  # a commit by a thread
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a")
            nursery.start_soon(one, "b")
        assert scene.chain.written == 1
        assert order in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])

    scene.play(play)
