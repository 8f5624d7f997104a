"""A replica before its vault is mounted."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from atefs.mount.replication import REMIND_SECONDS, Replication
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault
from tests.chain.followed import Server
from tests.vault.conftest import ME
from tests.vault.real_replica import RealReplica


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RealReplica, RealReplica]]:
    """Two machines with one vault."""
    server = Server()
    one = RealReplica(tmp_path / "one", server, "one", None)
    two = RealReplica(tmp_path / "two", server, "two", one)
    yield one, two
    one.close()
    two.close()


def put(vault: Vault, name: bytes) -> None:
    vault.write(vault.mknod(ROOT_INO, name, stat.S_IFREG | 0o644, 0, ME).ino, 0, name)


def test_what_an_earlier_mount_left_pending_goes_on_top_of_what_others_did(
    pair: tuple[RealReplica, RealReplica],
) -> None:
    one, two = pair
    put(two.vault, b"pending")
    two.vault.commit()
    two.chain.barrier()
    put(one.vault, b"first")
    one.sync()
    replication = Replication(two.chain, "two", two.clock)

    async def link() -> None:
        await replication.take(one.server.after(replication.acked.sequence))
        await replication.at_rest()

    trio.run(link)
    assert replication.acked == one.server.tail
    assert replication.replica.pending_count == 1
    assert {row.name for row in Vault(two.chain).readdir(ROOT_INO)[2:]} == {b"first", b"pending"}


class Slots:
    """A kernel that is told of names."""

    def __init__(self) -> None:
        self.told: list[tuple[float, set[tuple[int, bytes]]]] = []

    def outdate(self, _attributes: object, _pages: object, entries: set[tuple[int, bytes]]) -> None:
        self.told.append((trio.from_thread.run_sync(trio.current_time), set(entries)))


def test_the_kernel_is_told_of_names_again_once_all_older_answers_were_taken_up(
    pair: tuple[RealReplica, RealReplica],
) -> None:
    """And until then nobody moves or removes them without looking again."""
    one, two = pair
    kernel, loop = Slots(), cast(Any, SimpleNamespace(elsewhere=nullcontext))
    replication = Replication(two.chain, "two", two.clock)
    replication.serve(two.vault, cast(Any, None), cast(Any, None))

    def change(name: bytes) -> None:
        put(one.vault, name)
        one.sync()
        two.sync()
        assert two.stale is not None
        replication._tell(two.stale)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replication.tell_kernel, cast(Any, kernel), loop)
            nursery.start_soon(replication.remind_kernel, cast(Any, kernel), loop)
            change(b"first")
            await replication.told()
            await trio.sleep(REMIND_SECONDS / 2)
            change(b"second")
            assert two.vault.outdated_names == {(ROOT_INO, b"first"), (ROOT_INO, b"second")}
            await trio.sleep(REMIND_SECONDS)
            assert two.vault.outdated_names == {(ROOT_INO, b"second")}
            await trio.sleep(2 * REMIND_SECONDS)
            assert not two.vault.outdated_names
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0.05))
    for name in (b"first", b"second"):
        times = [time for time, names in kernel.told if (ROOT_INO, name) in names]
        assert len(times) == 2
        assert times[1] - times[0] >= REMIND_SECONDS
