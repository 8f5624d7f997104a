"""The chain: commit, read, checkpoint. One process owns it, one thread (the owner thread) uses it.

Only `write`, `barrier` and `write_checkpoint` may run in other threads, one of each at a time. A commit is prepared and
settled in the owner thread and written in between: prepare, write, settle (or abandon). One is in flight at a time.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from atedb.chain.absent import AbsentBodies
from atedb.chain.apply import Replay, install, rows_of
from atedb.chain.batch import Batch, BatchPlace, Sealer
from atedb.chain.blobcache import FOLDER as BLOBS
from atedb.chain.blobcache import BlobCache, default_limit
from atedb.chain.ciphers import BatchCiphers, open_body
from atedb.chain.device import load_device, make_device
from atedb.chain.disk import Disk, RealDisk
from atedb.chain.event import Change, Lane, Seen, TermsOf, no_terms
from atedb.chain.format import CERTIFICATE, TOMBSTONE
from atedb.chain.frame import Frame
from atedb.chain.header import ChainHeader, load_header, make_header, verify_root
from atedb.chain.heads import Head, RememberedHeads
from atedb.chain.journal import Journal
from atedb.chain.layer import Layer
from atedb.chain.lock import ChainLock
from atedb.chain.log import Log
from atedb.chain.position import Position
from atedb.chain.record import ABSENT, BatchKeys, Record, unpack_record
from atedb.chain.recovery import Progress, Recovery, cut_tail, read_manifest
from atedb.chain.remote import RemoteNote, load_remote
from atedb.chain.stats import ChainStats, ReplayCost
from atedb.chain.view import Checkpoint, View, ViewUnusableError, empty_state, view_place
from atedb.crypto.aead import SealBrokenError, preferred_suite
from atedb.crypto.keys import KeyRing, root_signing_key
from atedb.crypto.sethash import SetHash
from atedb.crypto.signing import Certificate, SigningKey
from atedb.errors import AteError, DamagedError, NoSpaceError, ReadOnlyError, StoreExistsError

log = logging.getLogger(__name__)

RESERVE = 16 << 20
"""Bytes of the disk left to deletions when it fills up."""

Clock = Callable[[], int]


class Chain:
    """One open chain. Made by `Chain.create` and `Chain.open`.

    written, durable: the newest sequence that is in the log, and the newest behind a barrier. failed: the error that
    made the chain read-only, or None. device: the public key that signs here, b"" when nothing
    may be written. nowait: `load` raises NotResident rather than wait for the disk. remote: of a chain that follows a
    server (see `Replica`), how far the server has it; else None. absent: where bodies come from that it alone has.
    promised: where nothing may be written, what was synced and is in no batch yet.
    """

    def __init__(
        self, store: Path, disk: Disk, clock: Clock, header: ChainHeader, keys: KeyRing, *, read_only: bool
    ) -> None:
        self.store = store
        self.header = header
        self.keys = keys
        self.read_only = read_only
        self.failed: AteError | None = None
        self.device = b""
        self.nowait = False
        self.written = 0
        self.durable = 0
        self.stats = ChainStats()
        self.object_key = keys.object_key
        self.group_key = keys.group_key
        self._disk = disk
        self._clock = clock
        self._ciphers = BatchCiphers(keys, self._batch_row, advice="; run: atefs fsck --repair")
        self._cost = ReplayCost()
        self._flight: Batch | None = None
        self._heads: RememberedHeads | None = None
        self.promised: Mapping[bytes, Change] = {}
        self._journal = Journal(disk, store, keys)
        self._owed: set[bytes] = set()
        self._statements: tuple[tuple[int, bytes], ...] = ()
        self._undo: list[Callable[[], None]] = []
        self._safe = Head(0, "")  # the newest batch when the last checkpoint was begun
        self._terms: TermsOf = no_terms
        self.remote: RemoteNote | None = None
        self.absent: AbsentBodies | None = None
        self._retired: Log | None = None
        self._log: Log
        self._base: View  # on the disk
        self._view: View | Layer  # that one, or what lies over it
        self._live: SetHash
        self._sealer: Sealer

    @classmethod
    def create(
        cls, store: Path, root: bytes, *, suite: str | None = None, disk: Disk | None = None,
        clock: Clock = time.time_ns, heads: Path | None = None, header: ChainHeader | None = None,
        terms: TermsOf = no_terms, remote: bool = False,
    ) -> Chain:  # fmt: skip
        """A new chain in the folder `store`, for the tenant with this 32-byte root key; open and locked.

        suite: the AEAD to use, by default the one that suits this processor. heads: folder of the remembered heads.
        header: of a chain that is written anew, or followed from a server; its device is taken over when `store` holds
        the device's file. terms, remote: as for `open`.
        Raises StoreExistsError, NoSpaceError, ReadOnlyError, StorageError.
        """
        disk = disk or RealDisk()
        if (store / "chain").exists():
            raise StoreExistsError(
                f"there is a chain in {store} already; nothing was changed; mount it, or name another"
            )
        disk.make_folder(store)
        header = header or make_header(root, suite or preferred_suite(), clock())
        keys = KeyRing(root, header.chain_id, header.suite)
        chain = cls(store, disk, clock, header, keys, read_only=False)
        chain._take_lock()
        chain._log = Log.create(disk, store, header.chain_id)
        chain._undo.append(chain._close_log)
        chain._live = SetHash(keys.purpose("live set hash"))
        chain._view = chain._base = View.create(view_place(disk, store, keys), empty_state(keys.chain_id))
        chain._undo.append(chain._close_base)
        if remote:
            chain._follow(RemoteNote(disk, store))
        chain._take_device(root, load_device(disk, store, keys) or make_device(disk, store, keys))
        chain._heads = RememberedHeads(disk, heads) if heads else None
        chain._terms = terms
        if chain.remote is not None:
            chain.remote.save(0)
        header.save(disk, store)  # last: a store without it is no chain yet
        return chain

    @classmethod
    def open(
        cls, store: Path, root: bytes, *, terms: TermsOf = no_terms, read_only: bool = False, heads: Path | None = None,
        accept_rollback: bool = False, progress: Progress | None = None, disk: Disk | None = None,
        clock: Clock = time.time_ns, remote: bool = False,
    ) -> Chain:  # fmt: skip
        """The chain in `store`, at its newest batch.

        terms: derives the sealed sets from events when the view is replayed or rebuilt. progress: called with bytes
        done and in all while a long log is replayed. remote: the store follows a server from now on; one that does
        already need not be told. Raises StoreNotFoundError, InUseError, DamagedError, RolledBackError (unless
        accept_rollback), UnsupportedError, ReadOnlyError.
        """
        disk = disk or RealDisk()
        header = load_header(disk, store)
        verify_root(header, root)
        keys = KeyRing(root, header.chain_id, header.suite)
        chain = cls(store, disk, clock, header, keys, read_only=read_only)
        chain._take_lock()
        try:
            chain._heads = RememberedHeads(disk, heads) if heads else None
            chain._terms = terms
            chain.remote = load_remote(disk, store) or (RemoteNote(disk, store) if remote else None)
            chain._recover(root, accept_rollback=accept_rollback, progress=progress)
            chain._keep_promises(accept_rollback=accept_rollback)
        except BaseException:
            chain._release()
            raise
        return chain

    # -- reading

    def load(self, key: bytes) -> bytes | None:
        """The newest body of an object; None when there is none, or it has ended.

        Raises DamagedError; NotResident while `nowait` is set; UnreachableError when the body is on a server only.
        """
        row = self._view.get(key)
        if row is None:
            return None
        record = unpack_record(row)
        _, sequence, segment, offset, length, _, slot, _, flags, _ = record
        if flags & TOMBSTONE:
            return None
        if flags & ABSENT and self.absent is not None:
            return self.absent.load(key, record, self._ciphers[sequence, slot], nowait=self.nowait)
        sealed = self._log.read(segment, offset, length, nowait=self.nowait)
        opener = self._ciphers[sequence, slot]
        self.stats.opens += 1
        try:
            return open_body(key, record, opener, sealed)
        except SealBrokenError:
            raise DamagedError(
                f"object {key.hex()} in segment {segment} at offset {offset} is not what was written; the rest of the "
                "vault is kept; find all that is damaged with: atefs verify --data"
            ) from None

    def _batch_row(self, sequence: int) -> bytes | None:
        return self._view.batch(sequence)  # of the view that is shown by then

    def absent_records(self, keys: Iterable[bytes]) -> list[Record]:
        """Of these objects, those whose bodies are on the server (`AbsentBodies.fetch_all` brings them)."""
        rows = (self._view.get(key) for key in keys)
        records = (unpack_record(row) for row in rows if row is not None)
        return [record for record in records if record.flags & ABSENT]

    def exists(self, key: bytes) -> bool:
        """Whether the object is there and has not ended."""
        row = self._view.get(key)
        return row is not None and not unpack_record(row).flags & TOMBSTONE

    def members(self, group: bytes) -> dict[bytes, bytes]:
        """A sealed set: member -> value."""
        return self._view.members(group)

    @contextmanager
    def nonblocking(self) -> Iterator[None]:
        """Inside, `load` raises NotResident rather than wait for the disk."""
        before, self.nowait = self.nowait, True
        try:
            yield
        finally:
            self.nowait = before

    # -- committing

    def prepare(self, changes: Sequence[Change]) -> Batch:
        """Begin a commit: the changes get their versions. Each key may appear once.

        Raises ReadOnlyError, or the error that made the chain fail.
        """
        self._require_writable()
        if self._flight is not None:
            raise RuntimeError("a commit is in flight already")
        if self._owed and not self._owed <= {change.key for change in changes}:
            raise RuntimeError("a commit lacks what was promised")
        get = self._view.get
        replaced = [get(change.key) for change in changes]
        versions = [1 if row is None else unpack_record(row).version + 1 for row in replaced]
        state = self._view.state
        place = BatchPlace(state.sequence + 1, self.durable, self._clock(), state.head, self._statements)
        self._flight = Batch(changes, versions, replaced, place)
        return self._flight

    def sign(self, statement: bytes) -> bytes:
        """This device's signature over what is no batch: a text that says what it is for, so that it is longer than the
        hash that stands for a batch. Only where `device` is not empty."""
        assert len(statement) > 32
        return self._sealer.sign(statement)

    def make_ready(self) -> None:
        """Do what the next commit can find done: to be called when there is time, and no commit is under way."""
        self._sealer.make_ready()

    def write(self, batch: Batch) -> None:
        """Seal the batch and append it; no barrier. Any thread.

        Raises NoSpaceError, StorageError, LimitError; nothing of the batch is in the log then: `abandon` it.
        """
        live = self._live.copy()
        for row in batch.replaced:
            if row is not None and not (old := unpack_record(row)).flags & TOMBSTONE:
                live.remove(old.element)
        sealed = batch.sealed = self._sealer.seal(batch.place, batch.changes, batch.versions, live)
        self.stats.seals += len(sealed.events) + 1
        try:
            self._log.roll_if_full(sealed.length, sequence=batch.sequence, previous=batch.place.previous)
            batch.segment, batch.start = self._log.append(sealed.frame, sealed.length)
        except NoSpaceError:
            raise
        except AteError as error:
            self.failed = error
            raise
        self.written = batch.sequence

    def settle(self, batch: Batch) -> None:
        """End a commit that was written: the view answers with the new state."""
        sealed = batch.sealed
        if sealed is None or self._flight is not batch:
            raise RuntimeError("the batch is not in flight")
        install(self._view, rows_of(batch))
        self._view.put_batch(batch.sequence, BatchKeys(sealed.salt, sealed.slots).encode())
        for change in batch.changes:
            if change.terms:
                self._view.apply(change.terms)
        self._live = sealed.live
        self._take_up_certificates()
        self._view.advance(batch.sequence, sealed.hash, batch.segment, batch.start + sealed.length, sealed.live)
        self._cost.add(len(sealed.events) + 1, sealed.length)  # and the claim: a batch without events counts as well
        self._flight = None
        self._owed.clear()

    def abandon(self, batch: Batch) -> None:
        """End a commit that could not be written: as if it had never been prepared."""
        if self._flight is batch:
            self._flight = None

    def commit(self, changes: Sequence[Change]) -> int:
        """Prepare, write and settle in one go; the batch's sequence. Not durable before `barrier`."""
        batch = self.prepare(changes)
        try:
            self.write(batch)
        except AteError:
            self.abandon(batch)
            raise
        self.settle(batch)
        return batch.sequence

    @property
    def has_journal(self) -> bool:
        """Whether `promise` may come to something."""
        return not (self.read_only or self.remote is not None or self._journal.failed)

    def promise(self, changes: Collection[Change]) -> bool:
        """Put changes on stable storage which the next batch will contain: sooner done than a batch with its barrier.

        False: they have to be committed and a barrier raised. Never in a chain that follows a server, whose batches are
        wanted elsewhere soon.
        """
        state = self._view.state
        idle = self._flight is None and self.failed is None and state.sequence == self.written == self.durable
        if not (self.has_journal and idle and self._journal.append(Position(state.sequence, state.head), changes)):
            return False
        self._owed.update(change.key for change in changes)
        self.stats.promises += 1
        self.stats.seals += 1
        return True

    def barrier(self) -> int:
        """Return once all that is written is on stable storage; the sequence that is durable now. Any thread.

        A barrier that failed once is not tried again: after a failed fdatasync nobody knows what the disk has.
        Raises StorageError, and the chain is read-only from then on.
        """
        if self.failed is not None:
            raise self.failed
        written = self.written
        if written > self.durable:
            try:
                self._log.barrier()
            except AteError as error:
                self.failed = error
                raise
            self.durable = max(self.durable, written)
        return self.durable

    def _require_writable(self) -> None:
        if self.failed is not None:
            raise ReadOnlyError(f"the chain is read-only since a failure: {self.failed}")
        if self.read_only:
            raise ReadOnlyError("the chain was opened read-only; nothing was changed")

    # -- the view

    def checkpoint_due(self) -> bool:
        """Whether opening the chain now would cost enough to be worth a checkpoint."""
        if self.read_only or self.failed is not None or not self._cost.due():
            return False
        return not isinstance(self._view, Layer) or self._view.due

    def begin_checkpoint(self) -> Checkpoint:
        """Owner thread: set aside what is new; then run `write_checkpoint` anywhere, then `end_checkpoint` here.

        Nothing is committed between the barrier that this needs and the call: it raises the barrier itself.
        """
        self.barrier()
        self._cost.start()
        self._safe = self.head
        return self._view.begin_checkpoint()

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Fold what is new into the view's file, and remember the head. Raises StorageError, NoSpaceError."""
        if self.remote is not None:
            self.remote.save(self.durable)  # before the view, which must not be found to show more than it names
        checkpoint.write()
        self.remember(self._safe)

    def remember(self, head: Head) -> None:
        """Note outside the store, durably, that this machine has seen `head`, which must be durable itself. Any thread.

        From then on an older copy of the store is a rollback, and a bad batch up to there is damage, no torn tail.
        """
        if self._heads is not None:
            self._heads.remember(self.keys.chain_id, head)

    def end_checkpoint(self, *, written: bool) -> None:
        """Owner thread: `written` says whether `write_checkpoint` returned."""
        self._view.end_checkpoint(written=written)
        self._cost.end(written=written)

    def checkpoint(self) -> None:
        """All three steps in one go."""
        point = self.begin_checkpoint()
        written = False
        try:
            self.write_checkpoint(point)
            written = True
        finally:
            self.end_checkpoint(written=written)

    def records(self) -> Iterator[tuple[bytes, Record]]:
        """Every object's key and newest record, tombstones included. Nothing may be committed meanwhile."""
        for key, row in self._view.records():
            yield key, unpack_record(row)

    # -- accounts

    @property
    def head(self) -> Head:
        """The newest batch."""
        return Head(self._view.state.sequence, self._view.state.head.hex())

    @property
    def live_bytes(self) -> int:
        """Bytes of the log taken by events that are still the newest of their object."""
        return sum(use.live for use in self._view.state.segments.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all events in the log."""
        return sum(use.total for use in self._view.state.segments.values())

    def object_count(self, lane: Lane) -> int:
        """Live objects on one lane."""
        return self._view.state.objects[lane]

    @property
    def counters(self) -> ChainStats:
        """What this process has done so far."""
        self.stats.appends, self.stats.barriers = self._log.appends, self._log.barriers
        self.stats.view_reads = self._view.reads
        return self.stats

    def free_bytes(self) -> int:
        """What the store's disk can still take, less the reserve that deletions live on."""
        return max(0, self._log.free_bytes() - RESERVE)

    def close(self) -> None:
        """Make all durable, checkpoint, release. After a failure: release only."""
        try:
            if not self.read_only and self.failed is None:
                if self._cost.events:
                    self._checkpoint_at_close()
                self._log.trim()
        finally:
            self._release()

    def _checkpoint_at_close(self) -> None:
        try:
            self.checkpoint()
        except NoSpaceError as error:
            log.warning("there is no room for a last checkpoint, so the next opening takes longer: %s", error)

    def _release(self) -> None:
        """Undo, last first, what opening has taken so far."""
        while self._undo:
            self._undo.pop()()

    # A rebase puts others in their places, so they are looked up when they are closed.

    def _close_log(self) -> None:
        self._log.close()
        self._journal.close()
        if self._retired is not None:
            self._retired.close()

    def change_log(self, log: Log) -> None:
        """Go on with another log. Fetches under way may still read the old one, so it stays open until the next."""
        if self._retired is not None:
            self._retired.close()
        self._retired, self._log = self._log, log

    def _close_base(self) -> None:
        self._base.close()

    # -- opening

    def _recover(self, root: bytes, *, accept_rollback: bool, progress: Progress | None) -> None:
        disk, store, chain_id, remote = self._disk, self.store, self.keys.chain_id, self.remote
        device = load_device(disk, store, self.keys)
        if remote is not None and not self.read_only:
            remote.clean(remote.acked.sequence)
        left, longer = remote.leftovers() if remote is not None else ([], None)
        manifest = read_manifest(disk, store, chain_id, left)
        seen = self._heads.recall(chain_id) if self._heads and not accept_rollback else None
        self._view = self._base = self._open_view()
        if remote is not None:
            self._follow(remote)
        state = self._view.state
        self._live = SetHash(
            self.keys.purpose("live set hash"), int.from_bytes(state.set_total, "little"), state.set_count
        )
        replay = self.replay(self._view, self._live)
        before = state.sequence
        if remote is None and not accept_rollback:
            seen = self._journal.vouched(seen, before)
        # Where batches come from a server, what others found durable says nothing of what is durable here.
        own = None if remote is None else device.public if device else b""
        cut = Recovery(
            disk, store, manifest, self._view, replay, longer=longer.number if longer else 0, device=own
        ).run(seen, progress)
        if cut is not None and not self.read_only:
            cut_tail(disk, store, manifest.active, cut)
        state = self._view.state
        self._log = Log(disk, store, manifest, end=state.offset, read_only=self.read_only)
        self._undo.append(self._close_log)
        self.written = self.durable = state.sequence
        self._cost.add(state.sequence - before, 0)
        if not self.read_only:
            if not manifest.is_saved(disk, store):  # else nothing is written, so that a full disk can be opened
                manifest.save(disk, store)
            self._log.barrier()  # what was replayed may still be in the page cache only
            self._take_device(root, device or make_device(disk, store, self.keys))
            if remote is not None:
                remote.settle(Position(state.sequence, state.head))

    def _keep_promises(self, *, accept_rollback: bool) -> None:
        """What was synced before a crash, and had not come into a batch, does so now."""
        promised = self._journal.read(Position(self._view.state.sequence, self._view.state.head))
        if self.read_only:
            self.promised = promised
        elif promised:
            log.info("%s: %d changes that were synced are taken from the journal", self.store, len(promised))
            self.commit(list(promised.values()))
            self.barrier()
        elif accept_rollback:
            self._journal.remove()

    def _follow(self, remote: RemoteNote) -> None:
        """What the server does not have yet lies in a layer of its own."""
        self.remote = remote
        layer = self._view = Layer(self._base)
        layer.acked = remote.acked.sequence
        self.absent = AbsentBodies(BlobCache(self.store / BLOBS, default_limit(self.store)), self)

    def replay(self, view: View | Layer, live: SetHash, seen: Seen | None = None) -> Replay:
        """What applies frames to a view of this chain. live: the live objects that the view shows, to be kept up."""
        public = bytes.fromhex(self.header.root_public)
        return Replay(view, self.keys, live, public, self._terms, slim=self.remote is not None, seen=seen)

    def show(self, layer: Layer, live: SetHash) -> None:
        """Go on from another state: what `layer` shows, and the set of live objects there."""
        self._view, self._live = layer, live

    def count(self, frame: Frame) -> None:
        """A frame more to replay when the chain is opened next."""
        self._cost.add(len(frame.events) + 1, frame.header.length)

    def lower_head(self, sequence: int, head: bytes) -> None:
        """Take back what this machine remembers of batches after that one, before a rebase replaces them."""
        if self._heads is not None:
            self._heads.lower(self.keys.chain_id, Head(sequence, head.hex()))

    def restart(self, layer: Layer, live: SetHash, statements: tuple[tuple[int, bytes], ...]) -> None:
        """Go on after a rebase: other batches stand where some stood before, and all of them are durable."""
        self.show(layer, live)
        self._statements = statements
        self._ciphers.clear()
        self.written = self.durable = layer.state.sequence
        self._cost.add(layer.rows, 0)

    def read_log(self, segment: int, offset: int, length: int) -> bytes:
        """Bytes of the log as they are. Raises DamagedError."""
        return bytes(self._log.read(segment, offset, length))

    def _take_lock(self) -> None:
        self._undo.append(ChainLock(self.store, shared=self.read_only).release)

    def _open_view(self) -> View:
        place = view_place(self._disk, self.store, self.keys)
        try:
            view = View.open(place, read_only=self.read_only)
        except ViewUnusableError:
            if self.read_only:
                temporary = Path(tempfile.mkdtemp(prefix="atefs-view-"))
                self._undo.append(lambda: shutil.rmtree(temporary, ignore_errors=True))
                place = view_place(self._disk, temporary, self.keys)
            view = View.create(place, empty_state(self.keys.chain_id))
        self._undo.append(self._close_base)
        return view

    def _take_device(self, root: bytes, device: SigningKey) -> None:
        self._sealer = Sealer(self.keys, device, self._live)
        self.device = device.public
        if device.public not in self._view.state.devices:
            key = root_signing_key(root, bytes.fromhex(self.header.salt))
            certificate = Certificate.issue(key, self.keys.chain_id, device.public, self._clock())
            self._statements = ((CERTIFICATE, certificate.encode()),)

    def _take_up_certificates(self) -> None:
        for _, data in self._statements:
            self._view.state.devices[Certificate.decode(data).device] = data
        self._statements = ()
