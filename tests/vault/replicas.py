"""Several devices with the same vault, and a server: chains in memory, which are apart until they are told to meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane
from atedb.chain.side import Changed
from atefs.vault.check import Problem, Survey
from atefs.vault.codec import terms_of
from atefs.vault.conflicts import Conflict
from atefs.vault.limits import ROOT_INO
from atefs.vault.merge import merge
from atefs.vault.refresh import Stale, Touched
from atefs.vault.vault import Vault
from tests.vault.memory_chain import MemoryChain, MemoryEvent

Batch = list[MemoryEvent]


class State:
    """One state of a chain: what `atedb.chain.rebase.Reader` is to be."""

    def __init__(self, objects: dict[bytes, tuple[Lane, bytes]], sets: dict[bytes, dict[bytes, bytes]]) -> None:
        self.chain = MemoryChain()
        self.chain.objects = dict(objects)
        self.chain.sets = {group: dict(rows) for group, rows in sets.items()}

    def load(self, key: bytes) -> bytes | None:
        return self.chain.load(key)

    def exists(self, key: bytes) -> bool:
        return self.chain.exists(key)

    def members(self, group: bytes) -> dict[bytes, bytes]:
        return self.chain.members(group)

    def copy(self) -> State:
        return State(self.chain.objects, self.chain.sets)

    def take(self, batch: Batch) -> None:
        """One batch of the log."""
        terms = terms_of(self.chain)
        changes = [
            Change(key, lane, body, tombstone, False, terms(tombstone, body) if lane is Lane.META and body else ())
            for tombstone, lane, key, body in batch
        ]
        self.chain.commit(changes)


class MemoryRebase:
    """What `atedb.chain.rebase.Rebase` is to be. pending: what the merge has made of mine."""

    def __init__(self, base: State, mine: State, theirs: State, my: list[Batch], their: list[Batch]) -> None:
        self.base, self.mine, self.theirs, self.merged = base, mine, theirs, theirs.copy()
        self._my, self._their = my, their
        self.mine_keys = frozenset(key for batch in my for _, _, key, _ in batch)
        self.theirs_keys = frozenset(key for batch in their for _, _, key, _ in batch)
        self.pending: list[Batch] = []

    def mine_changes(self) -> Iterator[Changed]:
        return _changed(self._my)

    def theirs_changes(self) -> Iterator[Changed]:
        return _changed(self._their)

    def commit(self, changes: Sequence[Change]) -> None:
        chain = self.merged.chain
        chain.commit(changes)
        self.pending.append(chain.log[-1])
        problems = survey(chain)
        assert not problems, f"what a merge commits on the way is sound as well: {problems}"


def _changed(batches: list[Batch]) -> Iterator[Changed]:
    for batch in batches:
        for tombstone, lane, key, body in batch:
            yield Changed(key, lane, tombstone, body if lane is Lane.META else None)


class Server:
    """The log that all agree on."""

    def __init__(self) -> None:
        self.log: list[Batch] = []
        self.state = State({}, {})

    def take(self, batch: Batch) -> None:
        self.log.append(batch)
        self.state.take(batch)


class Replica:
    """One device: its vault, and what of its chain the server has. clock: shared, ticks by hand."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.now = 1_000_000_000 * 10**9
        self.chain = MemoryChain()
        self.chain.device = name.encode().ljust(32, b".")
        self._acked = State({}, {})
        self._sequence = 0
        self.stale: Stale | None = None
        self.conflicts: list[Conflict] = []
        if not server.log:
            self.vault = Vault.make(self.chain, self.clock)
            self.send()
        else:
            self._receive()
            self.vault = Vault(self.chain, self.clock)

    def clock(self) -> int:
        self.now += 1
        return self.now

    @property
    def pending(self) -> list[Batch]:
        return self.chain.log[self._sequence :]

    def sync(self, *, send: bool = True) -> None:
        """Commit, take what others did, and send what is left, unless the connection is lost just then."""
        self.vault.commit()
        touched = Touched()
        others = self.server.log[self._sequence :]
        if others and self.pending:
            self._rebase(others, touched)
        elif others:
            for batch in others:
                for tombstone, lane, key, body in batch:
                    if lane is Lane.META:
                        touched(tombstone, body, key)
            self._receive()
        if others:
            self.stale = self.vault.refresh(touched)
        if send:
            self.send()

    def send(self, most: int | None = None) -> None:
        """All that is pending, or the first `most` batches of it, is on the server now, which had nothing new."""
        assert self._sequence == len(self.server.log)
        for batch in self.pending[:most]:
            self.server.take(batch)
            self._acked.take(batch)
        self._sequence = len(self.server.log)

    def check(self) -> None:
        """fsck finds nothing, and a view made from the log is the same."""
        assert survey(self.chain) == []
        assert self.chain.sets == self.chain.replayed_sets()

    def theirs(self) -> Vault:
        """What the server has."""
        return Vault(self.server.state.chain)

    def settle_down(self) -> None:
        """Reap and commit until there is nothing left to do."""
        more = True
        while more:
            more = self.vault.reap()
            self.vault.commit()

    def _receive(self) -> None:
        for batch in self.server.log[self._sequence :]:
            self._acked.take(batch)
        self._take_state(self._acked, self.server.log)

    def _rebase(self, others: list[Batch], touched: Touched) -> None:
        mine = State(self.chain.objects, self.chain.sets)
        theirs = self._acked.copy()
        for batch in others:
            theirs.take(batch)
        rebase = MemoryRebase(self._acked, mine, theirs, self.pending, others)
        self.conflicts += merge(rebase, self.chain, device=self.name, now=self.clock(), touched=touched)
        self._acked = theirs
        self._sequence += len(others)
        self._take_state(rebase.merged, self.server.log + rebase.pending)

    def _take_state(self, state: State, log: list[Batch]) -> None:
        self._sequence = len(self.server.log)
        self.chain.objects = dict(state.chain.objects)
        self.chain.sets = {group: dict(rows) for group, rows in state.chain.sets.items()}
        self.chain.log = list(log)


