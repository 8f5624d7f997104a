"""A client that needs time to come back after it was late gets in, however busy another one is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from atedb.errors import StaleError
from atedb.node.host import ChainHost
from atedb.node.patience import LONGEST, SHORTEST, Patience
from tests.engine.frames import Author
from tests.node.chains import settle, with_chain


def test_the_others_wait_for_whoever_was_late_twice_as_long_as_it_took_to_come_back() -> None:
    async def main() -> None:
        for back, left in ((0.3, 0.6), (0.001, SHORTEST), (60, LONGEST)):
            patience = Patience()
            patience.late("slow")
            assert patience.first is None
            await trio.sleep(back)
            patience.late("slow")
            patience.late("other")
            patience.late("other")
            assert patience.first == "slow"
            assert patience.left == pytest.approx(left)
            patience.forget("slow")
            assert patience.first is None

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_whoever_does_not_come_is_not_waited_for_again_so_soon() -> None:
    async def main() -> None:
        patience = Patience()
        waited = 0
        for _ in range(20):
            patience.late("lazy")
            if patience.first is not None:
                waited += 1
                await trio.sleep(patience.left)
                assert patience.first is None
        assert waited == 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def late_client(tmp_path: Path) -> int:
    """How many batches a busy client has added when a slow one gets in; the busy one ends at 150."""
    got_in = 0

    async def body(host: ChainHost, busy: Author) -> None:
        async def stream() -> None:
            while host.tail.sequence < 150 and not got_in:
                busy.at = host.tail
                with suppress(StaleError):
                    await host.append("busy", busy.frames(1))
            done.set()

        async def slow() -> None:
            nonlocal got_in
            other = Author(busy.header, seed=2)
            while not done.is_set():
                tail = other.at = host.tail
                with trio.move_on_after(0.03):  # what it takes to put its batch on top of the others
                    while host.tail.sequence < tail.sequence + 3 and not done.is_set():
                        await settle(1)
                other.certified = False
                with suppress(StaleError):
                    name = f"slow {tail.sequence}"
                    got_in = (await host.append("slow", [other.frame(other.meta(name))])).sequence

        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            nursery.start_soon(slow)

    with_chain(tmp_path, body)
    return got_in


def test_a_client_that_is_always_late_gets_in_beside_one_that_never_pauses(tmp_path: Path) -> None:
    assert 0 < late_client(tmp_path) < 100


def test_without_patience_it_would_never_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "late", lambda *_: None)
    assert late_client(tmp_path) == 0


def test_nobody_waits_for_a_client_that_has_left(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        other = Author(author.header, seed=2)
        stale = other.frame(other.meta("x"))
        await host.append("busy", author.frames(1))
        for _ in range(2):
            with pytest.raises(StaleError):
                await host.append("late", [stale])
        assert host._patience.first == "late"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.append, "busy", author.frames(1))
            await settle()
            host.leave("late")
            with trio.fail_after(SHORTEST / 2):
                while host.tail.sequence < 2:
                    await settle(1)
        assert host._patience._late == {}

    with_chain(tmp_path, body)


def test_closing_a_chain_waits_for_nobody(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        other = Author(author.header, seed=2)
        stale = other.frame(other.meta("x"))
        await host.append("busy", author.frames(1))
        for _ in range(2):
            with pytest.raises(StaleError):
                await host.append("late", [stale])
        assert host._patience.first == "late"

        async def append() -> None:
            await host.append("busy", author.frames(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            await settle()
            with trio.fail_after(SHORTEST / 2):
                await host.aclose()

    with_chain(tmp_path, body)
