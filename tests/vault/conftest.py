"""A vault over a chain in memory and over a real one: most tests run with both."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.event import Change, Lane
from atedb.chain.header import load_header
from atedb.crypto.keys import KeyRing
from atefs.vault.codec import terms_of
from atefs.vault.inode import Caller, Inode
from atefs.vault.limits import DEFAULT_CACHES, CacheSizes
from atefs.vault.vault import Vault
from tests.vault.memory_chain import MemoryChain

ROOT_KEY = bytes(range(32))
ME = Caller(1000, 100, 0o022)


def reopened(chain: Chain, folder: Path, rebuild: bool = False) -> Chain:
    """Close the chain in `folder` and open it again; rebuild: with its view made from the log."""
    chain.close()
    if rebuild:
        shutil.rmtree(folder / "view")
    header = load_header(RealDisk(), folder)
    names = KeyRing(ROOT_KEY, header.chain_id, header.suite)
    return Chain.open(folder, ROOT_KEY, terms=terms_of(names))


class Bench:
    """A vault, its chain, and a clock that ticks by hand."""

    def __init__(self, folder: Path | None) -> None:
        self.now = 1_000
        self.chain: Chain | MemoryChain = Chain.create(folder, ROOT_KEY) if folder else MemoryChain()
        self.vault = Vault.make(self.chain, self.clock, 0, 0)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def reopen(self, caches: CacheSizes = DEFAULT_CACHES, rebuild: bool = False) -> Vault:
        """Leave what is not committed, and open the chain again; rebuild: with its view made from the log."""
        if isinstance(self.chain, Chain):
            self.chain = reopened(self.chain, self.chain.store, rebuild)
        self.vault = Vault(self.chain, self.clock, caches=caches)
        return self.vault

    def close(self) -> None:
        if isinstance(self.chain, Chain):
            self.chain.close()

    def file(self, name: bytes = b"f", data: bytes = b"", parent: int = 1) -> int:
        """A new regular file; its inode number."""
        ino = self.vault.mknod(parent, name, stat.S_IFREG | 0o644, 0, ME).ino
        if data:
            self.vault.write(ino, 0, data)
        return ino

    def folder(self, name: bytes = b"d", parent: int = 1) -> int:
        return self.vault.mkdir(parent, name, 0o755, ME).ino

    def committed(self) -> list[Change]:
        """Commit everything; the changes that took."""
        frozen = self.vault.freeze()
        if frozen is None:
            return []
        self.chain.commit(frozen.changes)
        self.vault.settled(frozen)
        return frozen.changes

    def settle_down(self) -> None:
        """Commit and reap until there is nothing left to do."""
        more = True
        while more:
            more = self.vault.reap()
            self.vault.commit()


@pytest.fixture(params=["memory", "real"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "store" if request.param == "real" else None)
    yield bench
    bench.close()


@pytest.fixture
def quick() -> Bench:
    """Over the chain in memory only."""
    return Bench(None)


def tally(changes: list[Change]) -> dict[str, int]:
    """How many changes of each sort: meta, blob, and tombstones of each."""
    counted: dict[str, int] = {}
    for change in changes:
        name = ("-" if change.tombstone else "") + Lane(change.lane).name.lower()
        counted[name] = counted.get(name, 0) + 1
    return counted


def size_of(change: Change) -> int:
    body = change.body
    return sum(map(len, body)) if isinstance(body, list) else len(body)


def times(inode: Inode) -> tuple[int, int]:
    return inode.mtime, inode.ctime
