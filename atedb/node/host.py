"""One chain of a node, and all of its clients: validated, made durable, acknowledged, broadcast, in this order only."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from atedb import threads
from atedb.chain.disk import Disk
from atedb.chain.header import parse_header
from atedb.chain.position import Position
from atedb.chain.slim import slim_form
from atedb.engine.interface import BatchLog
from atedb.errors import (
    AteError,
    ClosedError,
    InvalidError,
    LimitError,
    NoSpaceError,
    ReadOnlyError,
    StaleError,
    StorageError,
)
from atedb.net.errors import HeldError
from atedb.net.host import Claim
from atedb.node.authors import Authors
from atedb.node.catching import open_index
from atedb.node.checking import Checked, Root, check_in_place, check_whole
from atedb.node.index import Draft, Index
from atedb.node.leases import Lease, Leases
from atedb.node.patience import Patience
from atedb.node.reading import Reader
from atedb.node.turns import Turns
from atedb.node.usage import Usage

log = logging.getLogger(__name__)

FOLLOW_BYTES = 1 << 20
MAX_WANTED = 65_536
"""Bodies in one request."""
_READABLE, _WRITABLE = ("chain", "keys"), ("keys",)
_INLINE_BYTES = 64 << 10
_INLINE_EVENTS = 64
"""What is checked at once; more is given to a thread, so that other clients need not wait for it."""
_ROUND_BYTES = 32 << 20
_ROUND_EVENTS = 1 << 16
"""When enough has been gathered for one barrier."""


class LaneStats(NamedTuple):
    """Of one lane: live objects, and the bytes of live and of all events, with their rows in the event tables."""

    objects: int
    live: int
    total: int


class HostStats(NamedTuple):
    """What a node knows of a chain without keys. stored: bytes of all segments. devices: certified ones."""

    tail: Position
    stored: int
    meta: LaneStats
    blob: LaneStats
    devices: int
    followers: int


class Counters:
    """What a node has done for all chains since it started."""

    def __init__(self) -> None:
        self.appends = 0
        self.batches = 0
        self.bytes = 0

    def add(self, appends: int, batches: int, size: int) -> None:
        """So many more were stored."""
        self.appends += appends
        self.batches += batches
        self.bytes += size


class Shared(NamedTuple):
    """What all chains of a node have in common. disk: for their indexes. centralized: whoever has proven the key of a
    device over a connection is believed there without its signatures.
    """

    disk: Disk
    usage: Usage
    counters: Counters
    centralized: bool


class _Request:
    """An append on its way: `result` or `error` is set when it has ended. ready: its batches have been checked."""

    def __init__(self, client: object, quota: int | None, proven: bytes) -> None:
        self.client = client
        self.quota = quota
        self.proven = proven
        self.batches: list[Checked] = []
        self.ready = trio.Event()
        self.result: Position | None = None
        self.error: AteError | None = None

    async def check(self, frames: Sequence[bytes]) -> None:
        """Look at each batch by itself."""
        try:
            if sum(len(frame) for frame in frames) <= _INLINE_BYTES:
                self.batches = check_whole(frames)
            else:
                self.batches = await threads.run(check_whole, frames)
        except AteError as error:
            self.error = error
        except BaseException as error:  # whoever has the turn must not wait for it, nor take it for good
            self.error = ClosedError(f"the append was given up: {error!r}")
            raise
        finally:
            self.ready.set()

    @property
    def ended(self) -> bool:
        """Whether it was carried out or refused."""
        return self.result is not None or self.error is not None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(batch.data) for batch in self.batches)

    @property
    def events(self) -> int:
        """Events of all batches."""
        return sum(len(batch.frame.events) for batch in self.batches)


class ChainHost:
    """A chain that is open in this node. Made by `Hosts.open`."""

    def __init__(
        self, path: str, log: BatchLog, index: Index, *, leases: Leases, root: Root, fence: int, shared: Shared
    ) -> None:
        self.path = path
        self.failed: AteError | None = None
        self._log = log
        self._index = index
        self._leases = leases
        self._root = root
        self._fence = fence
        self.takes_proof = shared.centralized
        self._usage = shared.usage
        self._counters = shared.counters
        self._reader = Reader(log)
        self._waiting: Turns[_Request] = Turns()
        self._patience = Patience()
        self._arrived = trio.Event()
        self._turn = trio.Lock()
        self._folding = trio.Lock()
        self._changed = trio.Event()
        self._following: list[object] = []
        self._authors = Authors()
        self._up_to_date = 0
        self._closed = False

    @classmethod
    async def open(cls, path: str, log: BatchLog, folder: Path, shared: Shared) -> ChainHost:
        """Take the chain over, and bring its index, in `folder`, up to its newest batch.

        Raises DamagedError, StorageError; the log is left open then.
        """
        fence = await log.take()
        header = parse_header((await log.document("chain"))[0])
        root = Root(bytes.fromhex(header.root_public), log.chain_id)
        leases = Leases(log, fence)
        await leases.load()
        index = await open_index(log, root, shared.disk, folder, signed=not shared.centralized)
        shared.usage.set(path, sum(segment.length for segment in await log.segments()))
        return cls(path, log, index, leases=leases, root=root, fence=fence, shared=shared)

    @property
    def tail(self) -> Position:
        """The newest batch that is durable and known to the index."""
        return self._index.position

    # -- appending

    async def append(
        self, client: object, frames: Sequence[bytes], *, quota: int | None = None, proven: bytes = b""
    ) -> Position:
        """Add full frames after the tail; the new tail. Durable on return, and broadcast afterwards.

        client: whose frames these are; several clients take turns, and the appends of one keep their order. Appends
        of one client may follow each other without waiting. quota: bytes that the tenant may store in all, on this
        node. proven: the device that the client has shown to be; believed where `takes_proof`. Raises StaleError with
        the newest batch, InvalidError, QuotaError, LimitError, BusyError when too much of this client waits,
        NoSpaceError, StorageError, ReadOnlyError. Nothing is added then. A cancelled append may have happened.
        """
        self._require_open()
        request = _Request(client, quota, proven if self.takes_proof else b"")
        self._waiting.add(client, request)
        self._arrived.set()
        try:
            await request.check(frames)
            async with self._turn:
                while not request.ended:  # else somebody who had the turn has done it along with their own
                    with trio.CancelScope(shield=True):
                        await self._round()
        finally:
            self._waiting.remove(client, request)
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    async def _round(self) -> None:
        """Carry out what waits, up to a bound, with one barrier. The caller has the turn."""
        requests = await self._gather()
        try:
            if sum(request.events for request in requests) <= _INLINE_EVENTS:
                draft, accepted = self._check(requests)
            else:
                draft, accepted = await threads.run(self._check, requests)
            if accepted:
                await self._store(draft, accepted)
        except BaseException as error:
            log.exception("%s: an append ended in an unforeseen way", self.path)
            self._fail(StorageError(f"an append ended in an unforeseen way: {error!r}"))
            for request in requests:
                request.error = request.error or self.failed
            if not isinstance(error, Exception):
                raise
        for request in requests:
            if request.result is not None:
                self._patience.forget(request.client)
            elif isinstance(request.error, StaleError):
                self._patience.late(request.client)

    async def _gather(self) -> list[_Request]:
        requests: list[_Request] = []
        size = events = 0
        while size < _ROUND_BYTES and events < _ROUND_EVENTS:
            request = await self._next(wait=not requests)
            if request is None:
                break
            await request.ready.wait()
            if request.error is None:
                requests.append(request)
                size, events = size + request.size, events + request.events
        return requests

    async def _next(self, *, wait: bool) -> _Request | None:
        """Whose turn it is; None when nobody waits. wait: for the client that goes first, if there is one."""
        while (first := self._patience.first) is not None:
            request = self._waiting.next_of(first)
            if request is not None or not wait:
                return request
            self._arrived = trio.Event()
            with trio.move_on_after(self._patience.left):
                await self._arrived.wait()
        return self._waiting.next()

    def _check(self, requests: Sequence[_Request]) -> tuple[Draft, list[_Request]]:
        """Which of the requests can be carried out, one after the other; the others get their error."""
        draft, accepted = self._index.draft(), []
        size = 0
        for request in requests:
            try:
                self._require_open()
                fork = check_in_place(request.batches, draft, self._root, request.proven)
                shrinks = fork.live <= 0
                self._usage.require(self.path, size + request.size, request.quota, shrinks=shrinks)
            except AteError as error:
                request.error = error
                continue
            draft.join(fork)
            size += request.size
            accepted.append(request)
        return draft, accepted

    async def _store(self, draft: Draft, accepted: Sequence[_Request]) -> None:
        """Durable, indexed, acknowledged, broadcast."""
        batches = [batch for request in accepted for batch in request.batches]
        first = batches[0].frame.head.sequence
        try:
            await self._log.append([batch.data for batch in batches], self.tail, self._fence)
        except AteError as error:
            if not isinstance(error, NoSpaceError):
                self._fail(error)
            for request in accepted:
                request.error = error
            return
        self._index.apply(draft, await self._log.segments(first))
        size = sum(request.size for request in accepted)
        self._usage.add(self.path, size)
        self._counters.add(len(accepted), len(batches), size)
        for request in accepted:
            last = request.batches[-1].frame
            request.result = Position(last.head.sequence, last.hash)
            self._keep(request)
        self._wake()

    def _keep(self, request: _Request) -> None:
        """What was just stored, for those who follow: they ask for it next."""
        if request.client in self._following:
            assert request.result is not None
            self._authors.add(request.batches[0].frame.head.sequence, request.result, request.client)
        if any(client is not request.client for client in self._following):
            for frame, data in request.batches:
                self._reader.keep(frame.head.sequence, slim_form(frame, data))

    def _wake(self) -> None:
        self._up_to_date = 0
        self._changed.set()
        self._changed = trio.Event()

    def _fail(self, error: AteError) -> None:
        """Nothing can be added any more; whoever follows is told, so that the chain is closed and opened anew."""
        if self.failed is None:
            self.failed = error
            self._wake()

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the chain was closed")
        if self.failed is not None:
            raise ReadOnlyError(f"the chain cannot be written since a failure: {self.failed}")

    # -- reading

    async def read(self, first: int, limit: int, *, slim: bool) -> list[bytes]:
        """Frames from sequence `first` on: at least one, then as many as fit into `limit` bytes; [] after the tail.

        slim: without the bodies of live blobs. Raises InvalidError, DamagedError, ClosedError.
        """
        if first < 1:
            raise InvalidError(f"there is no batch {first}")
        return await self._reader.read(first, self.tail.sequence, limit, slim=slim)

    async def follow(
        self, first: int, *, limit: int = FOLLOW_BYTES, slim: bool = True, client: object = None
    ) -> AsyncGenerator[list[bytes] | Position, None]:
        """`read` from `first` on for ever, waiting at the tail for what comes. Raises ClosedError at the end.

        client: who follows. Of what this client appends meanwhile the frames are left out, and the last of them is
        given in their place. Close the iterator when it is not used up (`contextlib.aclosing`).
        """
        self._following.append(client)
        try:
            while True:
                changed = self._changed
                self._require_open()
                own = self._authors.own(client, first)
                if own is not None:
                    first = own.sequence + 1
                    yield own
                    continue
                last = self._authors.before(client, first, self.tail.sequence)
                frames = await self._reader.read(first, last, limit, slim=slim)
                if frames:
                    first += len(frames)
                    yield frames
                else:
                    await self._at_tail(changed)
        finally:
            self._following.remove(client)

    async def _at_tail(self, changed: trio.Event) -> None:
        """Wait for the next batch. What was kept for those who follow is not needed when all have it."""
        if changed.is_set():
            return
        self._up_to_date += 1
        try:
            if self._up_to_date == len(self._following):
                self._reader.forget()
                self._authors.forget()
            await changed.wait()
        finally:
            if not changed.is_set():
                self._up_to_date -= 1

    async def bodies(self, wanted: Sequence[tuple[int, int]], *, limit: int) -> list[bytes]:
        """The first of the sealed bodies that are wanted, by (sequence, place): at least one, then as many as fit into
        `limit` bytes. Raises InvalidError for one that is not there, and LimitError for too many at once."""
        if len(wanted) > MAX_WANTED:
            raise LimitError(f"more than {MAX_WANTED} bodies were asked for at once")
        return await self._reader.bodies(wanted, limit)

    # -- documents, leases

    async def document(self, name: str) -> tuple[bytes, int]:
        """The chain's header ("chain") or key slots ("keys"), and the generation. Raises InvalidError."""
        if name not in _READABLE:
            raise InvalidError(f"{name!r} is not a document of a chain")
        return await self._log.document(name)

    async def put_document(self, name: str, data: bytes, expected: int) -> int:
        """Replace the key slots ("keys"); the new generation.

        expected: the generation that is replaced. Raises StaleDocumentError, InvalidError, LimitError.
        """
        if name not in _WRITABLE:
            raise InvalidError(f"{name!r} is not a document that clients replace")
        self._require_open()
        return await self._log.put_document(name, data, expected, self._fence)

    async def take_lease(
        self, client: object, claim: Claim, told: Callable[[HeldError], None] | None = None
    ) -> Lease:  # fmt: skip
        """See `Leases.take`."""
        return await self._leases.take(client, claim, told)

    async def test_lease(self, claim: Claim) -> None:
        """See `Leases.test`."""
        await self._leases.test(claim)

    async def renew_leases(self, client: object, seconds: float) -> None:
        """See `Leases.renew`."""
        await self._leases.renew(client, seconds)

    async def release_lease(self, client: object, name: str, owner: bytes, start: int, end: int) -> None:
        """See `Leases.release`."""
        await self._leases.release(client, name, owner, start, end)

    async def end_leases(self, client: object, owner: bytes) -> None:
        """See `Leases.end`."""
        self._leases.end(client, owner)

    def leave(self, client: object) -> None:
        """A client's connection has ended: nobody waits for it any more. See also `Leases.leave`."""
        self._patience.forget(client)
        self._arrived.set()
        self._leases.leave(client)

    # -- upkeep

    def stats(self) -> HostStats:
        """What there is."""
        state = self._index.state
        lanes = [
            LaneStats(
                state.objects[lane],
                sum(segment.lanes[lane].live for segment in state.segments),
                sum(segment.lanes[lane].total for segment in state.segments),
            )
            for lane in (0, 1)
        ]
        return HostStats(
            self.tail, self._usage.stored(self.path), lanes[0], lanes[1], len(state.devices), len(self._following)
        )

    async def tidy_leases(self) -> None:
        """See `Leases.tidy`."""
        if not self._closed and self.failed is None:
            await self._leases.tidy()

    async def fold_if_due(self) -> None:
        """Fold what the index has in memory into its file, when it is much. Raises StorageError, NoSpaceError."""
        if not self._index.fold_due():
            return
        with trio.CancelScope(shield=True):
            async with self._folding:
                if self._closed:
                    return
                async with self._turn:
                    fold = self._index.begin_fold()
                written = False
                try:
                    await threads.run(fold.write)
                    written = True
                finally:
                    async with self._turn:
                        self._index.end_fold(written=written)

    async def aclose(self) -> None:
        """Finish what is under way, and release the chain. Whoever follows or waits gets ClosedError."""
        self._patience.end()
        self._arrived.set()
        with trio.CancelScope(shield=True):
            async with self._folding, self._turn:
                if self._closed:
                    return
                self._closed = True
                self._wake()
                try:
                    await self._leases.aclose()
                    await threads.run(self._close_index)
                finally:
                    await self._log.aclose()

    def _close_index(self) -> None:
        try:
            if self._index.has_news:
                self._index.fold()
        except AteError as error:
            log.warning("%s: its index is brought up to date at the next opening: %s", self.path, error)
        finally:
            self._index.close()
