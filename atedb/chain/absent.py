"""Bodies that are on the server only: found in the cache, or fetched, with those that were written next to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from atedb.chain.blobcache import BlobCache, Wanted
from atedb.chain.ciphers import Opener, open_body
from atedb.chain.format import EVENT_SIZE, Event, event_hash
from atedb.chain.record import ABSENT, Record
from atedb.crypto.aead import SealBrokenError
from atedb.errors import Absent, DamagedError, UnreachableError

AHEAD = 2 << 20
_ROWS = 64

FetchBodies = Callable[[Sequence[Wanted]], Sequence[bytes]]
"""Sealed bodies from the server, in order: all, or the first of them. Blocks. Raises UnreachableError."""


class ReadsLog(Protocol):
    """The log that the records' places are in."""

    def read_log(self, segment: int, offset: int, length: int) -> bytes:
        """Bytes of it. Raises DamagedError."""


class AbsentBodies:
    """Where the bodies of slim frames come from. fetch_bodies: None while there is no server. log: for their rows."""

    def __init__(self, cache: BlobCache, log: ReadsLog) -> None:
        self.cache = cache
        self.log = log
        self.fetch_bodies: FetchBodies | None = None

    def load(self, key: bytes, record: Record, opener: Opener, *, nowait: bool) -> bytes:
        """The plaintext of an absent body. opener: of its batch.

        Raises DamagedError; Absent if `nowait` and it has to be fetched, else UnreachableError when it cannot be.
        """
        wanted = Wanted(record.sequence, record.place)
        for last in (False, True):
            sealed = self.cache.get(wanted, record.length, nowait=nowait)
            if sealed is not None:
                try:
                    return open_body(key, record, opener, sealed)
                except SealBrokenError:
                    self.cache.discard(wanted)
                    if last:
                        break
            if nowait:
                raise Absent(lambda: self.fetch(record))
            if not last:
                self.fetch(record)
        raise DamagedError(f"object {key.hex()} as the server has it is not what was written; the rest is kept")

    def fetch(self, record: Record) -> None:
        """Bring the body of a record into the cache, and those after it in its batch: what was written together is
        mostly read together. Blocks. Raises UnreachableError, DamagedError when the server gives something else.
        """
        rows = self._rows(record)
        self._fetch(record.sequence, [row for row in rows if row is rows[0] or not self._has(record.sequence, row)])

    def fetch_all(self, records: Iterable[Record], *, pinned: bool = False) -> None:
        """Bring the bodies of these records into the cache, those of them that are absent, and pin them if asked to.

        Blocks. Raises as `fetch`; what came before an error stays.
        """
        absent = [record for record in records if record.flags & ABSENT]
        places = [Wanted(record.sequence, record.place) for record in absent]
        here = self.cache.has
        lacking = set(self.cache.pin(places)) if pinned else {place for place in places if not here(place)}
        part: list[tuple[Wanted, Event]] = []
        size = 0
        for place, record in zip(places, absent, strict=True):
            if place in lacking:
                part.append((place, self._row(record)))
                size += record.length
            if size >= AHEAD:
                self._take(part, pinned=pinned)
                part, size = [], 0
        if part:
            self._take(part, pinned=pinned)

    def keep_only(self, records: Iterable[Record]) -> None:
        """Of what is pinned, let go of all but the bodies of these records."""
        kept = {Wanted(record.sequence, record.place) for record in records}
        self.cache.unpin([place for place in self.cache.pinned() if place not in kept])

    def _has(self, sequence: int, row: Event) -> bool:
        return self.cache.has(Wanted(sequence, row.place))

    def _fetch(self, sequence: int, rows: Sequence[Event]) -> None:
        self._take([(Wanted(sequence, row.place), row) for row in rows], pinned=False)

    def _take(self, events: Sequence[tuple[Wanted, Event]], *, pinned: bool) -> None:
        if self.fetch_bodies is None:
            raise UnreachableError("the bytes wanted are on the server only, and there is no connection to it")
        done = 0
        while done < len(events):  # the server gives as many at once as it likes
            bodies = self.fetch_bodies([wanted for wanted, _ in events[done:]])
            if not 0 < len(bodies) <= len(events) - done:
                raise DamagedError(f"the server gave {len(bodies)} bodies, {len(events) - done} were asked for")
            for (wanted, row), body in zip(events[done:], bodies, strict=False):
                if len(body) != row.length or event_hash(row.core, body) != row.hash:
                    raise DamagedError(
                        f"the server gave another body {wanted.place} of batch {wanted.sequence} than the one that was "
                        f"signed (object {row.key.hex()}); it was not used; the server alters or has lost data"
                    )
                self.cache.put(wanted, body, pinned=pinned)
            done += len(bodies)

    def _row(self, record: Record) -> Event:
        return Event.decode(self.log.read_log(record.segment, record.offset, EVENT_SIZE))

    def _rows(self, record: Record) -> list[Event]:
        """The row of a record, and those of absent bodies that follow it in the same batch."""
        rows = [self._row(record)]
        size = record.length
        try:
            table = self.log.read_log(record.segment, record.offset, _ROWS * EVENT_SIZE)
            for i in range(1, _ROWS):
                row = Event.decode(table[i * EVENT_SIZE :][:EVENT_SIZE])
                size += row.length
                if row.place != record.place + i or size > AHEAD:
                    break
                if row.heavy:
                    rows.append(row)
        except DamagedError:
            pass  # the table has ended, or the segment
        return rows
