"""Rebase: what is pending is put on top of what others did, and is never lost, whatever crashes when."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from atedb.chain import layer as layer_module
from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.frame import decode_frame
from atedb.chain.rebase import Rebase
from atedb.chain.remote import RemoteNote
from atedb.chain.verify import verify_log
from atedb.chain.walk import segment_numbers
from atedb.errors import AteError, DamagedError, UnreachableError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.conftest import ROOT, crash, noise
from tests.chain.cuts import Left, cut_at_every_step
from tests.chain.followed import Device, Server, mine_wins, terms_of
from tests.chain.world import World


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 6 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 1 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_MOST", 2 << 10)


@pytest.fixture
def long_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rebased is joined to what it follows."""
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 1 << 20)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_FIRST", 1 << 10)
    monkeypatch.setattr(log_module, "ZERO_AHEAD_MOST", 2 << 10)


@pytest.fixture(params=["small_segments", "long_segments"])
def either_segments(request: pytest.FixtureRequest) -> str:
    """Both kinds in turn."""
    request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def apart(world: World) -> tuple[Device, Device]:
    """Both know a and x; then `two` sends changes while `one` makes others."""
    one = world["one"]
    one.put(a="1", x="1")
    one.put_blob("old", b"old" * 500)
    one.sync()
    two = world["two"]
    two.sync()
    two.put(a="2", b="2")
    two.put_blob("two", b"two" * 500)
    two.end("x")
    two.sync()
    one.put(a="3", c="3")
    one.put_blob("one", b"one" * 500)
    one.put(c="4")
    return one, two


MERGED = {"a": "3", "b": "2", "c": "4"}


def test_what_is_pending_lies_on_top_of_theirs(world: World) -> None:
    one, two = apart(world)
    one.sync()
    two.sync()
    assert one.state() == two.state() == MERGED
    assert one.chain.head == two.chain.head
    assert one.blob("two") == b"two" * 500
    assert two.blob("one") == b"one" * 500
    assert [plain[32:] for _, plain, _ in one.seen] == [b"a=2", b"b=2", b""]


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_after_a_rebase_the_chain_opens_as_it_was(world: World, clean: bool, rebuild: bool) -> None:
    one, two = apart(world)
    one.fetch()
    pending = one.replica.pending_count
    assert pending
    one = world.again("one", clean=clean)
    if rebuild:
        crash(one.chain)
        shutil.rmtree(world.folder / "one" / "store" / "view")
        one = world.devices["one"] = Device.open(world.folder / "one", world.server)
    assert one.state() == MERGED
    assert one.replica.pending_count == pending
    one.sync()
    two.sync()
    assert two.state() == MERGED


def test_the_three_sides_are_what_they_are_called_and_stay_so(world: World) -> None:
    one, _ = apart(world)
    key = one.chain.object_key
    a, x, b = key(b"T", b"a"), key(b"T", b"x"), key(b"T", b"b")
    old, new = key(b"B", b"old"), key(b"B", b"two")
    group = one.chain.group_key(b"G", b"the only set")
    done: list[bool] = []

    def merge(rebase: Rebase) -> None:
        for _ in range(2):
            for reader, value in ((rebase.base, b"a=1"), (rebase.mine, b"a=3"), (rebase.theirs, b"a=2")):
                body = reader.load(a)
                assert body is not None
                assert body[32:] == value
                assert reader.members(group)[a] == value
                assert reader.load(old) == b"old" * 500
            assert [r.exists(x) for r in (rebase.base, rebase.mine, rebase.theirs)] == [True, True, False]
            assert [r.load(b) is None for r in (rebase.base, rebase.mine, rebase.theirs)] == [True, True, False]
            assert rebase.theirs.load(new) == b"two" * 500
            if not done:
                mine_wins(rebase)
                merged = rebase.merged.load(a)
                assert merged is not None
                assert merged[32:] == b"a=3"
                assert rebase.merged.members(group).keys() == {a, b, key(b"T", b"c")}
            done.append(True)
        assert rebase.theirs_keys == {a, b, x, new}
        assert [c.plaintext[32:] for c in rebase.theirs_changes() if c.plaintext is not None] == [b"a=2", b"b=2", b""]
        assert [c.tombstone for c in rebase.theirs_changes()] == [False, False, False, True]

    rest = one.replica.receive(world.server.after(one.replica.acked.sequence), one.note)
    one.replica.rebase(rest, merge, one.note)
    assert len(done) == 2
    assert one.state() == MERGED