def survey(chain: MemoryChain) -> list[Problem]:
    """What fsck has to say of a chain in memory."""
    seen = SimpleNamespace(
        object_key=chain.object_key, group_key=chain.group_key, load=chain.load, exists=chain.exists,
        members=chain.members, object_count=chain.object_count,
        records=lambda: [
            (key, SimpleNamespace(lane=lane, flags=0)) for key, (lane, _) in chain.objects.items()
        ],
    )  # fmt: skip
    return Survey(cast(Chain, seen)).run()


def tree(vault: Vault) -> dict[bytes, tuple[Any, ...]]:
    """Everything that can be seen: by path, what it is."""
    seen: dict[bytes, tuple[Any, ...]] = {}
    folders = [(b"", ROOT_INO)]
    while folders:
        path, folder = folders.pop()
        for row in vault.readdir(folder):
            if row.name in {b".", b".."}:
                continue
            inode = vault.getattr(row.ino)
            here = path + b"/" + row.name
            common = (inode.ino, inode.mode, inode.uid, inode.nlink, inode.size, inode.mtime, inode.ctime)
            if inode.is_dir:
                assert inode.parent == folder
                folders.append((here, row.ino))
                seen[here] = common
            elif inode.is_link:
                seen[here] = (*common, vault.readlink(row.ino))
            else:
                seen[here] = (*common, vault.read(row.ino, 0, inode.size) if inode.is_file else b"", inode.xattrs)
    return seen


def contents(vault: Vault) -> dict[bytes, tuple[int, bytes]]:
    """Inode number and content of every file, by path."""
    return {path: (found[0], found[-2]) for path, found in tree(vault).items() if len(found) == 9}
