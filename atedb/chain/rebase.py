"""Rebase: pending changes are put on top of what others did meanwhile.

The others' batches, and what a merge makes of the pending ones, are written into new segments. Replacing the manifest
then makes them the log, all at once: before, the old log is whole, with all that is pending; afterwards the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from atedb.chain.apply import install, rows_of
from atedb.chain.arrival import Arrival, live_set
from atedb.chain.batch import Batch, BatchPlace
from atedb.chain.chain import Chain
from atedb.chain.event import Change, Seen
from atedb.chain.format import CERTIFICATE, TOMBSTONE
from atedb.chain.layer import Layer, Mark
from atedb.chain.log import Log
from atedb.chain.record import BatchKeys, unpack_record
from atedb.chain.side import Changed, Reader, Stretch
from atedb.chain.view import View
from atedb.crypto.sethash import SetHash
from atedb.crypto.signing import Certificate


class Rebase:
    """The three sides of a merge, and where its outcome goes.

    base: the last state that both have. mine: with the pending changes. theirs: with the others' changes. None of the
    three ever changes. merged: theirs, and all that `commit` has taken so far. mine_keys, theirs_keys: of the objects
    that each side has changed since base.
    """

    def __init__(self, chain: Chain, base: View, start: Mark, log: Log) -> None:
        assert chain.absent is not None
        self._chain = chain
        self._log = log
        self._start = start
        self._last = start.sequence
        self._below = Layer(base)
        self._layer = self._below
        self._live = live_set(chain, self._below)
        self.base = Reader(base, chain._log, chain.keys, chain.absent)
        self.mine = Reader(chain._view, chain._log, chain.keys, chain.absent)
        self.theirs = Reader(self._below, log, chain.keys, chain.absent)
        self.merged = self.theirs

    # -- for the merge

    @cached_property
    def mine_keys(self) -> frozenset[bytes]:
        """Of the objects that pending batches have changed."""
        return self._mine.keys()

    @cached_property
    def theirs_keys(self) -> frozenset[bytes]:
        """Of the objects that the others have changed."""
        return self._theirs.keys()

    def mine_changes(self) -> Iterator[Changed]:
        """All pending events, in order; an object may come several times. Raises DamagedError."""
        return self._mine.changes()

    def theirs_changes(self) -> Iterator[Changed]:
        """All events of the others, in order; an object may come several times. Raises DamagedError."""
        return self._theirs.changes()

    def commit(self, changes: Sequence[Change]) -> None:
        """Append one batch to the outcome: it will be pending. Each key may appear once.

        May be called any number of times; pending changes that no call brings back are gone. Raises NoSpaceError,
        StorageError, LimitError.
        """
        chain, layer = self._chain, self._layer
        replaced = [layer.get(change.key) for change in changes]
        versions = [1 if row is None else unpack_record(row).version + 1 for row in replaced]
        state = layer.state
        place = BatchPlace(state.sequence + 1, self._start.sequence, chain._clock(), state.head, self.statements())
        batch = Batch(changes, versions, replaced, place)
        live = self._live.copy()
        for row in replaced:
            if row is not None and not (old := unpack_record(row)).flags & TOMBSTONE:
                live.remove(old.element)
        sealed = batch.sealed = chain._sealer.seal(place, changes, versions, live)
        self._log.roll_if_full(sealed.length, sequence=place.sequence, previous=place.previous)
        batch.segment, batch.start = self._log.append(sealed.frame, sealed.length)
        install(layer, rows_of(batch))
        layer.put_batch(batch.sequence, BatchKeys(sealed.salt, sealed.slots).encode())
        for change in changes:
            layer.apply(change.terms)
        for _, data in place.statements:
            state.devices[Certificate.decode(data).device] = data
        self._live = sealed.live
        layer.advance(batch.sequence, sealed.hash, batch.segment, batch.start + sealed.length, sealed.live)

    # -- for the replica

    def take(self, arrival: Arrival, seen: Seen) -> None:
        """One frame of the others', the next one. Raises DamagedError, NoSpaceError, StorageError."""
        self._live = arrival.enter(self._chain, self._log, self._below, seen)
        self._last = arrival.frame.head.sequence

    def begin_merge(self) -> None:
        """All of theirs has been taken: from here on it is `commit`'s turn."""
        self._layer = Layer(self._below)
        chain = self._chain
        assert chain.absent is not None
        self.merged = Reader(self._layer, self._log, chain.keys, chain.absent)

    @property
    def below(self) -> Layer:
        """Theirs, over base."""
        return self._below

    @property
    def layer(self) -> Layer:
        """What has been committed, over theirs."""
        return self._layer

    @property
    def live(self) -> SetHash:
        """The set of live objects after all that."""
        return self._live

    def statements(self) -> tuple[tuple[int, bytes], ...]:
        """This device's certificate, if it was stated in a batch that is pending, or not yet at all."""
        chain = self._chain
        if chain.device in self._layer.state.devices:
            return ()
        stated = chain._view.state.devices.get(chain.device)
        return chain._statements if stated is None else ((CERTIFICATE, stated),)

    @cached_property
    def _mine(self) -> Stretch:
        chain = self._chain
        return Stretch(chain._log, chain.keys, self._start, chain._view.state.sequence)

    @cached_property
    def _theirs(self) -> Stretch:
        return Stretch(self._log, self._chain.keys, self._start, self._last)


Merge = Callable[[Rebase], object]
"""Looks at the sides and commits what the pending changes become."""