@pytest.mark.parametrize("error", [UnreachableError, RuntimeError, KeyboardInterrupt])
def test_a_merge_that_fails_has_never_happened(world: World, error: type[BaseException]) -> None:
    one, _ = apart(world)
    before = (one.state(), one.chain.head, one.replica.pending_count)

    def merge(rebase: Rebase) -> None:
        mine_wins(rebase)
        raise error("in the middle")

    frames = world.server.after(one.replica.acked.sequence)
    for _ in range(2):
        with pytest.raises(error):
            one.replica.rebase(frames, merge, one.note)
        assert (one.state(), one.chain.head, one.replica.pending_count) == before
        assert segment_numbers(one.chain._disk, one.chain.store) == [1]
    one.put(d="5")
    one = world.again("one", clean=False)
    one.sync()
    assert one.state() == {**MERGED, "d": "5"}


def test_a_bad_frame_among_theirs_leaves_all_that_was_pending(world: World) -> None:
    one, _ = apart(world)
    before = (one.state(), one.chain.head)
    frames = world.server.after(one.replica.acked.sequence)
    at = decode_frame(frames[1]).header.table_offset + 20
    altered = bytearray(frames[1])
    altered[at] ^= 1
    with pytest.raises(DamagedError, match="server gave"):
        one.replica.rebase([frames[0], bytes(altered)], mine_wins, one.note)
    assert (one.state(), one.chain.head) == before
    assert one.chain.failed is not None
    one = world.again("one")
    assert one.state() == before[0]
    one.sync()
    assert one.state() == MERGED


def test_the_certificate_of_a_device_that_had_sent_nothing_yet_is_stated_again(world: World) -> None:
    one, two = world["one"], world["two"]
    one.put(a="1")
    two.put(b="2")  # with its certificate, which the rebase takes back
    one.sync()
    two.fetch()
    assert two.replica.pending_count == 1
    two = world.again("two", clean=False)
    two.sync()
    one.sync()
    assert one.state() == two.state() == {"a": "1", "b": "2"}


def test_a_certificate_is_not_lost_when_a_merge_commits_nothing(world: World) -> None:
    one, two = world["one"], world["two"]
    one.put(a="1")
    two.put(a="2")
    one.sync()
    rest = two.replica.receive(world.server.after(0), two.note)
    two.replica.rebase(rest, lambda rebase: None, two.note)
    assert two.replica.pending_count == 0
    assert two.state() == {"a": "1"}
    two.put(b="2")
    two.sync()
    one.sync()
    assert one.state() == {"a": "1", "b": "2"}


@pytest.mark.usefixtures("either_segments")
@pytest.mark.parametrize("seed", range(4))
def test_replicas_that_change_apart_and_meet_at_random_agree(world: World, seed: int) -> None:
    rng = random.Random(seed)
    names = ["one", "two", "three"]
    for name in names:
        world[name].chain.barrier()
    for _ in range(120):
        name = rng.choice(names)
        device = world[name]
        what = rng.random()
        if what < 0.45:
            device.put(**{rng.choice("abcdefgh"): str(rng.random()) for _ in range(rng.randint(1, 3))})
        elif what < 0.55:
            device.put_blob(rng.choice("pqr"), noise(rng.randint(10, 3000)))
        elif what < 0.65 and device.state():
            device.end(rng.choice(sorted(device.state())))
        elif what < 0.7:
            device.chain.checkpoint()
        elif what < 0.8:
            device.chain.barrier()
            before = device.state()
            device = world.again(name, clean=rng.random() < 0.5)
            assert device.state() == before
        elif what < 0.9:
            device.fetch()
            device.send(limit=rng.choice([1, 1 << 20]))
        else:
            device.fetch()
    for _ in range(2):
        for name in names:
            world[name].sync()
    states = [(world[name].state(), [world[name].blob(blob) for blob in "pqr"]) for name in names]
    assert states[0] == states[1] == states[2]
    assert len({world[name].chain.head for name in names}) == 1
    folder = world.folder / "fresh"
    folder.mkdir()
    fresh = world.devices["fresh"] = Device.make(folder, world.server, world["one"].chain.header)
    fresh.sync()
    assert (fresh.state(), [fresh.blob(blob) for blob in "pqr"]) == states[0]


