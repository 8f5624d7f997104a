"""The chains of a node: opened on demand, shared, closed when idle, bounded in number, counted by tenant."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio
import trio.testing

from atedb.chain.position import START
from atedb.engine.filelog import FileLog
from atedb.engine.files import FileEngine
from atedb.errors import (
    BusyError,
    ClosedError,
    LimitError,
    QuotaError,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
)
from atedb.node import hosts as hosts_module
from atedb.node.hosts import Hosts
from tests.engine.frames import Author
from tests.node.chains import PATH, make_hosts, settle


def test_a_chain_is_made_once_and_shared_by_all_who_open_it(tmp_path: Path) -> None:
    author = Author()

    async def main() -> None:
        hosts = make_hosts(tmp_path)
        with pytest.raises(StoreNotFoundError):
            async with hosts.open(PATH):
                pass
        async with hosts.open(PATH, create=author.files) as one, hosts.open(PATH) as two:
            assert one is two
            async with hosts.open(PATH, create=author.files) as three:
                assert three is one
            with pytest.raises(StoreExistsError):
                async with hosts.open(PATH, create=Author().files):
                    pass
            await one.append("client", author.frames(2))
        assert hosts.stats().open == 1
        await hosts.aclose()
        with pytest.raises(ClosedError):
            async with hosts.open(PATH):
                pass

    trio.run(main)


def test_clients_that_come_at_once_open_a_chain_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    author = Author()
    opened = []
    real = FileEngine.open

    async def counting(engine: FileEngine, name: str, **options: object) -> FileLog:
        opened.append(name)
        return await real(engine, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileEngine, "open", counting)

    async def main() -> None:
        hosts = make_hosts(tmp_path)

        async def client() -> None:
            async with hosts.open(PATH, create=author.files) as host:
                assert host.tail == START
                await trio.sleep(0)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client)
        await hosts.aclose()

    trio.run(main)
    assert opened == [PATH[1:]]


@pytest.mark.parametrize("path", ["", "a", "you@example.com/vault", "/", "//a", "/a/../b", "/.", "/a\0b", "/a/"])
def test_what_is_no_path_opens_nothing(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        hosts = make_hosts(tmp_path)
        with pytest.raises(LimitError):
            async with hosts.open(path, create=Author().files):
                pass
        assert hosts.stats().open == 0
        await hosts.aclose()

    trio.run(main)
    assert list(tmp_path.iterdir()) == []


def test_a_chain_that_nobody_uses_is_closed_and_one_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "_ROUND", 100.0)  # each is a wait until the clock jumps
    used, unused = Author(), Author()

    async def main() -> None:
        hosts = make_hosts(tmp_path, idle=1000)
        async with trio.open_nursery() as nursery, hosts.open("/a/used", create=used.files) as host:
            nursery.start_soon(hosts.run)
            async with hosts.open("/a/unused", create=unused.files) as other:
                await other.append("client", unused.frames(1))
            await trio.sleep(500)
            assert hosts.stats().open == 2
            await trio.sleep(750)
            assert hosts.stats().open == 1
            await host.append("client", used.frames(1))
            async with hosts.open("/a/unused") as again:
                assert again.tail == unused.at
            nursery.cancel_scope.cancel()
        await hosts.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))


def test_no_more_chains_are_open_than_allowed(tmp_path: Path) -> None:
    async def main() -> None:
        hosts = make_hosts(tmp_path, most_open=2)
        for number in range(5):
            async with hosts.open(f"/t/{number}", create=Author().files):
                assert hosts.stats().open <= 2
        async with hosts.open("/t/0"), hosts.open("/t/1"):
            with pytest.raises(BusyError):
                async with hosts.open("/t/2"):
                    pass
            async with hosts.open("/t/0"):
                pass
        async with hosts.open("/t/2"):
            assert hosts.stats().open == 2
        await hosts.aclose()

    trio.run(main)


def test_closing_the_node_ends_every_wait_and_leaves_every_chain_whole(tmp_path: Path) -> None:
    author = Author()

    async def main() -> None:
        hosts = make_hosts(tmp_path)
        waits = trio.Event()

        async def follow() -> None:
            async with hosts.open(PATH, create=author.files) as host:
                await host.append("client", author.frames(3))
                waits.set()
                with pytest.raises(ClosedError):
                    await anext(host.follow(4))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await waits.wait()
            await settle()
            await hosts.aclose()
        again = make_hosts(tmp_path)
        async with again.open(PATH) as host:
            assert host.tail == author.at
        await again.aclose()

    trio.run(main)


@pytest.mark.parametrize("stays", [False, True])
def test_a_chain_that_failed_is_opened_anew_for_the_next_client_whether_others_have_gone_or_not(
    tmp_path: Path, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author()

    def fail() -> None:
        raise StorageError("no")

    async def main() -> None:
        hosts = make_hosts(tmp_path)
        async with contextlib.AsyncExitStack() as others:
            async with hosts.open(PATH, create=author.files) as host:
                if stays:
                    await others.enter_async_context(hosts.open(PATH))
                monkeypatch.setattr(host._log._log, "barrier", fail)  # type: ignore[attr-defined]
                with pytest.raises(StorageError):
                    await host.append("client", author.frames(1))
            async with hosts.open(PATH) as fresh:
                assert fresh is not host
                author.at = fresh.tail
                await fresh.append("client", [author.frame(author.meta("x"))])
            assert hosts.stats().open == 1
            with pytest.raises(ClosedError):
                await host.append("client", author.frames(1))
        await hosts.aclose()

    trio.run(main)


def test_an_opening_that_fails_or_is_cancelled_leaves_the_chain_free_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = Author()
    monkeypatch.setattr("atedb.node.host.Leases.load", _fail_once(monkeypatch))

    async def main() -> None:
        hosts = make_hosts(tmp_path, most_open=1)
        with pytest.raises(StorageError):
            async with hosts.open(PATH, create=author.files):
                pass
        with trio.CancelScope() as scope:
            scope.cancel()
            async with hosts.open(PATH):
                pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_open_for_ever, hosts)
            await settle(2)
            nursery.cancel_scope.cancel()
        async with hosts.open(PATH) as host:
            await host.append("client", author.frames(1))
        assert hosts.stats().open == 1
        await hosts.aclose()

    trio.run(main)


def _fail_once(monkeypatch: pytest.MonkeyPatch) -> object:
    async def load(_leases: object) -> None:
        monkeypatch.undo()
        raise StorageError("no")

    return load


async def _open_for_ever(hosts: Hosts) -> None:
    async with hosts.open(PATH):
        await trio.sleep_forever()


def test_the_quota_counts_all_chains_of_a_tenant_open_or_not_also_after_a_restart(tmp_path: Path) -> None:
    authors = {path: Author() for path in ("/t/a", "/t/b/c", "/other/a")}

    async def main() -> None:
        hosts = make_hosts(tmp_path, most_open=1)
        for path, author in authors.items():
            async with hosts.open(path, create=author.files) as host:
                frame = author.frame(author.blob("a", bytes(50_000)))
                await host.append("client", [frame], quota=150_000)
        assert 100_000 < hosts.used("t") < 104_000
        assert 50_000 < hosts.used("other") < 52_000
        assert hosts.stats().stored == hosts.used("t") + hosts.used("other")
        assert (hosts.stats().appends, hosts.stats().batches) == (3, 3)
        await hosts.aclose()
        again = make_hosts(tmp_path)
        assert again.used("nobody") == 0
        author = authors["/t/a"]
        async with again.open("/t/a") as host:
            assert 100_000 < again.used("t") < 104_000
            with pytest.raises(QuotaError):
                await host.append("client", [author.frame(author.blob("b", bytes(60_000)))], quota=150_000)
        async with again.open("/other/a") as host:
            author = authors["/other/a"]
            await host.append("client", [author.frame(author.blob("b", bytes(60_000)))], quota=150_000)
        await again.aclose()

    trio.run(main)
