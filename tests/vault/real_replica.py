"""A device with a vault on a real chain, which follows a server in memory and has no bodies that it did not write."""

from __future__ import annotations

from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.event import Term
from atedb.chain.rebase import Rebase
from atedb.chain.replica import Replica
from atedb.crypto.keys import KeyRing
from atefs.vault.check import Survey
from atefs.vault.codec import terms_of
from atefs.vault.conflicts import Conflict
from atefs.vault.merge import merge
from atefs.vault.refresh import Stale, Touched
from atefs.vault.vault import Vault
from tests.chain.followed import Server
from tests.vault.conftest import ROOT_KEY


class RealReplica:
    """As `tests.vault.replicas.Replica`. first: who has made the vault; None: this one does."""

    def __init__(self, folder: Path, server: Server, name: str, first: RealReplica | None) -> None:
        self.server = server
        self.name = name
        self.now = 1_000_000_000 * 10**9
        self.stale: Stale | None = None
        self.conflicts: list[Conflict] = []
        folder.mkdir()
        self._folder = folder
        header = first.chain.header if first is not None else None
        self.chain: Chain = Chain.create(folder / "store", ROOT_KEY, header=header, remote=True, terms=self._terms)
        self._names = KeyRing(ROOT_KEY, self.chain.header.chain_id, self.chain.header.suite)
        assert self.chain.absent is not None
        self.chain.absent.fetch_bodies = server.bodies
        self._replica = Replica(self.chain)
        if first is None:
            self.vault = Vault.make(self.chain, self.clock)
            self.send()
        else:
            self._replica.receive(server.after(0), Touched())
            self.vault = Vault(self.chain, self.clock)

    def clock(self) -> int:
        self.now += 1
        return self.now

    def sync(self, *, send: bool = True) -> None:
        """Commit, take what others did, and send what is left, unless the connection is lost just then."""
        self.vault.commit()
        touched = Touched()
        self._replica.check_tail(self.server.tail)
        frames = self.server.after(self._replica.acked.sequence)
        rest = self._replica.receive(frames, touched) if frames else []
        if rest:
            self._replica.rebase(rest, lambda rebase: self._merge(rebase, touched), touched)
        if touched:
            self.stale = self.vault.refresh(touched)
        if send:
            self.send()

    def send(self, most: int | None = None) -> None:
        """All that is pending, or the first `most` batches of it, is on the server now, which had nothing new."""
        self.chain.barrier()
        while frames := self._replica.pending(self._replica.acked.sequence, 1 << 20)[:most]:
            assert self.server.append(frames)
            self._replica.acknowledge(self.server.tail)
            if most is not None:
                return

    @property
    def pending(self) -> range:
        """As many as there are batches that wait to be sent."""
        return range(self._replica.pending_count)

    def check(self) -> None:
        """fsck finds nothing."""
        assert Survey(self.chain).run() == []

    def theirs(self) -> Vault:
        """What is at hand here of what the server has."""
        return Vault(self.chain)

    def settle_down(self) -> None:
        """Reap and commit until there is nothing left to do."""
        more = True
        while more:
            more = self.vault.reap()
            self.vault.commit()

    def close(self) -> None:
        self.chain.close()

    def _merge(self, rebase: Rebase, touched: Touched) -> None:
        self.conflicts += merge(rebase, self.chain, device=self.name, now=self.clock(), touched=touched)

    def _terms(self, tombstone: bool, body: bytes) -> tuple[Term, ...]:
        return terms_of(self._names)(tombstone, body)
