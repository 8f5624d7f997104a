"""Leases: exclusive for a time, then free for others; tokens that only rise; all of it through a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from atedb.engine import interface
from atedb.errors import BusyError, ClosedError, FencedError, InvalidError, LimitError
from atedb.node import leases as leases_module
from atedb.node.host import ChainHost
from tests.engine.frames import Author
from tests.node.chains import PATH, make_hosts


def run(folder: Path, body: Callable[[ChainHost], Awaitable[None]], *, restart: bool = False) -> None:
    """Run `body` with the chain in `folder`; time passes only when all wait."""
    author = Author()

    async def main() -> None:
        hosts = make_hosts(folder)
        async with hosts.open(PATH, create=None if restart else author.files) as host:
            await body(host)
        await hosts.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_a_lease_has_one_holder_and_a_loser_can_win_it_when_it_ends(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        first = await host.lease("lock", b"one", 10)
        with pytest.raises(BusyError):
            await host.lease("lock", b"two", 10)
        other = await host.lease("another", b"two", 10)
        await trio.sleep(9)
        with pytest.raises(BusyError):
            await host.lease("lock", b"two", 10)
        await trio.sleep(2)
        won = await host.lease("lock", b"two", 10)
        assert first.token < other.token < won.token
        with pytest.raises(BusyError):
            await host.lease("lock", b"one", 10)
        with pytest.raises(FencedError):
            await host.renew("lock", first.token, 10)
        await host.release("lock", first.token)
        with pytest.raises(BusyError):
            await host.lease("lock", b"one", 10)

    run(tmp_path, body)


def test_who_renews_in_time_keeps_a_lease_and_who_is_late_has_lost_it(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        lease = await host.lease("lock", b"one", 10)
        for _ in range(5):
            await trio.sleep(8)
            assert await host.renew("lock", lease.token, 10) == lease
        with pytest.raises(BusyError):
            await host.lease("lock", b"two", 10)
        await trio.sleep(11)
        with pytest.raises(FencedError):
            await host.renew("lock", lease.token, 10)
        await host.lease("lock", b"two", 10)

    run(tmp_path, body)


def test_a_lease_that_was_released_is_free_at_once_and_its_holder_gets_a_new_token(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        lease = await host.lease("lock", b"one", 10)
        again = await host.lease("lock", b"one", 10)
        assert again.token > lease.token
        with pytest.raises(FencedError):
            await host.renew("lock", lease.token, 10)
        await host.release("lock", again.token)
        await host.release("lock", again.token)
        assert (await host.lease("lock", b"two", 10)).token > again.token

    run(tmp_path, body)


def test_leases_hold_and_tokens_rise_through_a_restart(tmp_path: Path) -> None:
    tokens = []

    async def before(host: ChainHost) -> None:
        tokens.append((await host.lease("gone", b"one", 10)).token)
        await host.release("gone", tokens[-1])
        tokens.append((await host.lease("lock", b"one", 10)).token)
        await host.renew("lock", tokens[-1], 30)

    async def after(host: ChainHost) -> None:
        await trio.sleep(20)
        with pytest.raises(BusyError):
            await host.lease("lock", b"two", 10)
        await host.renew("lock", tokens[-1], 5)
        await trio.sleep(6)
        assert (await host.lease("lock", b"two", 10)).token > tokens[-1]
        assert (await host.lease("gone", b"two", 10)).token > tokens[-1]

    run(tmp_path, before)
    run(tmp_path, after, restart=True)


def test_what_is_no_lease_is_refused(tmp_path: Path) -> None:
    async def body(host: ChainHost) -> None:
        for name, holder, seconds in (("", b"h", 1), ("n" * 257, b"h", 1), ("n", bytes(257), 1), ("n", b"h", 0),
                                      ("n", b"h", -1), ("n", b"h", 1e9), ("n", b"h", float("nan"))):  # fmt: skip
            with pytest.raises(InvalidError):
                await host.lease(name, holder, seconds)
        with pytest.raises(FencedError):
            await host.renew("nothing", 1, 1)
        await host.release("nothing", 1)

    run(tmp_path, body)


def test_the_number_of_leases_is_bounded_and_those_that_ended_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "MAX_DOCUMENT", 500)
    assert interface.MAX_DOCUMENT > 500

    async def body(host: ChainHost) -> None:
        async def many() -> None:
            for number in range(1000):
                await host.lease(f"lock {number}", b"one", 10)

        with pytest.raises(LimitError):
            await many()
        await trio.sleep(11)
        await host.lease("lock", b"two", 10)

    run(tmp_path, body)


def test_a_lease_is_not_given_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(host: ChainHost) -> None:
        async def fail(*_: object) -> int:
            raise ClosedError("no")

        with monkeypatch.context() as patch:
            patch.setattr(host._log, "put_document", fail)
            with pytest.raises(ClosedError):
                await host.lease("lock", b"one", 10)
        await host.lease("lock", b"two", 10)

    run(tmp_path, body)
