"""Servers and devices that are not to be trusted: whatever they do is found out and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from atedb.chain import apply
from atedb.chain.apply import Replay
from atedb.chain.chain import Chain
from atedb.chain.event import Lane, Term
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.frame import decode_frame
from atedb.chain.log import segment_path
from atedb.chain.position import START, Position
from atedb.chain.replica import Replica
from atedb.chain.slim import slim_frame
from atedb.crypto.sethash import SetHash
from atedb.errors import (
    AteError,
    DamagedError,
    ForkError,
    ReadOnlyError,
    RolledBackError,
)
from tests.chain.conftest import ROOT, crash, noise, put
from tests.chain.followed import Device, Server
from tests.chain.paired import Pair, followed


def refuses(device: Device, error: type[AteError], frames: list[bytes], words: str) -> None:
    with pytest.raises(error, match=words):
        device.replica.receive(frames, device.note)
    with pytest.raises(ReadOnlyError):
        device.put(z="no more")
    device.state()


def test_a_server_that_leaves_a_batch_out_is_found_out(pair: Pair) -> None:
    two = followed(pair)
    frames = pair.server.after(0)
    refuses(two, DamagedError, [frames[0], frames[2]], "nothing in between")
    assert two.state() == {"a": "1"}


def test_a_server_that_reorders_is_found_out(pair: Pair) -> None:
    frames = followed(pair).server.after(0)
    refuses(pair.two, DamagedError, [frames[1], frames[0]], "nothing in between")


@pytest.mark.parametrize("at", [5, 40, 200, 300, -20])
def test_a_server_that_alters_a_batch_is_found_out(pair: Pair, at: int) -> None:
    frames = followed(pair).server.after(0)
    altered = bytearray(frames[0])
    altered[at] ^= 1
    refuses(pair.two, DamagedError, [bytes(altered)], "the server gave something|as the server gave it")


def test_a_batch_signed_by_a_stranger_is_found_out(pair: Pair, tmp_path: Path) -> None:
    two = followed(pair)
    other = Chain.create(tmp_path / "other", bytes(32))
    other.commit([])
    data = bytes(other._log.read(1, SEGMENT_HEADER_SIZE, other._view.state.offset - SEGMENT_HEADER_SIZE))
    other.close()
    refuses(two, DamagedError, [data], "is not sound")


def test_a_device_that_claims_nonsense_is_found_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SetHash, "claim", lambda _: b"short")
    pair.one.put(a="1")
    monkeypatch.undo()
    pair.one.sync()
    refuses(pair.two, DamagedError, pair.server.after(0), "is not sound")


def test_a_device_that_writes_what_cannot_be_decoded_is_found_out(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()

    def picky(tombstone: bool, body: bytes) -> tuple[Term, ...]:
        raise msgspec.DecodeError("not one of ours")

    pair.two.chain._terms = picky
    refuses(pair.two, DamagedError, pair.server.after(0), "is not sound")


def test_a_server_that_forks_is_named(pair: Pair) -> None:
    two = followed(pair)
    two.sync()
    shown = decode_frame(pair.server.frames[-1])
    with pytest.raises(ForkError, match="another history"):
        two.replica.check_tail(Position(shown.head.sequence, bytes(32)))
    with pytest.raises(ReadOnlyError):
        two.put(z="no more")


def test_frames_that_do_not_follow_ours_are_a_fork(pair: Pair) -> None:
    two = followed(pair)
    folder = pair.folder / "three"
    folder.mkdir()
    server = Server()
    device = Device.make(folder, server, pair.one.chain.header)
    for i in range(4):
        device.put(a=str(i))
    device.sync()
    device.chain.close()
    two.sync()
    refuses(two, ForkError, server.after(3), "another history")


def test_a_batch_that_the_server_calls_ours_and_that_is_not_is_a_fork(pair: Pair) -> None:
    one = pair.one
    one.put(a="1")
    one.chain.barrier()
    one.replica.acknowledge(Position(0, bytes(32)))
    with pytest.raises(ForkError, match="is not ours"):
        one.replica.acknowledge(Position(1, bytes(32)))
    with pytest.raises(ReadOnlyError):
        one.put(z="no more")


def test_a_server_that_rolls_back_is_named_and_can_be_accepted(pair: Pair) -> None:
    two = followed(pair)
    two.sync()
    two.put(b="3")
    two.sync()
    del pair.server.frames[3:]
    with pytest.raises(RolledBackError, match="had acknowledged batch 4"):
        two.replica.check_tail(pair.server.tail)
    with pytest.raises(ReadOnlyError):
        two.put(z="no more")
    common = two.replica.position(3)
    assert common == pair.server.tail
    two.replica.accept_rollback(common)
    two.sync()
    pair.one.sync()
    assert pair.one.state() == two.state() == {"a": "2", "b": "3"}


def test_what_others_wrote_is_sent_again_by_them_after_a_rollback(pair: Pair) -> None:
    two = followed(pair)
    two.sync()
    two.put(b="3")
    two.sync()
    pair.one.sync()
    del pair.server.frames[1:]
    for device in (two, pair.one):
        with pytest.raises(RolledBackError):
            device.replica.check_tail(pair.server.tail)
        device.replica.accept_rollback(pair.server.tail)
    assert two.send()
    assert two.replica.pending_count == 3
    pair.one.send()
    two.fetch()
    two.sync()
    pair.one.sync()
    assert pair.one.state() == two.state() == {"a": "2", "b": "3"}
    assert two.replica.pending_count == pair.one.replica.pending_count == 0


def test_another_history_can_be_accepted_and_what_is_here_goes_on_top_of_it(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()
    pair.two.sync()
    other = Server()
    other.frames = list(pair.server.frames)
    pair.one.put(a="2", b="2")
    pair.one.sync()
    pair.two.put(c="2")
    pair.two.sync()
    pair.two.put(d="2")
    folder = pair.folder / "three"
    folder.mkdir()
    three = Device.make(folder, other, pair.one.chain.header)
    three.fetch()
    for i in range(5):
        three.put(a="3", e=str(i))
    three.sync()
    two = pair.two
    two.server = other
    with pytest.raises(ForkError):
        two.fetch()
    common = other.position(1)
    assert two.replica.position(1) == common
    two.replica.accept_rollback(common)
    two.fetch()
    assert two.state() == {"a": "2", "b": "2", "c": "2", "d": "2", "e": "4"}
    two.sync()
    three.sync()
    assert three.state() == two.state()
    three.chain.close()


def test_a_tail_that_is_not_ours_is_fine(pair: Pair) -> None:
    two = followed(pair)
    two.replica.check_tail(pair.server.tail)
    assert two.replica.acked == START


def test_a_local_chain_takes_no_slim_frames(tmp_path: Path, expect_log: Callable[[str], None]) -> None:
    expect_log("torn tail")
    chain = Chain.create(tmp_path / "store", ROOT)
    chain.commit([put(chain, b"x", noise(500), Lane.BLOB)])
    end = chain._view.state.offset
    data = bytes(chain._log.read(1, SEGMENT_HEADER_SIZE, end - SEGMENT_HEADER_SIZE))
    crash(chain)
    path = segment_path(tmp_path / "store", 1)
    path.write_bytes(path.read_bytes()[:SEGMENT_HEADER_SIZE] + slim_frame(data))
    again = Chain.open(tmp_path / "store", ROOT)
    assert again.head.sequence == 0
    again.close()
    with pytest.raises(ValueError, match="follows no server"):
        Replica(again)


# -- twins: without the check, it goes unnoticed


def believe_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at what a batch follows, nor at which objects there should be after it."""
    monkeypatch.setattr(Replica, "_require_next", lambda *_words: None)
    monkeypatch.setattr(Replay, "_require_next", lambda *_words: None)
    monkeypatch.setattr(Replay, "_check_claim", lambda *_words: None)


