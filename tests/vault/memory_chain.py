"""A chain in a dictionary: what the vault needs of one, without sealing or disk. A fast model for property tests.

It keeps the same promises (a batch is all or nothing; the view answers with the new state once settled), can refuse
writes, and can pretend that nothing is in memory yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from blake3 import blake3

from atedb.chain.event import Change, Lane, Term
from atedb.errors import AteError, NoSpaceError, NotResident
from atefs.vault.codec import terms_of

MemoryEvent = tuple[bool, Lane, bytes, bytes]
"""(tombstone, lane, key, body)."""


@dataclass
class MemoryBatch:
    changes: Sequence[Change]
    bodies: list[bytes] = field(default_factory=list)
    written: bool = False


class MemoryChain:
    """objects: key -> (lane, body). log: the events of every batch."""

    def __init__(self) -> None:
        self.objects: dict[bytes, tuple[Lane, bytes]] = {}
        self.sets: dict[bytes, dict[bytes, bytes]] = {}
        self.log: list[list[MemoryEvent]] = []
        self.live_bytes = self.stored_bytes = 0
        self.read_only = False
        self.promised: dict[bytes, Change] = {}
        self.device = b"this device's key".ljust(32)
        self.failed: AteError | None = None
        self.capacity = 1 << 40
        self.loads = 0
        self.free_calls = 0
        self.absent_first = False
        self._resident: set[bytes] = set()
        self._in_flight: MemoryBatch | None = None

    def object_key(self, kind: bytes, *parts: bytes) -> bytes:
        return blake3(kind + b"".join(parts), key=b"o" * 32).digest(16)

    def group_key(self, kind: bytes, *parts: bytes) -> bytes:
        return blake3(kind + b"".join(parts), key=b"g" * 32).digest(16)

    def load(self, key: bytes) -> bytes | None:
        self._touch(key)
        self.loads += 1
        found = self.objects.get(key)
        return found[1] if found is not None else None

    def exists(self, key: bytes) -> bool:
        return key in self.objects

    def members(self, group: bytes) -> dict[bytes, bytes]:
        self._touch(group)
        return dict(self.sets.get(group, {}))

    def prepare(self, changes: Sequence[Change]) -> MemoryBatch:
        assert self._in_flight is None, "one batch in flight at a time"
        assert len({change.key for change in changes}) == len(changes), "a batch has each object once"
        self._in_flight = MemoryBatch(changes)
        return self._in_flight

    def write(self, batch: MemoryBatch) -> None:
        batch.bodies = [_joined(change) for change in batch.changes]
        need = sum(len(body) for body, change in zip(batch.bodies, batch.changes, strict=True) if not change.tombstone)
        if need > self.free_bytes():
            raise NoSpaceError("the pretended disk is full")
        batch.written = True

    def settle(self, batch: MemoryBatch) -> None:
        assert batch.written
        self._in_flight = None
        self.log.append([
            (change.tombstone, change.lane, change.key, body)
            for change, body in zip(batch.changes, batch.bodies, strict=True)
        ])  # fmt: skip
        for change, body in zip(batch.changes, batch.bodies, strict=True):
            self._forget(change.key)
            if not change.tombstone:
                self.objects[change.key] = (change.lane, body)
                self.live_bytes += len(body)
                self.stored_bytes += len(body)
            self._apply(change.terms)

    def abandon(self, batch: MemoryBatch) -> None:
        assert self._in_flight is batch
        self._in_flight = None

    def commit(self, changes: Sequence[Change]) -> int:
        batch = self.prepare(changes)
        try:
            self.write(batch)
        except AteError:
            self.abandon(batch)
            raise
        self.settle(batch)
        return len(self.log)

    def barrier(self) -> int:
        return len(self.log)

    def object_count(self, lane: Lane) -> int:
        return sum(1 for held, _ in self.objects.values() if held is lane)

    def free_bytes(self) -> int:
        self.free_calls += 1
        return self.capacity - self.stored_bytes

    @contextmanager
    def nothing_resident(self) -> Iterator[None]:
        """Within this, the first load of each object raises NotResident until it was fetched."""
        self.absent_first = True
        try:
            yield
        finally:
            self.absent_first = False

    def evict(self) -> None:
        """Nothing is resident any more."""
        self._resident.clear()

    def replayed_sets(self) -> dict[bytes, dict[bytes, bytes]]:
        """The sets as a view rebuilt from the log would have them, by `terms_of` alone."""
        terms = terms_of(self)
        rebuilt = MemoryChain()
        for batch in self.log:
            for tombstone, lane, _, body in batch:
                if lane is Lane.META and body:
                    rebuilt._apply(terms(tombstone, body))
        return rebuilt.sets

    def _touch(self, key: bytes) -> None:
        if self.absent_first and key not in self._resident:
            raise NotResident(lambda: self._resident.add(key))

    def _forget(self, key: bytes) -> None:
        old = self.objects.pop(key, None)
        if old is not None:
            self.live_bytes -= len(old[1])

    def _apply(self, terms: tuple[Term, ...]) -> None:
        for group, member, value in terms:
            rows = self.sets.setdefault(group, {})
            if value is None:
                rows.pop(member, None)
            else:
                rows[member] = value
            if not rows:
                del self.sets[group]


def _joined(change: Change) -> bytes:
    body = change.body
    return bytes(body) if isinstance(body, bytes | bytearray | memoryview) else b"".join(body)
