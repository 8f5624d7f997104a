"""Repair: exactly what is damaged is lost, the report says what that is, and a kill at any step loses nothing more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from atedb.chain import repair as repair_module
from atedb.chain.chain import Chain
from atedb.chain.disk import File, RealDisk
from atedb.chain.event import Lane
from atedb.chain.log import segment_path
from atedb.chain.repair import repair
from atedb.chain.report import Loss, RepairReport
from atedb.chain.verify import verify_log
from atedb.errors import DamagedError, InUseError, NoSpaceError, RolledBackError
from tests.chain.conftest import ROOT, crash
from tests.chain.small import (
    Small,
    body_of,
    build,
    expect_content,
    flip,
    key,
    listed,
    place_of,
    put,
    terms,
    tree,
)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """The small chain."""
    return build(tmp_path)


def describe(_tombstone: bool, body: bytes) -> str:
    return f"the text {body.decode()!r}"


def mend(small: Small) -> RepairReport:
    return repair(small.store, ROOT, heads=small.heads, terms=terms, describe=describe)


def expect_after(small: Small, *, members: dict[bytes, bytes] | None = None, **changed: bytes | None) -> None:
    """The chain opens, verifies, answers as before but for what `changed`, and takes commits."""
    objects = small.objects | {name.encode(): body for name, body in changed.items()}
    expected = small._replace(objects=objects, members=small.members if members is None else members)
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    report.require_sound()
    assert (report.replayed, report.tail, report.remarks) == (True, None, [])
    for _ in range(2):
        chain = expected.open()
        expect_content(chain, expected)
        chain.commit([put(b"new", b"after the repair", Lane.BLOB)])
        chain.close()


def log_bytes(small: Small) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (small.store / "segments").iterdir()}


def damaged_logs(small: Small) -> list[Path]:
    return sorted(small.store.glob("damaged-*"))


# -- nothing to salvage


def test_a_sound_chain_is_left_alone(small: Small) -> None:
    before = log_bytes(small)
    report = mend(small)
    assert (report.found, report.losses, report.missing, report.moved_to) == ([], [], [], None)
    assert log_bytes(small) == before
    assert damaged_logs(small) == []
    expect_after(small)


@pytest.mark.parametrize("harm", ["view", "view.seal", "device"])
def test_what_stands_beside_a_sound_log_is_mended(small: Small, harm: str) -> None:
    path = small.store / harm
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = mend(small)
    assert (report.found, report.moved_to) == ([], None)
    expect_after(small)


@pytest.mark.expect_log("manifest is made anew")
def test_a_missing_manifest_is_mended(small: Small) -> None:
    (small.store / "manifest").unlink()
    assert mend(small).moved_to is None
    expect_after(small)


@pytest.mark.expect_log("torn tail")
def test_a_torn_tail_is_cut_off_not_salvaged(small: Small) -> None:
    chain = small.open()
    start = chain._log.end
    chain.commit([put(b"a", b"unsynced")])
    crash(chain)
    flip(segment_path(small.store, 2), start + 200)
    assert mend(small).moved_to is None
    expect_after(small)


def test_a_rollback_is_left_to_the_user(small: Small, tmp_path: Path) -> None:
    older = small.at(tmp_path / "older")
    chain = small.open()
    chain.commit([])
    chain.close()
    before = tree(older.store / "segments")
    with pytest.raises(RolledBackError, match="accept-rollback"):
        mend(older._replace(heads=small.heads))
    assert tree(older.store / "segments") == before


def test_a_chain_in_use_is_not_repaired(small: Small) -> None:
    chain = small.open()
    with pytest.raises(InUseError):
        mend(small)
    chain.close()


def test_a_chain_without_its_header_cannot_be_repaired(small: Small) -> None:
    flip(small.store / "chain", 50)
    before = tree(small.store)
    with pytest.raises(DamagedError, match="put the file back"):
        mend(small)
    assert tree(small.store) == before


# -- what survives


def test_a_damaged_body_of_the_meta_lane_puts_the_older_version_back(small: Small) -> None:
    flip(*body_of(small.store, 3, b"a"))
    report = mend(small)
    text = listed(b"a", b"1")
    assert report.losses == [Loss(key(b"a").hex(), "meta", 2, 1, describe(False, text))]
    assert (report.put_back, report.lost, report.missing) == (report.losses, [], [])
    assert report.objects == 5
    assert [(d.segment, d.objects) for d in report.found] == [(1, [key(b"a").hex()])]
    expect_after(small, members=small.members | {b"a".ljust(16): b"1"}, a=text)


def test_a_damaged_body_of_the_blob_lane_without_an_older_version_is_lost(small: Small) -> None:
    flip(*body_of(small.store, 5, b"z"))
    report = mend(small)
    assert report.losses == report.lost == [Loss(key(b"z").hex(), "blob", 1)]
    assert report.objects == 4
    expect_after(small, z=None)


def test_a_damaged_older_version_costs_nothing(small: Small) -> None:
    flip(*body_of(small.store, 1, b"x"))
    report = mend(small)
    assert (len(report.found), report.losses) == (1, [])
    expect_after(small)


def test_a_damaged_tombstone_does_not_bring_its_object_back(small: Small) -> None:
    flip(*body_of(small.store, 4, b"b"))
    report = mend(small)
    assert report.losses == []
    expect_after(small)


def test_a_damaged_tombstone_that_no_view_knows_brings_its_object_back_and_is_reported(small: Small) -> None:
    flip(*body_of(small.store, 4, b"b"))
    shutil.rmtree(small.store / "view")
    report = mend(small)
    assert report.losses == [Loss(key(b"b").hex(), "meta", 2, 1, describe(False, listed(b"b", b"1")))]
    expect_after(small, members=small.members | {b"b".ljust(16): b"1"}, b=listed(b"b", b"1"))


def test_a_damaged_frame_header_costs_nothing(small: Small) -> None:
    path, frame = place_of(small.store, 3)
    flip(path, frame.offset + 8)
    report = mend(small)
    assert [(d.offset, d.length) for d in report.found] == [(frame.offset, 32)]
    assert (report.losses, report.missing) == ([], [])
    expect_after(small)


def test_a_damaged_event_table_loses_its_batch(small: Small) -> None:
    path, frame = place_of(small.store, 3)
    flip(path, frame.offset + frame.header.bodies_offset - 1)
    report = mend(small)
    assert report.missing == [(3, 3)]
    assert sorted((loss.object, loss.version, loss.kept) for loss in report.losses) == [
        (key(b"a").hex(), 2, 1),
        (key(b"x").hex(), 2, 1),
    ]
    text = listed(b"a", b"1")
    expect_after(small, members=small.members | {b"a".ljust(16): b"1"}, a=text, x=b"block x" * 20)


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_segment_header_costs_nothing(small: Small, number: int) -> None:
    flip(segment_path(small.store, number), 20)
    report = mend(small)
    assert [(d.segment, d.offset, d.length) for d in report.found] == [(number, 0, 128)]
    assert (report.losses, report.missing) == ([], [])
    expect_after(small)


def test_a_missing_segment_loses_what_was_only_there(small: Small) -> None:
    segment_path(small.store, 2).unlink()
    report = mend(small)
    assert report.missing == [(4, 6)]
    # The view remembers what the tombstones in it ended.
    assert sorted((loss.object, loss.version, loss.kept) for loss in report.losses) == [
        (key(b"c").hex(), 2, 1),
        (key(b"d").hex(), 1, None),
        (key(b"z").hex(), 1, None),
    ]
    text = listed(b"c", b"1")
    expect_after(small, members=small.members | {b"c".ljust(16): b"1"}, c=text, d=None, z=None)


def test_the_first_segment_missing_costs_no_later_batch_its_device(small: Small) -> None:
    """The device's certificate was in the first batch."""
    segment_path(small.store, 1).unlink()
    shutil.rmtree(small.store / "view")
    report = mend(small)
    assert report.missing == [(1, 3)]
    assert report.losses == []  # nothing is left that knows of them
    expect_after(small, members={b"c".ljust(16): b"2"}, a=None, x=None)


