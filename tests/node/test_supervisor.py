"""Services that fail are started again, later each time, and the others do not notice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from atedb.node.supervisor import FIRST_DELAY, LAST_DELAY, STEADY, Supervisor


def run(main: Callable[[], object]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))  # type: ignore[arg-type]


class Flaky:
    """Works for `lives` seconds each time, then fails. starts: when it was started."""

    def __init__(self, *lives: float) -> None:
        self._lives = list(lives)
        self.starts: list[float] = []

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.starts.append(trio.current_time())
        task_status.started()
        await trio.sleep(self._lives.pop(0) if self._lives else float("inf"))
        raise ValueError("/secret/name")


def gaps(starts: list[float], life: float) -> list[float]:
    return [after - before - life for before, after in pairwise(starts)]


@pytest.mark.expect_log("ERROR atedb.node.supervisor: the service one failed; it is started again in [0-9.]+ s")
def test_a_service_that_fails_is_started_again_later_each_time() -> None:
    async def main() -> None:
        one = Flaky(*[1.0] * 12)
        with trio.move_on_after(1000):
            await Supervisor({"one": one}).run()
        found = gaps(one.starts, 1.0)
        assert found[:4] == pytest.approx([FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY])
        assert max(found) == pytest.approx(LAST_DELAY)
        assert len(one.starts) == 13

    run(main)


@pytest.mark.expect_log("the service one failed")
def test_what_worked_for_long_is_started_again_at_once() -> None:
    async def main() -> None:
        one = Flaky(1, 1, 1, 1, STEADY, 1)
        with trio.move_on_after(500):
            await Supervisor({"one": one}).run()
        assert one.starts[5] - one.starts[4] == pytest.approx(STEADY + FIRST_DELAY)

    run(main)


@pytest.mark.expect_log("the service one failed")
def test_the_others_go_on_and_the_failure_is_told_without_its_message() -> None:
    async def main() -> None:
        one, two = Flaky(1.0), Flaky()
        supervisor = Supervisor({"one": one, "two": two})
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            assert [state.running for state in supervisor.states.values()] == [True, True]
            await trio.sleep(1 + FIRST_DELAY / 2)
            assert [state.running for state in supervisor.states.values()] == [False, True]
            await trio.sleep(FIRST_DELAY)
            state = supervisor.states["one"]
            assert (state.running, state.restarts) == (True, 1)
            assert state.error.startswith("ValueError\n")
            assert "test_supervisor.py" in state.error
            assert "secret" not in state.error
            assert len(two.starts) == 1
            nursery.cancel_scope.cancel()

    run(main)


@pytest.mark.expect_log("the service one failed")
def test_to_return_is_to_fail() -> None:
    async def main() -> None:
        async def one(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await trio.sleep(1)

        supervisor = Supervisor({"one": one})
        with trio.move_on_after(1.05):
            await supervisor.run()
        assert supervisor.states["one"].error.startswith("ServiceEndedError")

    run(main)


def test_what_fails_before_it_ever_worked_ends_the_start() -> None:
    async def main() -> None:
        async def one(*, task_status: trio.TaskStatus[None]) -> None:
            raise OSError("the address is in use")

        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            await Supervisor({"two": Flaky(), "one": one}).run()

    run(main)


@pytest.mark.expect_log("the service one failed")
def test_a_service_that_cannot_be_started_again_is_tried_for_ever() -> None:
    async def main() -> None:
        tries = []

        async def one(*, task_status: trio.TaskStatus[None]) -> None:
            tries.append(trio.current_time())
            if len(tries) == 1:
                task_status.started()
            raise OSError("gone")

        supervisor = Supervisor({"one": one})
        with trio.move_on_after(300):
            await supervisor.run()
        assert len(tries) > 12
        assert not supervisor.states["one"].running

    run(main)
