"""The swap of one rebase: a new end of the log, made beside the old one, takes its place all at once.

In this order: the note `remote` says that a rebase is under way and which segments are its work; the segments are
written and synced; the manifest that names them replaces the old one, and that is the instant; the old end is removed;
the note says that all is done. Opening the chain goes on wherever this was interrupted.

So that segments do not pile up, what is short is then written a second time, over the old end, which nobody needs any
more: behind the batches that it follows, in their segment. Another manifest makes that count; the segment that was the
work is removed instead.
"""

from __future__ import annotations

import logging
import shutil

from atedb.chain.arrival import live_set
from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.layer import Layer, Mark
from atedb.chain.log import Log
from atedb.chain.manifest import Manifest, SealedSegment, load_manifest
from atedb.chain.position import Position
from atedb.chain.rebase import Rebase
from atedb.chain.recovery import Recovery
from atedb.chain.remote import RemoteNote
from atedb.chain.view import View, empty_state, view_place
from atedb.errors import AteError

logger = logging.getLogger(__name__)

_FRESH = "view.rebase"


class Swap:
    """From `start` on, the end of the newest batch that the server has.

    work: what there is to merge. Raises NoSpaceError, StorageError, DamagedError; nothing has changed then.
    """

    def __init__(self, chain: Chain, note: RemoteNote, start: Mark) -> None:
        note.clean(chain.durable)  # of one whose end could not be removed
        self._chain = chain
        self._note = note
        self._start = start
        self._old = chain._log.manifest
        self._fresh: View | None = None
        self._published = False
        self._log: Log | None = None
        note.rebase = self._old.active + 1
        note.save(chain.durable)
        try:
            manifest = _manifest_up_to(self._old, start)
            self._log = log = Log.draft(chain._disk, chain.store, manifest, start.sequence + 1, start.head)
            self.work = Rebase(chain, self._base(manifest), start, log)
        except BaseException:
            self.abandon()
            raise

    def _base(self, manifest: Manifest) -> View:
        """The view at `start`: the chain's own, or one made anew when that has taken in what was pending too."""
        chain = self._chain
        layer = chain._view
        assert isinstance(layer, Layer)
        layer.hand_down(self._start.sequence)
        if chain._base.state.sequence == self._start.sequence:
            return chain._base
        # Made on the system's disk itself, as all of a view is: it counts only once it is sealed where it belongs.
        place = view_place(RealDisk(), chain.store / _FRESH, chain.keys)
        shutil.rmtree(chain.store / _FRESH, ignore_errors=True)
        place.disk.make_folder(chain.store / _FRESH)
        self._fresh = fresh = View.create(place, empty_state(chain.keys.chain_id))
        replay = chain.replay(fresh, live_set(chain, fresh))
        longer = manifest.sealed[-1].number if manifest.sealed else 0
        Recovery(chain._disk, chain.store, manifest, fresh, replay, longer=longer).run(None, None)
        if longer:  # where the draft begins may not be where it stays
            fresh.state.segment, fresh.state.offset = self._start.segment, self._start.offset
        return fresh

    def publish(self) -> None:
        """Make it so. Raises NoSpaceError, StorageError: nothing has changed then, or the chain has failed."""
        chain, work = self._chain, self.work
        tail = Position(work.below.state.sequence, work.below.state.head)
        chain.lower_head(self._start.sequence, self._start.head)
        if self._fresh is not None:
            self._fresh.relieve()
            chain._base.unseal()
        assert self._log is not None
        self._published = True
        try:
            self._log.publish()
        except AteError as error:
            if self._is_in_force(self._old):
                self._published = False
            else:
                chain.failed = error  # only the next opening can tell
            raise
        self._join(self._log)
        chain.change_log(self._log)
        try:
            self._take_over()
        except AteError as error:
            chain.failed = error
            raise
        work.below.hand_down(tail.sequence)
        work.layer.rest_on(chain._base)
        chain.restart(work.layer, work.live, work.statements())
        self._note.acked = tail  # afterwards: what is written must not seem to be at the server at any moment
        if chain.failed is not None:
            raise chain.failed
        try:
            self._note.clean(chain.durable)
        except AteError as error:
            logger.warning("what was rebased could not be removed yet: %s", error)

    def _join(self, log: Log) -> None:
        """Behind what it follows, if it is short; a store in which that fails has a segment more."""
        if self._start.segment != self._old.active or not log.joinable:
            return
        published = log.manifest
        try:
            moved = log.join(self._chain._log)
        except AteError as error:
            if self._is_in_force(published):
                logger.warning("what was rebased stays in a segment of its own: %s", error)
            else:
                self._chain.failed = error  # only the next opening can tell
            return
        for layer in (self.work.below, self.work.layer):
            layer.move(published.active, log.manifest.active, moved)

    def _is_in_force(self, manifest: Manifest) -> bool:
        try:
            return load_manifest(self._chain._disk, self._chain.store) == manifest
        except AteError:
            return False

    def _take_over(self) -> None:
        """A view that was made anew takes the old one's place, too."""
        if self._fresh is None:
            return
        chain = self._chain
        chain._base.close()
        chain._base = self._fresh
        self._fresh.move(view_place(chain._disk, chain.store, chain.keys))
        shutil.rmtree(chain.store / _FRESH, ignore_errors=True)

    def abandon(self) -> None:
        """As if nothing had been. Does nothing once it was published."""
        if self._published:
            return
        if self._log is not None:
            self._log.close()
        if self._fresh is not None:
            self._fresh.close()
            shutil.rmtree(self._chain.store / _FRESH, ignore_errors=True)
        try:
            self._note.clean(self._chain.durable)
        except AteError as error:
            logger.warning("what a rebase has left could not be removed yet: %s", error)


def _manifest_up_to(manifest: Manifest, end: Mark) -> Manifest:
    """The segments up to `end`, the last one as far as that, and a new active one."""
    kept = [sealed for sealed in manifest.sealed if sealed.number < end.segment and sealed.last <= end.sequence]
    if end.sequence:
        first = kept[-1].last + 1 if kept else 1
        kept.append(SealedSegment(end.segment, first, end.sequence, end.offset, end.head.hex()))
    return Manifest(manifest.format, manifest.chain, manifest.active + 1, kept)