def believe_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at who signed a batch."""
    monkeypatch.setattr(apply, "verify_frame_signature", lambda *_words: None)


def test_twin_without_order_a_batch_can_be_left_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    believe_order(monkeypatch)
    two = followed(pair)
    frames = pair.server.after(0)
    two.replica.receive([frames[0], frames[2]], two.note)
    assert two.state() == {"a": "2"}
    assert two.blob("x") is None


def test_twin_without_order_batches_can_be_exchanged(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    believe_order(monkeypatch)
    believe_signatures(monkeypatch)  # the first batch brings the certificate
    two = followed(pair)
    frames = pair.server.after(0)
    two.replica.receive([frames[1], frames[0]], two.note)
    assert two.blob("x") is not None
    assert two.state() == {}  # the first one came too late


def test_twin_without_signatures_what_another_key_signed_is_believed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    believe_signatures(monkeypatch)
    frames = followed(pair).server.after(0)
    first = decode_frame(frames[0])
    altered = bytearray(frames[0])
    altered[first.header.table_offset - 1] ^= 1
    pair.two.replica.receive([bytes(altered)], pair.two.note)
    assert pair.two.state() == {"a": "1"}


def test_twin_without_a_look_at_its_newest_batch_a_server_can_roll_back_and_fork(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "check_tail", lambda *_words: None)
    two = followed(pair)
    two.sync()
    for shown in (Position(2, bytes(32)), Position(3, bytes(32))):
        two.replica.check_tail(shown)
    two.put(z="more")