def test_exchanged_segments_cost_nothing(small: Small) -> None:
    first, second = segment_path(small.store, 1), segment_path(small.store, 2)
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    assert mend(small).losses == []
    expect_after(small)


def test_a_log_with_nothing_left_becomes_an_empty_one(small: Small) -> None:
    for path in (small.store / "segments").iterdir():
        path.write_bytes(os.urandom(2000))
    (small.store / "manifest").unlink()
    mend(small)
    expect_after(small, members={}, **{name.decode(): None for name in small.objects})


def test_the_damaged_log_is_kept_and_the_report_beside_it_tells_no_names(small: Small) -> None:
    flip(*body_of(small.store, 3, b"a"))
    before = log_bytes(small)
    report = mend(small)
    (kept,) = damaged_logs(small)
    assert report.moved_to == str(kept)
    assert {p.name: p.read_bytes() for p in (kept / "segments").iterdir()} == before
    text = (kept / "report.json").read_bytes()
    assert msgspec.json.decode(text)["losses"][0]["object"] == key(b"a").hex()
    assert b"the text" not in text
    assert not list(small.store.glob("repair*"))


def test_a_second_repair_keeps_the_first_damaged_log_too(small: Small) -> None:
    for _ in range(2):
        path = segment_path(small.store, 1)
        flip(path, 20)
        repair(small.store, ROOT, heads=small.heads, terms=terms, clock=lambda: 1_700_000_000_000_000_000)
    assert [p.name for p in damaged_logs(small)] == ["damaged-2023-11-14T22-13-20Z", "damaged-2023-11-14T22-13-20Z-2"]
    expect_after(small)


