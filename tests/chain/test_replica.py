"""Chains that follow a server: sending, receiving, what is kept slim, and what an untrustworthy server can do."""

from __future__ import annotations

import shutil

import pytest

from atedb.chain import replica as replica_module
from atedb.chain.blobcache import Wanted
from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.event import Change, Lane
from atedb.chain.frame import decode_frame
from atedb.chain.heads import RememberedHeads
from atedb.chain.log import segment_path
from atedb.chain.repair import repair
from atedb.chain.slim import is_slim, slim_frame
from atedb.chain.verify import verify_log
from atedb.errors import (
    Absent,
    DamagedError,
    UnreachableError,
    UnsupportedError,
)
from tests.chain.conftest import ROOT, crash, noise, put
from tests.chain.followed import Device, terms_of
from tests.chain.paired import Pair, followed


def test_what_one_sends_the_other_has(pair: Pair) -> None:
    pair.one.put(a="1", b="2")
    pair.one.put(a="3")
    pair.one.sync()
    pair.two.sync()
    assert pair.two.state() == {"a": "3", "b": "2"}
    assert pair.two.chain.head == pair.one.chain.head
    assert [plain[32:] for _, plain, _ in pair.two.seen] == [b"a=1", b"b=2", b"a=3"]
    assert pair.one.seen == []


def test_both_forms_of_a_frame_have_the_same_hash_and_the_slim_one_lacks_live_blobs_only(pair: Pair) -> None:
    body = noise(50_000)
    pair.one.put_blob("x", body)
    pair.one.chain.barrier()
    (frame,) = pair.one.replica.pending(0, 1)
    slim = slim_frame(frame)
    assert len(frame) > 50_000
    assert len(slim) < 1000
    assert decode_frame(slim).hash == decode_frame(frame).hash
    assert is_slim(slim)
    assert not is_slim(frame)
    assert slim_frame(slim) == slim
    pair.one.put(a="1")
    pair.one.chain.barrier()
    (meta,) = pair.one.replica.pending(1, 1)
    assert slim_frame(meta) == meta


def test_a_slim_frame_of_which_any_byte_was_changed_is_refused(pair: Pair) -> None:
    pair.one.chain.commit([put(pair.one.chain, b"x", noise(5000), Lane.BLOB), put(pair.one.chain, b"y", b"meta")])
    pair.one.sync()
    (slim,) = pair.server.after(0)
    two = pair.two
    for at in range(len(slim)):
        altered = bytearray(slim)
        altered[at] ^= 2
        with pytest.raises(DamagedError):
            two.replica.receive([bytes(altered)], two.note)
        assert two.chain.head.sequence == two.replica.acked.sequence == 0
        two.chain.failed = None
    two.replica.receive([slim], two.note)
    assert two.chain.head == pair.one.chain.head


def test_absent_bodies_are_fetched_once_and_those_beside_them_with_them(pair: Pair) -> None:
    bodies = [noise(5000) for _ in range(4)]
    key = pair.one.chain.object_key
    pair.one.chain.commit([Change(key(b"B", b"%d" % i), Lane.BLOB, body) for i, body in enumerate(bodies)])
    pair.one.sync()
    pair.two.sync()
    chain = pair.two.chain
    with chain.nonblocking(), pytest.raises(Absent) as absent:
        chain.load(key(b"B", b"1"))
    absent.value.fetch()
    with chain.nonblocking():
        assert [chain.load(key(b"B", b"%d" % i)) for i in (1, 2, 3)] == bodies[1:]
    assert chain.load(key(b"B", b"0")) == bodies[0]
    assert len(pair.server.asked) == 4
    two = pair.again("two")
    assert [two.chain.load(key(b"B", b"%d" % i)) for i in range(4)] == bodies
    assert len(pair.server.asked) == 4


def test_a_server_may_give_less_at_once_than_was_asked_for_but_not_nothing(pair: Pair) -> None:
    bodies = [noise(5000) for _ in range(4)]
    key = pair.one.chain.object_key
    pair.one.chain.commit([Change(key(b"B", b"%d" % i), Lane.BLOB, body) for i, body in enumerate(bodies)])
    pair.one.sync()
    pair.two.sync()
    absent = pair.two.chain.absent
    assert absent is not None
    absent.fetch_bodies = lambda wanted: []
    with pytest.raises(DamagedError, match="gave 0 bodies"):
        pair.two.chain.load(key(b"B", b"0"))
    absent.fetch_bodies = lambda wanted: pair.server.bodies(wanted[:1])
    assert [pair.two.chain.load(key(b"B", b"%d" % i)) for i in range(4)] == bodies


