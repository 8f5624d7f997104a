"""A torn tail is cut off; what was acknowledged is never cut, but named as damage; a fork is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.chain.log import segment_path
from atedb.errors import DamagedError, InUseError, ReadOnlyError, RolledBackError
from tests.chain.conftest import ROOT, crash, noise, put


def crashed(store: Path, *, barriers: int, heads: Path | None = None) -> list[int]:
    """A chain of three batches whose owner was killed; the offsets of its frames. barriers: after how many of them."""
    chain = Chain.create(store, ROOT, heads=heads)
    offsets = []
    for number in range(3):
        offsets.append(chain._log.end)
        chain.commit([put(chain, b"object", b"version %d" % number)])
        if number < barriers:
            chain.barrier()
    crash(chain)
    return offsets


def flip(store: Path, offset: int) -> None:
    path = segment_path(store, 1)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def newest(store: Path, heads: Path | None = None) -> bytes | None:
    chain = Chain.open(store, ROOT, heads=heads)
    try:
        return chain.load(chain.object_key(b"T", b"object"))
    finally:
        chain.close()


@pytest.mark.expect_log("torn tail of .* after batch 2 is cut off")
def test_a_torn_last_batch_is_cut_off_and_said(store: Path) -> None:
    offsets = crashed(store, barriers=2)
    flip(store, offsets[2] + 200)
    assert newest(store) == b"version 1"
    assert newest(store) == b"version 1"


@pytest.mark.expect_log("torn tail of .* after batch 1 is cut off")
def test_batches_after_an_unsynced_torn_one_go_with_it(store: Path) -> None:
    offsets = crashed(store, barriers=0)
    flip(store, offsets[1] + 200)
    assert newest(store) == b"version 0"


def test_a_batch_that_a_later_one_calls_durable_is_damage_not_a_torn_tail(store: Path) -> None:
    offsets = crashed(store, barriers=2)
    flip(store, offsets[1] + 200)
    before = segment_path(store, 1).read_bytes()
    with pytest.raises(DamagedError, match=r"segment 1 is damaged at offset \d+: batch 2 was durable"):
        newest(store)
    assert segment_path(store, 1).read_bytes() == before


def test_a_last_batch_that_this_machine_remembers_is_damage_not_a_torn_tail(store: Path, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    offsets = crashed(store, barriers=3, heads=heads)
    assert newest(store, heads) == b"version 2"
    shutil.rmtree(store / "view")
    flip(store, offsets[2] + 200)
    with pytest.raises(DamagedError, match="batch 3 was acknowledged"):
        newest(store, heads)


def test_two_copies_that_went_different_ways_are_told_apart(store: Path, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    crashed(store, barriers=3, heads=heads)
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    for where, words, times in ((store, b"here", 1), (copy, b"there", 3)):
        chain = Chain.open(where, ROOT, heads=heads if where == store else None)
        for _ in range(times):
            chain.commit([put(chain, b"object", words)])
        chain.close()
    with pytest.raises(RolledBackError, match="accept-rollback"):
        newest(copy, heads)
    chain = Chain.open(copy, ROOT, heads=heads, accept_rollback=True)
    assert chain.load(chain.object_key(b"T", b"object")) == b"there"
    chain.commit([put(chain, b"object", b"accepted")])
    chain.close()
    assert newest(copy, heads) == b"accepted"


def test_a_chain_in_use_is_refused_with_its_holder_named(store: Path) -> None:
    chain = Chain.create(store, ROOT)
    with pytest.raises(InUseError, match=r"in use by process \d+ on"):
        Chain.open(store, ROOT)
    chain.close()


def test_a_chain_opened_read_only_takes_no_commit(store: Path) -> None:
    crashed(store, barriers=3)
    chain = Chain.open(store, ROOT, read_only=True)
    with pytest.raises(ReadOnlyError):
        chain.commit([put(chain, b"object", b"no")])
    assert chain.load(chain.object_key(b"T", b"object")) == b"version 2"
    chain.close()


@pytest.mark.parametrize("remote", [False, True])
def test_a_long_stretch_can_be_replayed_by_a_reader_who_leaves_the_view_alone(
    store: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    monkeypatch.setattr("atedb.chain.recovery.REBUILD_STEP", 2)
    chain = Chain.create(store, ROOT, remote=remote)
    for number in range(10):
        chain.commit([put(chain, b"%d" % number, b"body %d" % number)])
    chain.barrier()
    crash(chain)
    view = {path: path.read_bytes() for path in (store / "view").iterdir()}
    chain = Chain.open(store, ROOT, read_only=True)
    assert [chain.load(chain.object_key(b"T", b"%d" % number)) for number in range(10)] == [
        b"body %d" % number for number in range(10)
    ]
    chain.close()
    assert {path: path.read_bytes() for path in (store / "view").iterdir()} == view


def test_a_rebuild_tells_how_far_it_is_within_a_segment(store: Path) -> None:
    chain = Chain.create(store, ROOT)
    for number in range(5):
        chain.commit([put(chain, b"%d" % number, noise(1 << 20), Lane.BLOB)])
    chain.close()
    (store / "view.seal").unlink()
    told: list[tuple[int, int]] = []
    Chain.open(store, ROOT, progress=lambda done, whole: told.append((done, whole))).close()
    size = segment_path(store, 1).stat().st_size
    assert len(told) == 5
    assert told == sorted(told)
    assert told[-1] == (size, size)
