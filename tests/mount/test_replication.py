"""A replica before its vault is mounted."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from atefs.mount.replication import Replication
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