def test_pinned_bodies_are_fetched_and_kept_until_they_are_let_go(pair: Pair) -> None:
    pair.one.put_blob("x", noise(5000))
    pair.one.put_blob("y", noise(5000))
    pair.one.sync()
    pair.two.sync()
    absent, replica = pair.two.chain.absent, pair.two.replica
    assert absent is not None
    keys = [pair.two.chain.object_key(b"B", name) for name in (b"x", b"y", b"none")]
    records = replica.records(keys)
    absent.cache.limit = 0
    absent.fetch_all(records, pinned=True)
    two = pair.again("two")
    assert two.chain.absent is not None
    two.chain.absent.fetch_bodies = None
    assert (two.blob("x"), two.blob("y")) == (pair.one.blob("x"), pair.one.blob("y"))
    two.chain.absent.cache.limit = 0
    two.chain.absent.keep_only(two.replica.records(keys[:1]))
    assert sorted(two.chain.absent.cache.pinned()) == [Wanted(1, 0)]
    two = pair.again("two")
    assert two.chain.absent is not None
    two.chain.absent.fetch_bodies = None
    assert two.blob("x") == pair.one.blob("x")
    with pytest.raises(UnreachableError):
        two.blob("y")


def test_a_damaged_entry_of_the_cache_is_fetched_again(pair: Pair) -> None:
    body = noise(5000)
    pair.one.put_blob("x", body)
    pair.one.sync()
    pair.two.sync()
    assert pair.two.blob("x") == body
    (cached,) = [p for p in (pair.folder / "two" / "store" / "blobs").rglob("*") if p.is_file()]
    for bad in (b"", cached.read_bytes()[:-1], bytes(len(body) + 16)):
        two = pair.again("two")
        cached.write_bytes(bad)
        asked = len(pair.server.asked)
        assert two.blob("x") == body
        assert len(pair.server.asked) == asked + 1


def test_a_body_that_the_server_altered_is_named_and_not_used(pair: Pair) -> None:
    pair.one.put_blob("x", noise(5000))
    pair.one.sync()
    pair.two.sync()
    assert pair.two.chain.absent is not None
    pair.two.chain.absent.fetch_bodies = lambda wanted: [bytes(5016)]
    with pytest.raises(DamagedError, match="the server gave another body"):
        pair.two.blob("x")
    pair.two.chain.absent.fetch_bodies = None
    with pytest.raises(UnreachableError):
        pair.two.blob("x")


