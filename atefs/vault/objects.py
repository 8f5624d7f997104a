"""The chain with what is on its way into it laid over: the objects as every operation should see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from atedb.chain.event import Change, Lane, Term
from atedb.errors import AteError
from atefs.vault.codec import Keys


class Log(Keys, Protocol):
    """What the vault needs of a chain (`atedb.chain.chain.Chain`)."""

    @property
    def device(self) -> bytes: ...

    @property
    def live_bytes(self) -> int: ...

    @property
    def stored_bytes(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def failed(self) -> AteError | None: ...

    def load(self, key: bytes) -> bytes | None: ...

    def members(self, group: bytes) -> dict[bytes, bytes]: ...

    def commit(self, changes: Sequence[Change]) -> int: ...

    def object_count(self, lane: Lane) -> int: ...

    @property
    def promised(self) -> Mapping[bytes, Change]: ...

    def free_bytes(self) -> int: ...


class Objects:
    """Objects by key. `load` and `members` raise what the chain raises, NotResident included.

    ahead: the changes that left the dirty state and are not in the chain: those of the commit in flight, or of one
    that failed, or was put off, and goes with the next.
    loose: those of them that are not on stable storage.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.ahead: dict[bytes, Change] = dict(log.promised)
        self.loose: dict[bytes, Change] = {}
        self.in_flight = False
        self._rows: dict[bytes, list[Term]] | None = None

    def load(self, key: bytes) -> bytes | None:
        """The newest body of an object; None: there is none."""
        if self.ahead:
            change = self.ahead.get(key)
            if change is not None:
                return None if change.tombstone else _joined(change)
        return self.log.load(key)

    def members(self, group: bytes) -> dict[bytes, bytes]:
        """The newest rows of a set."""
        rows = self.log.members(group)
        if not self.ahead:
            return rows
        if self._rows is None:
            self._rows = _rows_by_group(self.ahead)
        newer = self._rows.get(group)
        if newer:
            rows = dict(rows)
            for term in newer:
                if term.value is None:
                    rows.pop(term.member, None)
                else:
                    rows[term.member] = term.value
        return rows

    def send(self, new: dict[bytes, Change]) -> None:
        """From now on these changes are in flight, and all that were ahead already."""
        self.ahead.update(new)
        self.loose.update(new)
        self.in_flight, self._rows = True, None

    def arrived(self) -> None:
        """The chain answers for them now."""
        self.ahead, self.loose = {}, {}
        self.in_flight, self._rows = False, None

    def returned(self, *, promised: bool = False) -> None:
        """They did not get there, and go again with the next commit. promised: they are on stable storage already."""
        self.in_flight = False
        if promised:
            self.loose = {}


def _joined(change: Change) -> bytes:
    body = change.body
    if isinstance(body, bytes):
        return body
    return bytes(body) if isinstance(body, bytearray | memoryview) else b"".join(body)


def _rows_by_group(changes: dict[bytes, Change]) -> dict[bytes, list[Term]]:
    rows: dict[bytes, list[Term]] = {}
    for change in changes.values():
        for term in change.terms:
            rows.setdefault(term.group, []).append(term)
    return rows
