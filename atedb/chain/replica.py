"""A chain that follows a server: which of its batches the server has, what others did, and what is still to be sent.

The calls are for the chain's owner thread, or for any one thread while the owner leaves the chain alone. No commit may
be in flight, and for a rebase no checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import msgspec

from atedb.chain.arrival import Arrival
from atedb.chain.chain import Chain
from atedb.chain.event import Seen
from atedb.chain.format import FRAME_HEADER_SIZE, SLIM, FrameHeader
from atedb.chain.layer import Layer, Mark
from atedb.chain.position import Position
from atedb.chain.rebase import Merge
from atedb.chain.record import Record, unpack_record
from atedb.chain.remote import RemoteNote
from atedb.chain.side import frames_after
from atedb.chain.swap import Swap
from atedb.errors import AteError, DamagedError, ForkError, RolledBackError, StorageError

FOLD_FROM = 50_000
"""Objects that a long stretch of frames may change before they are folded into the view: memory stays flat."""


class Replica:
    """The chain `chain`, opened or made with remote=True. Raises ValueError for any other."""

    def __init__(self, chain: Chain) -> None:
        if chain.remote is None:
            raise ValueError("the chain follows no server")
        self._chain = chain
        self._note: RemoteNote = chain.remote
        self._cursor: Mark | None = None

    @property
    def acked(self) -> Position:
        """The newest batch that the server is known to have: a lower bound."""
        return self._note.acked

    @property
    def pending_count(self) -> int:
        """Batches after `acked`."""
        return self._layer.state.sequence - self.acked.sequence

    @property
    def pending_bytes(self) -> int:
        """Bytes of the log that they take."""
        start, state = self._mark(self.acked.sequence), self._layer.state
        if start is None or not self.pending_count:
            return 0
        if start.segment == state.segment:
            return state.offset - start.offset
        between = sum(s.length for s in self._chain._log.manifest.sealed if s.number > start.segment)
        first = next((s.length for s in self._chain._log.manifest.sealed if s.number == start.segment), start.offset)
        return first - start.offset + between + state.offset

    def position(self, sequence: int) -> Position | None:
        """The batch that this log has at a sequence; None beyond its end. Raises DamagedError."""
        mark = self._mark(sequence)
        return None if mark is None else Position(mark.sequence, mark.head)

    def records(self, keys: Iterable[bytes]) -> list[Record]:
        """Where the newest versions of these objects are: for `AbsentBodies.fetch_all`. Those without one are left out.

        The chain's `absent` fetches them in any thread.
        """
        rows = (self._layer.get(key) for key in keys)
        return [unpack_record(row) for row in rows if row is not None]

    # -- sending

    def pending(self, after: int, limit: int) -> list[bytes]:
        """Whole frames to send after sequence `after`: at least one if there is one, at most about `limit` bytes.

        Only durable batches are given: what a power cut could take back here must not have been sent. So a barrier
        comes first (`Chain.barrier`). Nor is a slim one: when a server has lost others' batches (`accept_rollback`),
        those who wrote them have to send them again first. Raises DamagedError.
        """
        chain = self._chain
        after = max(after, self.acked.sequence)
        mark = self._mark(after)
        frames: list[bytes] = []
        if mark is None:
            return frames
        segment, offset = mark.segment, mark.offset
        for _ in range(min(chain.durable, self._layer.state.sequence) - after):
            segment, offset = chain._log.following(segment, offset)
            header = FrameHeader.decode(bytes(chain._log.read(segment, offset, FRAME_HEADER_SIZE)))
            length = header.length
            if header.flags & SLIM or (frames and length > limit):
                break
            limit -= length
            frames.append(bytes(chain._log.read(segment, offset, length)))
            offset += length
        return frames

    def acknowledge(self, position: Position) -> None:
        """The server has all up to `position`, durably. Raises ForkError when it has another batch there."""
        if position.sequence <= self.acked.sequence:
            return
        if self.position(position.sequence) != position:
            self._distrust(ForkError(f"the server names a batch {position.sequence} that is not ours"))
        self._note.acked = position
        self._layer.acked = position.sequence

    def check_tail(self, tail: Position) -> None:
        """Compare the server's newest batch with ours, first thing on each connection; acknowledges what it shows.

        Raises RolledBackError (the server has lost batches that it had acknowledged) or ForkError (it has others in
        their place); the chain is read-only then. A tail that is not ours is fine: what comes after `acked` is to be
        received or rebased.
        """
        if tail.sequence < self.acked.sequence:
            self._distrust(
                RolledBackError(
                    f"the server ends at batch {tail.sequence}, it had acknowledged batch {self.acked.sequence}: it "
                    "has lost data, or shows an older copy; nothing was changed here, the vault is read-only now; if "
                    "the server was restored from a backup, accept it with: atefs trust accept-rollback"
                )
            )
        if self.position(tail.sequence) == tail:
            self.acknowledge(tail)
        elif tail.sequence == self.acked.sequence:
            self._distrust(_forked(tail.sequence))

    def accept_rollback(self, common: Position) -> None:
        """At the user's word: believe of the server no more than `common`, which is a batch of ours.

        What comes after it here is pending again, and the chain may be written. Raises ValueError when it is not ours.
        """
        if self.position(common.sequence) != common:
            raise ValueError(f"batch {common.sequence} is not ours")
        chain = self._chain
        if isinstance(chain.failed, RolledBackError):
            chain.failed = None
        self._note.acked = common
        self._layer.acked = common.sequence
        self._note.save(chain.durable)

    # -- receiving

    def pass_over(self, frames: Sequence[bytes]) -> Sequence[bytes]:
        """What follows `acked` at the server, from the first frame on that is not ours. Ours are acknowledged.

        A commit may be in flight. Raises as `receive` for frames that are not sound, or do not belong there.
        """
        for place, data in enumerate(frames):
            if self._news(data) is not None:
                return frames[place:]
        return ()

    def receive(self, frames: Sequence[bytes], seen: Seen) -> Sequence[bytes]:
        """Take in frames that follow `acked`, slim or whole: verified, kept slim, applied.

        Frames that are ours are acknowledged by it, older ones passed over. Returns the frames that could not be taken
        in because something else is pending: for `rebase`. Whatever came before a bad frame has been taken in. Raises
        ForkError and DamagedError when the server is not to be trusted, and StorageError: the chain is read-only from
        then on; NoSpaceError; ReadOnlyError.
        """
        self._require_idle()
        for place, data in enumerate(frames):
            arrival = self._news(data)
            if arrival is None:
                continue
            if self.pending_count:
                return frames[place:]
            self._take(arrival, seen)
            if self._chain._base.gathered >= FOLD_FROM:
                self._chain.checkpoint()
        return ()

    def rebase(self, frames: Sequence[bytes], merge: Merge, seen: Seen) -> None:
        """Take in frames that follow `acked` while something is pending, and put what `merge` makes of it on top.

        May block on the network and on the disk. Whatever is raised, also by `merge`, and wherever a crash happens:
        either the chain is as before, with all that was pending, or the rebase is complete and durable. The rows of
        all these frames are in memory meanwhile. Raises as `receive`, and what `merge` raises.
        """
        rest = self.receive(frames, seen)
        if not rest:
            return
        self._require_no_checkpoint()
        theirs = self._linked(rest)
        start = self._mark(self.acked.sequence)
        assert start is not None
        chain = self._chain
        chain.barrier()  # what the others did is not put in the place of what is not safe itself
        swap = Swap(chain, self._note, start)
        try:
            work = swap.work
            for arrival in theirs:
                with self._judging(arrival):
                    work.take(arrival, seen)
            work.begin_merge()
            merge(work)
            swap.publish()
        except BaseException:
            swap.abandon()
            raise
        self._cursor = None

    def _linked(self, frames: Sequence[bytes]) -> list[Arrival]:
        """The frames; each follows the one before it, and the first follows `acked`."""
        theirs = []
        head = self.acked
        for data in frames:
            arrival = self._decoded(data)
            self._require_next(arrival, head)
            head = arrival.position
            theirs.append(arrival)
        return theirs

    def _take(self, arrival: Arrival, seen: Seen) -> None:
        """The next frame, nothing being pending."""
        chain = self._chain
        self._layer.hand_down(self.acked.sequence)
        layer = Layer(chain._base)
        try:
            with self._judging(arrival):
                live = arrival.enter(chain, chain._log, layer, seen)
        except StorageError as error:
            chain.failed = error
            raise
        sequence = arrival.position.sequence
        layer.hand_down(sequence)
        layer.acked = sequence
        chain.written = sequence
        chain.show(layer, live)
        chain.count(arrival.frame)
        self._note.acked = arrival.position

    def _news(self, data: bytes) -> Arrival | None:
        """A frame that was not passed already and is not ours; it is the next one then."""
        arrival = self._decoded(data)
        if arrival.position.sequence <= self.acked.sequence:
            return None
        self._require_next(arrival, self.acked)
        if self.position(arrival.position.sequence) == arrival.position:
            self.acknowledge(arrival.position)
            return None
        return arrival

    def _decoded(self, data: bytes) -> Arrival:
        try:
            return Arrival.decode(data)
        except DamagedError as error:
            self._distrust(DamagedError(f"the server gave something that is no batch: {error}"))

    def _require_next(self, arrival: Arrival, head: Position) -> None:
        sequence = arrival.position.sequence
        if sequence != head.sequence + 1:
            left_out = f"the server gave batch {sequence} after batch {head.sequence}, and nothing in between"
            self._distrust(DamagedError(left_out))
        if arrival.frame.head.previous != head.hash:
            self._distrust(_forked(head.sequence))

    @contextlib.contextmanager
    def _judging(self, arrival: Arrival) -> Iterator[None]:
        """Whatever is found damaged inside is the fault of whoever gave the frame."""
        try:
            yield
        except (DamagedError, msgspec.MsgspecError) as error:
            number = arrival.position.sequence
            self._distrust(DamagedError(f"batch {number} as the server gave it is not sound: {error}"))

    def _distrust(self, error: DamagedError) -> NoReturn:
        """From here on the chain is read-only; what was written is made durable first."""
        with contextlib.suppress(AteError):
            self._chain.barrier()
        self._chain.failed = self._chain.failed or error
        raise error

    def _require_idle(self) -> None:
        self._chain._require_writable()
        if self._chain._flight is not None:
            raise RuntimeError("a commit is in flight")

    def _require_no_checkpoint(self) -> None:
        if self._chain._base.folding:
            raise RuntimeError("a checkpoint is under way")

    def _mark(self, sequence: int) -> Mark | None:
        """Where the batch with this sequence ends; None beyond the end of the log. Raises DamagedError."""
        layer = self._layer
        if sequence > layer.state.sequence:
            return None
        found = layer.mark(sequence)
        if found is not None:
            return found
        # A batch that the view has taken in already, although it may have to be taken back, or one long ago.
        begin = self._cursor
        if begin is None or begin.sequence > sequence:
            begin = self._segment_start(sequence)
        for segment, frame in frames_after(self._chain._log, begin, sequence):
            begin = Mark(frame.head.sequence, frame.hash, segment, frame.end)
        self._cursor = begin
        return begin

    def _segment_start(self, sequence: int) -> Mark:
        """The start of the segment with the batch that follows `sequence`, as the end of the batch before."""
        before = Mark(0, bytes(32), 0, 0)
        for sealed in self._chain._log.manifest.sealed:
            if sealed.last > sequence:
                break
            before = Mark(sealed.last, bytes.fromhex(sealed.head), sealed.number, sealed.length)
        return before

    @property
    def _layer(self) -> Layer:
        view = self._chain._view
        assert isinstance(view, Layer)
        return view


def _forked(sequence: int) -> ForkError:
    return ForkError(
        f"the server has another batch {sequence} than the one that it had acknowledged: it shows another history, or "
        "was restored from a backup; nothing was changed here, the vault is read-only now; to accept what the server "
        "has: atefs trust accept-rollback"
    )
