"""The token bucket, on a clock of its own."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from atedb.net.errors import RateError
from atedb.node.rates import PATIENCE, TokenBucket


def clock() -> MockClock:
    """A clock that jumps to the next deadline whenever everybody waits."""
    return MockClock(autojump_threshold=0)


@given(st.lists(st.integers(1, 3000), min_size=2, max_size=40))
def test_what_is_taken_never_exceeds_the_rate_the_burst_and_the_last_request(costs: list[int]) -> None:
    async def main() -> None:
        bucket, taken, start = TokenBucket(rate=1000, burst=500), 0, trio.current_time()
        for cost in costs:
            await bucket.take(cost)
            assert taken <= 500 + 1000 * (trio.current_time() - start) + 1e-6
            taken += cost

    trio.run(main, clock=clock())


def test_within_the_burst_nobody_waits() -> None:
    async def main() -> float:
        bucket, start = TokenBucket(rate=1, burst=100), trio.current_time()
        for _ in range(10):
            await bucket.take(10)
        return trio.current_time() - start

    assert trio.run(main, clock=clock()) == 0


def test_a_request_larger_than_the_bucket_gets_through_and_the_next_one_pays() -> None:
    async def main() -> list[float]:
        bucket, start, times = TokenBucket(rate=100, burst=100), trio.current_time(), []
        for cost in (1000, 1, 1):
            await bucket.take(cost)
            times.append(trio.current_time() - start)
        return times

    assert trio.run(main, clock=clock()) == pytest.approx([0, 9, 9.01])


def test_whoever_would_wait_too_long_is_refused_and_pays_nothing() -> None:
    async def main() -> None:
        bucket = TokenBucket(rate=1, burst=1)
        await bucket.take(1 + PATIENCE + 5)
        with pytest.raises(RateError) as refused:
            await bucket.take(1000)
        assert refused.value.code == "rate"
        await trio.sleep(PATIENCE + 5)
        start = trio.current_time()
        await bucket.take(1)
        assert trio.current_time() == start

    trio.run(main, clock=clock())


def test_waiters_are_served_in_the_order_they_came() -> None:
    async def main() -> list[int]:
        bucket, order = TokenBucket(rate=10, burst=1), list[int]()

        async def one(number: int) -> None:
            await bucket.take(10)
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one, number)
                await trio.testing.wait_all_tasks_blocked()
        return order

    assert trio.run(main, clock=clock()) == list(range(6))


def test_a_cancelled_wait_costs_nothing() -> None:
    async def main() -> float:
        bucket = TokenBucket(rate=10, burst=10)
        await bucket.take(20)
        with trio.move_on_after(0.1):
            await bucket.take(50)
        start = trio.current_time()
        await bucket.take(1)
        return trio.current_time() - start

    assert trio.run(main, clock=clock()) == pytest.approx(0.9)


def test_answers_are_charged_afterwards() -> None:
    async def main() -> float:
        bucket, start = TokenBucket(rate=10, burst=10), trio.current_time()
        bucket.charge(30)
        await bucket.take(1)
        return trio.current_time() - start

    assert trio.run(main, clock=clock()) == pytest.approx(2)


def test_a_changed_rate_counts_at_once_and_debts_stay() -> None:
    async def main() -> float:
        bucket = TokenBucket(rate=1, burst=10)
        await bucket.take(15)
        bucket.change(rate=5, burst=10)
        start = trio.current_time()
        await bucket.take(1)
        return trio.current_time() - start

    assert trio.run(main, clock=clock()) == pytest.approx(1)