@pytest.mark.usefixtures("either_segments")
def test_a_view_that_has_taken_in_what_is_pending_is_made_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "MAX_ROWS", 3)
    one, two = apart(world)
    for i in range(20):
        one.put(**{f"n{i}": "x" * 300})
    one.chain.checkpoint()
    assert one.chain._base.state.sequence == one.chain.head.sequence > one.replica.acked.sequence
    expected = {**MERGED, **{f"n{i}": "x" * 300 for i in range(20)}}
    one.fetch()
    assert one.state() == expected
    one = world.again("one", clean=False)
    assert one.state() == expected
    one.sync()
    two.sync()
    assert two.state() == expected


def test_a_chain_that_was_local_can_follow_a_server_from_its_first_batch(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    chain = Chain.create(folder / "store", ROOT, terms=terms_of, heads=folder / "heads")
    device = Device.__new__(Device)
    device.chain = chain
    device.put(a="1")
    device.put(b="2")
    chain.close()
    chain = Chain.open(folder / "store", ROOT, terms=terms_of, heads=folder / "heads", remote=True)
    local = world.devices["local"] = Device(chain, world.server)
    assert local.replica.pending_count == 2
    (world.folder / "two").mkdir()
    two = world.devices["two"] = Device.make(world.folder / "two", world.server, chain.header)
    two.put(c="3")
    two.sync()
    local.sync()
    two.sync()
    assert two.state() == local.state() == {"a": "1", "b": "2", "c": "3"}
    world.again("local", clean=False).sync()


# -- crashes


def ready(folder: Path, *, overrun: bool) -> tuple[World, dict[str, str], dict[str, str]]:
    """A world in which `one` is about to rebase; what it has, and what it is to have."""
    world = World(folder)
    one, _ = apart(world)
    for i in range(12):
        one.put(**{f"n{i}": "x" * 900})
    one.chain.barrier()
    if overrun:
        one.chain.checkpoint()
    before = one.state()
    return world, before, {name: body for name, body in {**before, **MERGED}.items() if name != "x"}


def rebase_and_cut(folder: Path, step: int, *, lies: bool, overrun: bool) -> Left:
    """Rebase with the power cut at a step."""
    world, _, _ = ready(folder, overrun=overrun)
    store = world.folder / "one"
    crash(world.devices.pop("one").chain)
    disk = FaultyDisk(store, lies=lies)
    one = Device.open(store, world.server, disk)
    one.put(last="1")
    one.chain.barrier()
    disk.cut_at = disk.steps + step
    try:
        one.fetch()
        one.put(later=noise(2000).hex())
        one.chain.barrier()
        if overrun:
            one.chain.checkpoint()
        one.chain.close()
    except PowerCut:
        crash(one.chain)
    for device in world.devices.values():
        device.chain.close()
    return Left(disk, lambda found: judge(found, world.server, len(world.server.frames)))


def every_cut(folder: Path, *, lies: bool = False, overrun: bool = False, first: bool = False) -> list[str]:
    """Cut the power at every step of a rebase in turn; what was found wrong. first: one finding is enough."""
    return cut_at_every_step(folder, partial(rebase_and_cut, lies=lies, overrun=overrun), least=20, first=first)


def judge(found: Path, server: Server, sent: int) -> str:
    """What is wrong with the store that was found: it holds all that was pending, and can go on from there."""
    del server.frames[sent:]
    mine = {"a": "3", "c": "4", "last": "1", **{f"n{i}": "x" * 900 for i in range(12)}}
    try:
        report = verify_log(found / "store", ROOT, data=True, heads=found / "heads")
        if report.damage or report.rolled_back:
            return f"it is found damaged: {report.damage} {report.rolled_back}"
        Chain.open(found / "store", ROOT, terms=terms_of, heads=found / "heads", read_only=True).close()
        one = Device.open(found, server)
    except AteError as error:
        return f"it does not open: {error}"
    state = one.state()
    lost = {name for name, body in mine.items() if state.get(name) != body}
    if lost:
        crash(one.chain)
        return f"lost: {sorted(lost)}"
    try:
        one.sync()
        one.put(again="1")
        one.sync()
        state = one.state()
        one.chain.close()
        one = Device.open(found, server)
        reopened = one.state()
        leftovers = one.chain.remote is not None and one.chain.remote.rebase
        one.chain.close()
    except (AteError, AssertionError) as error:
        crash(one.chain)
        return f"it cannot go on: {error}"
    state.pop("later", None)
    reopened.pop("later", None)
    if state != {**mine, "b": "2", "again": "1"} or state != reopened or leftovers:
        return f"it is not what it should be: {state.keys()} {reopened.keys()} {leftovers}"
    return ""


torn = pytest.mark.expect_log("torn tail")


@torn
@pytest.mark.usefixtures("either_segments")
def test_a_power_cut_at_any_step_of_a_rebase_loses_nothing_that_was_pending(in_memory: Path) -> None:
    assert every_cut(in_memory) == []


@torn
@pytest.mark.usefixtures("either_segments")
def test_nor_when_the_view_has_to_be_made_anew(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "MAX_ROWS", 3)
    assert every_cut(in_memory, overrun=True) == []


@pytest.mark.expect_log("torn tail|manifest is made anew|not what was written")
@pytest.mark.usefixtures("small_segments")
def test_on_a_disk_that_lies_about_syncs_it_does(in_memory: Path) -> None:
    assert every_cut(in_memory, lies=True) != []


@pytest.mark.usefixtures("small_segments")
def test_without_the_note_that_a_rebase_is_under_way_it_does(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = RemoteNote.save

    def silent(note: RemoteNote, durable: int) -> None:
        rebase, note.rebase = note.rebase, 0
        save(note, durable)
        note.rebase = rebase

    monkeypatch.setattr(RemoteNote, "save", silent)
    assert every_cut(in_memory, first=True) != []


@pytest.mark.usefixtures("small_segments")
def test_with_the_old_end_removed_before_the_swap_it_does(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = log_module.Log.publish

    def too_early(log: log_module.Log) -> None:
        for number in segment_numbers(log._disk, log._store):
            if number < log.manifest.active:
                with closing(log._disk.open(log_module.segment_path(log._store, number), writable=True)) as file:
                    file.truncate(SEGMENT_HEADER_SIZE)
        publish(log)

    monkeypatch.setattr(log_module.Log, "publish", too_early)
    assert every_cut(in_memory, first=True) != []


@pytest.mark.usefixtures("long_segments")
def test_with_the_old_end_overwritten_before_the_swap_it_does(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(log: log_module.Log) -> None:
        log._active.sync()
        log._published = True  # the first manifest that is saved is the one after `join`

    monkeypatch.setattr(log_module.Log, "publish", silent)
    assert every_cut(in_memory, first=True) != []


# -- a disk that fails


@pytest.mark.parametrize(("failure", "overrun"), [*product([errno.ENOSPC, errno.EIO], [False, True])])
def test_a_disk_that_fails_at_any_step_of_a_rebase_loses_nothing(
    in_memory: Path, request: pytest.FixtureRequest, failure: int, overrun: bool, either_segments: str
) -> None:
    monkeypatch, expect_log = request.getfixturevalue("monkeypatch"), request.getfixturevalue("expect_log")
    expect_log("could not be removed yet")
    if either_segments == "long_segments":
        expect_log("stays in a segment of its own")
    if overrun:
        monkeypatch.setattr(layer_module, "MAX_ROWS", 3)
    step = 0
    while True:
        step += 1
        folder = in_memory / f"fail{step}"
        folder.mkdir()
        world, before, merged = ready(folder, overrun=overrun)
        crash(world.devices.pop("one").chain)
        disk = FaultyDisk(world.folder / "one", failure=failure)
        one = Device.open(world.folder / "one", world.server, disk)
        one.chain.checkpoint()
        disk.fail_at = disk.steps + step
        try:
            one.fetch()
        except AteError:
            if one.chain.failed is None:  # all is as it was, and goes on working
                assert one.state() == before
                one.put(more="1")
                one.fetch()
                assert one.state() == {**merged, "more": "1"}
                one.end("more")
                one.chain.barrier()
        crash(one.chain)
        one = Device.open(world.folder / "one", world.server)
        one.sync()
        assert one.state() == merged
        one.chain.close()
        failed = disk.steps >= disk.fail_at
        for device in world.devices.values():
            device.chain.close()
        shutil.rmtree(folder)
        if not failed:
            break
    assert step > 10