def test_what_is_pending_survives_a_kill_and_is_sent_afterwards(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()
    pair.one.put(b="2")
    pair.one.put(c="3")
    pair.one.chain.barrier()
    one = pair.again("one", clean=False)
    one.replica.check_tail(pair.server.tail)
    assert one.replica.pending_count == 2
    assert one.replica.pending_bytes == sum(map(len, one.replica.pending(1, 1 << 20)))
    one.sync()
    assert one.replica.pending_count == one.replica.pending_bytes == 0
    pair.two.sync()
    assert pair.two.state() == {"a": "1", "b": "2", "c": "3"}


def test_a_pending_batch_that_was_durable_and_is_damaged_is_not_taken_for_a_torn_tail(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()
    pair.one.put(b="2")
    pair.one.chain.barrier()
    pair.one.chain.remember(pair.one.chain.head)
    store = pair.folder / "one" / "store"
    crash(pair.one.chain)
    path = segment_path(store, 1)
    sound = path.read_bytes()
    end = len(sound.rstrip(b"\0"))
    path.write_bytes(sound[: end - 20] + b"?" + sound[end - 19 :])
    with pytest.raises(DamagedError, match="was acknowledged"):
        Device.open(pair.folder / "one", pair.server)
    path.write_bytes(sound)
    pair.one = Device.open(pair.folder / "one", pair.server)
    assert pair.one.state() == {"a": "1", "b": "2"}


def test_a_checkpoint_remembers_what_is_pending_too(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()
    pair.one.put(b="2")
    pair.one.chain.checkpoint()
    heads = RememberedHeads(RealDisk(), pair.folder / "one" / "heads")
    assert heads.recall(pair.one.chain.keys.chain_id) == pair.one.chain.head


def test_pending_frames_are_cut_at_the_limit_and_there_is_always_one(pair: Pair) -> None:
    for i in range(10):
        pair.one.put(a=str(i))
    pair.one.chain.barrier()
    frames = pair.one.replica.pending(0, 1 << 20)
    assert len(frames) == 10
    assert pair.one.replica.pending(0, 1) == frames[:1]
    assert pair.one.replica.pending(4, len(frames[4]) + len(frames[5])) == frames[4:6]
    assert pair.one.replica.pending(10, 1) == []


def test_what_is_not_durable_is_not_sent(pair: Pair) -> None:
    pair.one.put(a="1")
    assert pair.one.replica.pending(0, 1) == []
    pair.one.chain.barrier()
    assert len(pair.one.replica.pending(0, 1)) == 1


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_a_replica_opens_with_what_it_received(pair: Pair, clean: bool, rebuild: bool) -> None:
    pair.one.put(a="1")
    pair.one.put_blob("x", b"blob" * 1000)
    pair.one.sync()
    pair.two.sync()
    pair.two.put(b="2")
    pair.two.chain.checkpoint()
    pair.two.put(c="3")
    pair.two.chain.barrier()
    two = pair.again("two", clean=clean)
    if rebuild:
        crash(two.chain)
        shutil.rmtree(pair.folder / "two" / "store" / "view")
        two = pair.two = Device.open(pair.folder / "two", pair.server)
    assert two.state() == {"a": "1", "b": "2", "c": "3"}
    assert two.blob("x") == b"blob" * 1000
    two.replica.check_tail(pair.server.tail)
    assert two.replica.pending_count == 2
    two.sync()
    pair.one.sync()
    assert pair.one.state() == two.state()


def test_a_checkpoint_folds_what_is_acknowledged_only(pair: Pair) -> None:
    pair.one.put(a="1")
    pair.one.sync()
    pair.one.put(b="2")
    pair.one.chain.checkpoint()
    assert pair.one.chain._base.state.sequence == 1
    pair.one.sync()
    pair.one.chain.checkpoint()
    assert pair.one.chain._base.state.sequence == 2


def test_a_partly_acknowledged_layer_hands_down_exactly_that_part(pair: Pair) -> None:
    for i in range(6):
        pair.one.put(a=str(i), b=f"x{i}")
    pair.one.end("b")
    pair.one.chain.barrier()
    pair.server.append(pair.one.replica.pending(0, 1 << 20)[:4])
    pair.one.replica.check_tail(pair.server.tail)
    pair.one.chain.checkpoint()
    base, below = pair.one.chain._base, pair.two
    below.sync()
    expected = below.chain._view.state
    assert base.state.sequence == 4
    assert (base.state.set_total, base.state.set_count) == (expected.set_total, expected.set_count)
    assert base.state.objects == expected.objects
    assert base.state.devices == expected.devices
    assert {key for key, _ in base.records()} == {key for key, _ in below.chain._view.records()}
    assert pair.one.state() == {"a": "5"}
    one = pair.again("one", clean=False)
    assert one.state() == {"a": "5"}


def test_a_long_stretch_that_is_received_is_folded_into_the_view(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "FOLD_FROM", 10)
    for i in range(30):
        pair.one.put(**{f"n{i}": "x"})
    pair.one.sync()
    pair.two.sync()
    assert pair.two.chain._base.gathered < 10
    assert pair.two.state() == pair.one.state()


@pytest.mark.parametrize("data", [False, True])
def test_a_replica_is_verified_as_sound_and_its_damage_is_found(pair: Pair, data: bool) -> None:
    two = followed(pair)
    two.sync()
    two.put(b="3")
    two.chain.close()
    store = pair.folder / "two" / "store"
    report = verify_log(store, ROOT, data=data, heads=pair.folder / "two" / "heads")
    assert report.replayed
    assert (report.damage, report.tail, report.rolled_back, report.sequence) == ([], None, None, 4)
    assert verify_log(store, None, data=data).damage == []
    path = segment_path(store, 1)
    sound = path.read_bytes()
    path.write_bytes(sound[:700] + bytes([sound[700] ^ 1]) + sound[701:])
    assert verify_log(store, ROOT, data=data).damage
    before = path.read_bytes()
    with pytest.raises(UnsupportedError, match="nothing was changed"):
        repair(store, ROOT, terms=terms_of)
    assert path.read_bytes() == before
    path.write_bytes(sound)
    assert repair(store, ROOT, terms=terms_of).sequence == 4
    pair.two = Device.open(pair.folder / "two", pair.server)
    pair.two.sync()


def test_a_replica_opened_read_only_shows_what_it_has(pair: Pair) -> None:
    two = followed(pair)
    two.sync()
    two.put(b="3")
    two.chain.close()
    reader = Chain.open(pair.folder / "two" / "store", ROOT, terms=terms_of, read_only=True)
    assert Device(reader, pair.server).state() == {"a": "2", "b": "3"}
    reader.close()
    pair.two = Device.open(pair.folder / "two", pair.server)
