"""One chain and its clients: what is accepted, in which order things happen, and what each client is told."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from atedb.chain.event import Lane
from atedb.chain.format import ALIGNMENT, FRAME_HEADER_SIZE, FrameHeader
from atedb.chain.position import START, Position
from atedb.chain.slim import slim_frame
from atedb.crypto.signing import SigningKey
from atedb.errors import (
    AteError,
    BusyError,
    ClosedError,
    InvalidError,
    LimitError,
    NoSpaceError,
    QuotaError,
    ReadOnlyError,
    StaleDocumentError,
    StaleError,
    StorageError,
)
from atedb.node import checking, turns
from atedb.node import host as host_module
from atedb.node.host import ChainHost
from tests.engine.frames import Author, position_of
from tests.node.chains import settle, with_chain


async def refused(host: ChainHost, frames: list[bytes], kind: type[AteError], match: str = ".") -> None:
    """The append is refused, and nothing of it is there."""
    before = host.tail, host.stats()
    with pytest.raises(kind, match=match):
        await host.append("client", frames)
    assert (host.tail, host.stats()) == before


def changed(frame: bytes, at: int) -> bytes:
    """The frame with one bit turned."""
    data = bytearray(frame)
    data[at] ^= 1
    return bytes(data)


# -- what is accepted


def test_what_a_device_of_the_chain_signed_is_stored_and_served_as_it_was_sent(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frames = [author.frame(author.meta("a"), author.blob("b", bytes(9000))), author.frame(author.end("a"))]
        assert await host.append("client", frames) == author.at == host.tail
        assert await host.read(1, 1 << 20, slim=False) == frames
        assert await host.read(1, 1 << 20, slim=True) == [slim_frame(frame) for frame in frames]
        assert await host.read(3, 1 << 20, slim=True) == []

    with_chain(tmp_path, body)


def test_any_bit_that_is_turned_makes_a_batch_invalid(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frame = author.frame(author.meta("a", bytes(40)), author.blob("b", bytes(40)))
        for at in range(0, len(frame), 3):
            await refused(host, [changed(frame, at)], AteError)
        await host.append("client", [frame])

    with_chain(tmp_path, body)


def test_a_batch_of_a_device_that_the_root_never_certified_is_refused(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        stranger = Author(author.header, seed=7)
        await refused(host, [stranger.frame(stranger.meta("a"), certified=False)], InvalidError, "never certified")
        other_root = Author(author.header, seed=8)
        other_root.certificate = Author(seed=8, root=bytes(32)).certificate
        await refused(host, [other_root.frame(other_root.meta("a"))], InvalidError, "does not verify")
        await host.append("client", [author.frame(author.meta("a"))])

    with_chain(tmp_path, body)


def test_a_certificate_in_a_batch_that_was_refused_lets_nobody_in(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        await host.append("client", [author.frame(author.meta("a"))])
        second = Author(author.header, seed=2)
        second.at = author.at
        bad = second.frame(second.meta("a"), versions=[1])  # brings the certificate, but the version does not rise
        await refused(host, [bad], InvalidError, "version 1 already")
        second.at = author.at
        await refused(host, [second.frame(second.meta("z"), certified=False)], InvalidError, "never certified")
        assert host.stats().devices == 1

    with_chain(tmp_path, body)


def test_a_signature_by_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        public = author.device.public
        author.sealer._device = SigningKey(bytes(32))
        author.sealer._device.public = public  # it says that it is the device
        await refused(host, [author.frame(author.meta("a"))], InvalidError, "does not verify")
        monkeypatch.setattr(checking, "verify_frame_signature", lambda *_, **__: None)  # the protection switched off
        author.at = START
        await host.append("client", [author.frame(author.meta("b"))])

    with_chain(tmp_path, body)


def test_a_batch_of_another_chain_is_refused(tmp_path: Path) -> None:
    async def body(host: ChainHost, _author: Author) -> None:
        other = Author()
        await refused(host, [other.frame(other.meta("a"))], InvalidError)

    with_chain(tmp_path, body)


def test_an_object_never_goes_back_to_an_older_version(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        await host.append("client", [author.frame(author.meta("a"), versions=[5])])
        for version in (0, 1, 4, 5):
            author.at = host.tail
            await refused(host, [author.frame(author.meta("a"), versions=[version])], InvalidError)
        author.at = host.tail
        twice = author.frame(author.meta("a"), author.meta("a"), versions=[7, 6])
        await refused(host, [twice], InvalidError)
        author.at = host.tail
        pair = [author.frame(author.meta("a"), versions=[6]), author.frame(author.meta("a"), versions=[6])]
        await refused(host, pair, InvalidError)
        author.at = host.tail
        await host.append("client", [author.frame(author.meta("a"), versions=[9])])

    with_chain(tmp_path, body)


def test_slim_batches_and_batches_that_lie_about_durability_are_refused(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frame = author.frame(author.blob("b", bytes(9000)))
        await refused(host, [slim_frame(frame)], InvalidError, "lacks its blobs")
        await host.append("client", [frame])

    with_chain(tmp_path, body)


def test_only_what_follows_the_newest_batch_is_added_and_who_is_late_is_told_what_is_newest(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        other = Author(author.header, seed=2)
        late = other.frame(other.meta("a"))
        tail = await host.append("one", [author.frame(author.meta("a"))])
        with pytest.raises(StaleError) as caught:
            await host.append("two", [late])
        assert caught.value.tail == tail == host.tail
        ahead = [author.frame(author.meta("b")), author.frame(author.meta("c"))]
        await refused(host, [ahead[1]], StaleError)
        await refused(host, [ahead[0], ahead[0]], InvalidError)
        assert await host.append("one", ahead) == author.at

    with_chain(tmp_path, body)


def test_what_is_no_batch_or_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "MAX_FRAME", 200_000)

    async def body(host: ChainHost, author: Author) -> None:
        frame = author.frame(author.meta("a"))
        longer = frame + bytes(ALIGNMENT)
        for bad in ([], [b""], [b"x" * 40], [frame[:-8]], [longer], [frame[:FRAME_HEADER_SIZE]], [bytes(100_000)]):
            await refused(host, bad, InvalidError)
        await refused(host, [frame] * 5000, LimitError)
        await refused(host, [bytes(200_001)], LimitError)
        await host.append("client", [frame])

    with_chain(tmp_path, body)


# -- order


def test_nothing_is_told_to_anybody_before_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        happened: list[str] = []
        log = host._log
        append = log.append
        gate = trio.Event()

        async def slow(frames: list[bytes], expected: Position, token: int) -> Position:
            await gate.wait()
            end = await append(frames, expected, token)
            happened.append("durable")
            return end

        monkeypatch.setattr(log, "append", slow)

        async def follow() -> None:
            async with aclosing(host.follow(1)) as frames:
                async for _ in frames:
                    happened.append("broadcast")
                    return

        async def send() -> None:
            await host.append("client", [frame])
            happened.append("acknowledged")

        frame = author.frame(author.meta("a"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert (happened, host.tail, await host.read(1, 10, slim=True)) == ([], START, [])
            gate.set()
        assert happened[0] == "durable"
        assert sorted(happened[1:]) == ["acknowledged", "broadcast"]

    with_chain(tmp_path, body)


def test_everybody_who_follows_gets_every_batch_once_and_in_order(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        sent: list[bytes] = []
        got: dict[int, list[bytes]] = {1: [], 2: [], 9: []}

        async def follow(first: int) -> None:
            async with aclosing(host.follow(first, slim=first != 2)) as pieces:
                async for frames in pieces:
                    assert isinstance(frames, list)
                    got[first] += frames
                    if len(got[first]) == 21 - first:
                        return

        async with trio.open_nursery() as nursery:
            for first in got:
                nursery.start_soon(follow, first)
            await settle()
            assert host.stats().followers == 3
            for number in range(20):
                sent.append(author.frame(author.blob(f"b{number % 3}", bytes(500)), author.meta("a")))
                await host.append("client", [sent[-1]])
        assert got[1] == [slim_frame(frame) for frame in sent]
        assert got[2] == sent[1:]
        assert got[9] == [slim_frame(frame) for frame in sent[8:]]
        assert host.stats().followers == 0

    with_chain(tmp_path, body)


def test_what_is_kept_for_those_who_follow_is_let_go_when_all_have_it(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        async def follow() -> None:
            async with aclosing(host.follow(1)) as pieces:
                async for _ in pieces:
                    await gate.wait()

        gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(follow)
            await settle()
            for frame in author.frames(3):
                await host.append("client", [frame])
                await settle()
            assert host._reader._recent
            gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert not host._reader._recent
            nursery.cancel_scope.cancel()

    with_chain(tmp_path, body)


def test_appends_of_one_client_keep_their_order_whatever_their_size(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        ends: list[int] = []

        async def send(frame: bytes) -> None:
            ends.append((await host.append("client", [frame])).sequence)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                size = 300_000 if number % 3 == 0 else 10  # large ones are checked in a thread
                frame = author.frame(author.blob(f"b{number}", bytes(size)))
                nursery.start_soon(send, frame)
                await trio.lowlevel.checkpoint()
        assert sorted(ends) == list(range(1, 13))

    with_chain(tmp_path, body)


def test_appends_that_wait_together_share_a_barrier_and_each_is_told_its_own_end(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        ends: list[Position] = []

        async def send(frame: bytes) -> None:
            ends.append(await host.append("client", [frame]))

        barriers = host._log._log.barriers  # type: ignore[attr-defined]
        frames = author.frames(40)
        async with trio.open_nursery() as nursery, host._turn:  # as when a barrier is under way
            for frame in frames:
                nursery.start_soon(send, frame)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
        assert sorted(ends) == [position_of(frame) for frame in frames]
        assert host._log._log.barriers == barriers + 1  # type: ignore[attr-defined]

    with_chain(tmp_path, body)


def test_of_two_clients_one_with_much_to_send_does_not_keep_the_other_waiting(tmp_path: Path) -> None:
    waiting: turns.Turns[int] = turns.Turns()
    for number in range(6):
        waiting.add("busy", number)
    waiting.add("other", 100)
    waiting.add("third", 200)
    waiting.remove("third", 200)
    waiting.remove("third", 200)
    served = []
    while (request := waiting.next()) is not None:
        served.append(request)
    assert served == [0, 100, 1, 2, 3, 4, 5]


def test_a_client_with_too_many_requests_waiting_is_refused_and_no_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 3)

    async def body(host: ChainHost, author: Author) -> None:
        told: list[type[BaseException] | int] = []

        async def send(client: str, frame: bytes) -> None:
            try:
                told.append((await host.append(client, [frame])).sequence)
            except AteError as error:
                told.append(type(error))

        async with host._turn, trio.open_nursery() as nursery:
            for frame in author.frames(5):
                nursery.start_soon(send, "busy", frame)
                await settle(1)
            await settle()
            assert told == [BusyError, BusyError]
            other = Author(author.header, seed=2)
            nursery.start_soon(send, "other", other.frame(other.meta("a")))
            await settle()
            assert told == [BusyError, BusyError]
            nursery.cancel_scope.cancel()
        assert host.tail == START

    with_chain(tmp_path, body)


def test_a_client_that_goes_while_its_append_waits_leaves_nothing_and_stops_nobody(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frame = author.frame(author.blob("b", bytes(400_000)))
        with trio.CancelScope() as scope:
            scope.cancel()
            await host.append("gone", [frame])
        async with trio.open_nursery() as nursery, host._turn:
            nursery.start_soon(host.append, "gone", [frame])
            await settle()
            nursery.cancel_scope.cancel()
        assert host.tail == START
        assert await host.append("client", [frame]) == author.at

    with_chain(tmp_path, body)


# -- failures


def test_a_full_disk_refuses_the_append_and_the_next_one_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        append = host._log.append

        async def full(*_: object) -> Position:
            raise NoSpaceError("full")

        frames = author.frames(1)
        monkeypatch.setattr(host._log, "append", full)
        await refused(host, frames, NoSpaceError)
        monkeypatch.setattr(host._log, "append", append)
        await host.append("client", frames)

    with_chain(tmp_path, body)


def test_after_a_failed_barrier_nothing_is_added_and_whoever_follows_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        async def follow() -> None:
            with pytest.raises(ReadOnlyError):
                await anext(host.follow(2))

        def fail() -> None:
            raise StorageError("no")

        await host.append("client", author.frames(1))
        monkeypatch.setattr(host._log._log, "barrier", fail)  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await settle()
            await refused(host, author.frames(1), StorageError)
        await refused(host, author.frames(1), ReadOnlyError)
        assert len(await host.read(1, 1 << 20, slim=True)) == 1
        assert host.failed is not None

    with_chain(tmp_path, body)


@pytest.mark.expect_log("unforeseen")
def test_an_error_of_the_program_in_an_append_is_answered_and_the_chain_is_not_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        def wrong(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(host._index, "apply", wrong)
        with pytest.raises(StorageError, match="unforeseen"):
            await host.append("client", author.frames(1))
        with pytest.raises(ReadOnlyError):
            await host.append("client", author.frames(1))

    with_chain(tmp_path, body)


def test_an_error_of_the_program_in_checking_a_batch_concerns_its_sender_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        def wrong(*_: object) -> None:
            raise ZeroDivisionError

        frames = author.frames(1)
        with monkeypatch.context() as patch:
            patch.setattr(host_module, "check_whole", wrong)
            with pytest.raises(ZeroDivisionError):
                await host.append("client", frames)
        assert await host.append("client", frames) == author.at

    with_chain(tmp_path, body)


def test_a_closed_chain_says_so_to_everybody(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        async def follow() -> None:
            with pytest.raises(ClosedError):
                await anext(host.follow(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await settle()
            await host.aclose()
        with pytest.raises(ClosedError):
            await host.append("client", author.frames(1))

    with_chain(tmp_path, body)


# -- quota, documents


def test_a_tenant_stores_no_more_than_its_quota_but_can_still_delete(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        quota = 100_000
        first = author.frame(author.blob("a", bytes(60_000)), author.blob("b", bytes(100)))
        await host.append("client", [first], quota=quota)
        before = author.at
        with pytest.raises(QuotaError):
            await host.append("client", [author.frame(author.blob("c", bytes(60_000)))], quota=quota)
        assert host.tail == before
        author.at = before
        more = author.frame(author.blob("d", bytes(100_000 - host.stats().stored - 2000)))
        await host.append("client", [more], quota=quota)
        for number in range(10):
            before = author.at
            grows = author.frame(author.meta(f"m{number}", bytes(2500)))
            with pytest.raises(QuotaError):
                await host.append("client", [grows], quota=quota)
            author.at = before
            await host.append("client", [author.frame(author.end("b" if number % 2 else "d", Lane.BLOB),
                                                      author.blob("a", bytes(50_000 - 3000 * number)))],
                              quota=quota)  # fmt: skip
        while host.stats().stored < quota + (1 << 20) - 25_000:
            await host.append("client", [author.frame(author.blob("a", bytes(20_000)))], quota=quota)
        with pytest.raises(QuotaError):  # the reserve is no way around the quota
            await host.append("client", [author.frame(author.blob("a", bytes(30_000)))], quota=quota)

    with_chain(tmp_path, body)


def test_key_slots_are_replaced_by_who_has_read_them_and_nothing_else_can_be(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        keys, generation = await host.document("keys")
        assert keys == author.files.keys
        newer = await host.put_document("keys", b"new", generation)
        with pytest.raises(StaleDocumentError):
            await host.put_document("keys", b"other", generation)
        assert await host.document("keys") == (b"new", newer)
        for name in ("leases", "token", "tail", "", "../keys"):
            with pytest.raises(InvalidError):
                await host.document(name)
        for name in ("chain", "leases", "other"):
            with pytest.raises(InvalidError):
                await host.put_document(name, b"x", 0)

    with_chain(tmp_path, body)


def test_a_frame_header_that_lies_about_lengths_costs_nothing(tmp_path: Path) -> None:
    async def body(host: ChainHost, author: Author) -> None:
        frame = author.frame(author.meta("a"))
        header = FrameHeader.decode(frame)
        for lie in (header._replace(present=1 << 20), header._replace(head=1 << 20), header._replace(length=1 << 28),
                    header._replace(proof=8), header._replace(flags=2), header._replace(present=0)):  # fmt: skip
            await refused(host, [lie.encode() + frame[FRAME_HEADER_SIZE:]], InvalidError)

    with_chain(tmp_path, body)