def test_twin_without_repair_a_damaged_head_stops_the_open(small: Small) -> None:
    path, frame = place_of(small.store, 3)
    flip(path, frame.offset + 8)
    shutil.rmtree(small.store / "view")
    with pytest.raises(DamagedError, match="fsck --repair"):
        small.open()


def test_a_full_disk_stops_a_repair_before_it_changes_anything(small: Small) -> None:
    flip(*body_of(small.store, 5, b"z"))
    before = tree(small.store / "segments")

    class FullDisk(RealDisk):
        def create(self, path: Path) -> File:
            if "repair.tmp" in path.parts and path.suffix == ".seg":
                raise NoSpaceError("full")
            return super().create(path)

    with pytest.raises(NoSpaceError):
        repair(small.store, ROOT, heads=small.heads, terms=terms, disk=FullDisk())
    assert tree(small.store / "segments") == before
    assert not list(small.store.glob("repair*"))
    mend(small)
    expect_after(small, z=None)


# -- killed at every step


def kill_at(step: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that dies at its `step`-th change of a name or file. Whether it died."""
    child = os.fork()
    if child == 0:
        left = step

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return real(*args, **options)

            return call

        for module, names in ((os, ("rename", "replace", "unlink", "rmdir", "mkdir")), (shutil, ("rmtree",))):
            for name in names:
                setattr(module, name, counted(getattr(module, name)))
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def opened(small: Small) -> Chain | None:
    """The chain, or None when it is refused in words that name the way on."""
    try:
        return small.open()
    except RolledBackError:  # the new log is in place, and this machine does not know yet
        return None
    except DamagedError as error:
        if "fsck --repair" in str(error):
            return None
        raise


@pytest.mark.parametrize("use_between", [False, True])
def test_a_repair_that_is_killed_leaves_a_store_that_opens_or_that_repair_completes(
    small: Small, in_memory: Path, use_between: bool
) -> None:
    flip(*body_of(small.store, 5, b"z"))
    outcomes = set()
    step = 0
    while True:
        step += 1
        copy = small.at(in_memory / f"{step}")
        if not kill_at(step, lambda copy=copy: mend(copy)):  # type: ignore[misc]
            break
        lost: dict[str, bytes | None] = {"z": None}
        chain = opened(copy)
        outcomes.add(chain is not None)
        if chain is not None:
            if use_between:
                chain.commit([put(b"a", listed(b"a", b"9"))])
                lost["a"] = listed(b"a", b"9")
            chain.close()
        report = mend(copy)
        members = copy.members | ({b"a".ljust(16): b"9"} if "a" in lost else {})
        expect_after(copy, members=members, **lost)
        assert not list(copy.store.glob("repair*"))
        assert report.resumed or report.moved_to or not report.found
        kept = [p for p in damaged_logs(copy) if (p / "segments").exists()]
        assert len(kept) == len(damaged_logs(copy)) == 1
        shutil.rmtree(copy.store.parent)
    assert outcomes == {True, False}
    assert step > 15


def test_twin_an_unfinished_swap_that_is_not_resumed_leaves_no_log(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(*body_of(small.store, 5, b"z"))
    real = repair_module._Repair._move

    def die(self: repair_module._Repair, source: Path, target: Path) -> None:
        real(self, source, target)
        if target.parent.name.startswith("damaged-"):
            raise KeyboardInterrupt

    monkeypatch.setattr(repair_module._Repair, "_move", die)
    with pytest.raises(KeyboardInterrupt):
        mend(small)
    with pytest.raises(DamagedError, match=r"segments is missing.*fsck --repair"):
        Chain.open(small.store, ROOT)
    monkeypatch.undo()
    report = mend(small)
    assert report.resumed
    assert [loss.object for loss in report.losses] == [key(b"z").hex()]
    expect_after(small, z=None)
