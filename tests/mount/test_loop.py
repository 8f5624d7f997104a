"""The reading loop: who reads, who waits, and that nobody is starved."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from atefs.mount import loop as loop_module
from atefs.mount.loop import RequestLoop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A descriptor to wait for, and one to make it readable with."""
    ends = os.pipe()
    with ExitStack() as stack:
        for end in ends:
            stack.callback(os.close, end)
        yield ends


async def parked(loop: RequestLoop) -> None:
    """Another reader, ready to take over, as there is one in pyfuse3's loop."""
    async with loop.Lock():
        pass


def test_a_request_that_is_there_is_taken_without_the_scheduler(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "perf_counter", lambda: 0.0)  # no turn of the scheduler is due
    loop = RequestLoop()
    os.write(pipe[1], b"x")

    async def main() -> None:
        async with trio.open_nursery() as nursery, loop.Lock():
            nursery.start_soon(parked, loop)
            await trio.testing.wait_all_tasks_blocked()
            await loop.wait_readable(pipe[0])
            others = 0

            async def other() -> None:
                nonlocal others
                others += 1

            nursery.start_soon(other)
            await loop.wait_readable(pipe[0])
            assert others == 0
            loop.pass_on()

    trio.run(main)
    assert loop.sleeps == 0


def test_other_tasks_run_although_requests_never_end(pipe: tuple[int, int]) -> None:
    loop = RequestLoop()
    os.write(pipe[1], b"x")
    ran = 0

    async def main() -> None:
        nonlocal ran

        async def other() -> None:
            nonlocal ran
            while True:
                await trio.lowlevel.checkpoint()
                ran += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            deadline = time.monotonic() + 0.05
            while time.monotonic() < deadline:
                await loop.wait_readable(pipe[0])
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert ran >= 10


def test_when_idle_the_loop_sleeps_and_costs_no_processor_time(pipe: tuple[int, int]) -> None:
    loop = RequestLoop()

    async def main() -> float:
        before = time.process_time()
        with trio.move_on_after(0.5):
            await loop.wait_readable(pipe[0])
        return time.process_time() - before

    assert trio.run(main) < 0.05
    assert loop.sleeps == 1


def test_closing_ends_a_wait_whether_it_sleeps_or_not(pipe: tuple[int, int]) -> None:
    for asleep in (True, False):
        loop = RequestLoop()

        async def main(loop: RequestLoop = loop, asleep: bool = asleep) -> None:
            async with trio.open_nursery() as nursery:

                async def close() -> None:
                    if asleep:
                        await trio.sleep(0.05)
                    loop.notify_closing(pipe[0])

                nursery.start_soon(close)
                with pytest.raises(trio.ClosedResourceError):
                    await loop.wait_readable(pipe[0])

        trio.run(main)


def test_idle_moments_are_used_until_a_request_comes(pipe: tuple[int, int]) -> None:
    loop = RequestLoop()
    left = 5

    def idle() -> bool:
        nonlocal left
        left -= 1
        if left == 2:
            os.write(pipe[1], b"x")
        return left > 0

    loop.idle = idle
    trio.run(loop.wait_readable, pipe[0])
    assert left == 2
    assert loop.sleeps == 0


def test_a_handler_that_waits_lets_another_task_read(pipe: tuple[int, int]) -> None:
    loop = RequestLoop()
    order: list[str] = []

    async def first() -> None:
        async with loop.Lock():
            order.append("first reads")
        await loop.in_thread(lambda: order.append("thread"))
        order.append("first answers")

    async def second(started: trio.Event) -> None:
        await started.wait()
        async with loop.Lock():
            order.append("second reads")

    async def main() -> None:
        started = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second, started)
            started.set()
            nursery.start_soon(first)

    trio.run(main)
    assert set(order) == {"first reads", "thread", "first answers", "second reads"}


def test_a_withdrawn_request_does_not_end_the_reading() -> None:
    """A request whose sender was killed between poll and read: the non-blocking read says EAGAIN."""
    loop = RequestLoop()
    calls: list[int] = []

    async def reader(_nursery: object, _low: int, _high: int) -> None:
        await trio.lowlevel.checkpoint()
        calls.append(1)
        if len(calls) < 3:
            raise OSError(errno.EAGAIN, "nothing to read after all")

    async def main() -> None:
        async with loop.open_nursery() as nursery:
            nursery.start_soon(reader, nursery, 1, 2)

    trio.run(main)
    assert len(calls) == 3


def test_any_other_error_ends_it() -> None:
    loop = RequestLoop()

    async def reader(_nursery: object) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "broken")

    async def main() -> None:
        async with loop.open_nursery() as nursery:
            nursery.start_soon(reader, nursery)

    with pytest.raises(ExceptionGroup):
        trio.run(main)
