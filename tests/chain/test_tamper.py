"""Every byte of every file of a small store is flipped in turn: noticed, or provably without effect.

Noticed means an error of the damaged family (or the refusal of an unknown format, suite or secret); without effect
means that all objects and sets answer as before. The twins at the end take one check away each, and show that it is
needed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from atedb.chain import frame as frame_module
from atedb.chain import view as view_module
from atedb.chain import walk as walk_module
from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.format import CORE_SIZE, EVENT_SIZE, SEGMENT_HEADER_SIZE
from atedb.chain.log import segment_path
from atedb.chain.record import RECORD_SIZE
from atedb.chain.verify import verify_log
from atedb.chain.view import View, ViewUnusableError, view_place
from atedb.crypto import aead, signing
from atedb.crypto.aead import TAG_SIZE
from atedb.crypto.keys import KeyRing
from atedb.crypto.sethash import SetHash
from atedb.crypto.slots import KeySlots
from atedb.errors import DamagedError, RolledBackError, UnsupportedError, WrongSecretError
from tests.chain.conftest import ROOT
from tests.chain.small import (
    SECRET,
    Small,
    body_of,
    build,
    content,
    expect_content,
    flip,
    frames,
    key,
    place_of,
)

NOTICED = (DamagedError, UnsupportedError, WrongSecretError)


@pytest.fixture
def small(in_memory: Path) -> Small:
    """The small chain; in memory, since these tests open it some 20,000 times."""
    return build(in_memory / "small")


def flips(path: Path, step: int = 1) -> Iterator[int]:
    """Flip each byte (or every `step`-th, from a fixed random start) in turn, and put it back."""
    rng = random.Random(path.name)
    before = path.read_bytes()
    for offset in range(rng.randrange(step), len(before), step):
        flip(path, offset, rng.randrange(1, 256))
        yield offset
        path.write_bytes(before)


def unnoticed(small: Small, *, read_only: bool = True) -> bool:
    """Whether the chain opens and answers, and then: that it answers as before. False: it raised."""
    try:
        chain = small.open(read_only=read_only)
    except NOTICED:
        return False
    try:
        expect_content(chain, small)
    except NOTICED:
        return False
    finally:
        chain.close()
    return True


def files(small: Small) -> list[str]:
    return sorted(str(p.relative_to(small.store)) for p in small.store.rglob("*") if p.is_file())


def test_these_are_all_the_files_of_a_store(small: Small) -> None:
    assert files(small) == [
        "chain", "device", "keys", "keys.copy", "lock", "manifest", "segments/00000001.seg", "segments/00000002.seg",
        "view.seal", "view/data.mdb", "view/lock.mdb",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [1, 2])
def test_every_byte_of_a_segment_is_guarded_when_objects_are_read(small: Small, number: int) -> None:
    held = sum(1 for _ in flips(segment_path(small.store, number)) if unnoticed(small))
    assert held > 0  # frame heads are not read while the view is intact


@pytest.mark.parametrize("number", [1, 2])
def test_every_byte_of_a_segment_is_found_by_verification_without_a_secret(small: Small, number: int) -> None:
    regions = [(0, SEGMENT_HEADER_SIZE), *((f.offset, f.end) for f in frames(small.store, number))]
    for offset in flips(segment_path(small.store, number)):
        report = verify_log(small.store, None, data=True, heads=small.heads)
        start, end = next(region for region in regions if region[0] <= offset < region[1])
        assert any(d.segment == number and start <= d.offset < end for d in report.damage), (offset, report)


@pytest.mark.parametrize("number", [1, 2])
def test_every_byte_of_a_segment_is_found_by_verification_with_the_root_key(small: Small, number: int) -> None:
    regions = [(0, SEGMENT_HEADER_SIZE), *((f.offset, f.end) for f in frames(small.store, number))]
    for offset in flips(segment_path(small.store, number)):
        report = verify_log(small.store, ROOT, data=True)
        start, end = next(region for region in regions if region[0] <= offset < region[1])
        assert any(d.segment == number and start <= d.offset < end for d in report.damage), (offset, report)


@pytest.mark.parametrize("number", [1, 2])
def test_a_segment_is_guarded_when_the_view_is_rebuilt_from_it(small: Small, number: int) -> None:
    """Every fourth byte: replaying is slow, and goes through the code that verification tries with every byte."""
    shutil.rmtree(small.store / "view")
    for _ in flips(segment_path(small.store, number), step=4):
        unnoticed(small)


def test_every_byte_of_the_header_is_guarded(small: Small) -> None:
    noticed = sum(1 for _ in flips(small.store / "chain") if not unnoticed(small))
    assert noticed > 300  # the rest is layout


@pytest.mark.parametrize("name", ["view.seal", "lock"])
def test_every_byte_of_what_can_be_made_anew_is_without_effect(small: Small, name: str) -> None:
    for _ in flips(small.store / name):
        assert unnoticed(small)


@pytest.mark.expect_log("the manifest is made anew from the segments")
def test_every_byte_of_the_manifest_is_without_effect(small: Small) -> None:
    for _ in flips(small.store / "manifest"):
        assert unnoticed(small)


@pytest.mark.parametrize("name", ["device", "view/lock.mdb"])
def test_every_byte_of_what_only_a_writer_reads_is_without_effect(small: Small, name: str) -> None:
    """Of LMDB's table of readers, which it makes anew, every seventh."""
    for _ in flips(small.store / name, step=7 if name.endswith("mdb") else 1):
        assert unnoticed(small, read_only=False)


@pytest.mark.parametrize("name", ["keys", "keys.copy"])
@pytest.mark.expect_log("the other copy is used")
def test_every_byte_of_the_key_slots_is_without_effect_while_the_copy_is_whole(small: Small, name: str) -> None:
    for _ in flips(small.store / name):
        assert KeySlots.load(small.store, mend=False).unlock(SECRET) == ROOT


def test_every_byte_of_the_key_slots_is_guarded_without_a_copy(small: Small) -> None:
    (small.store / "keys.copy").unlink()
    for _ in flips(small.store / "keys"):
        with pytest.raises(NOTICED):
            KeySlots.load(small.store, mend=False).unlock(SECRET)


def test_every_byte_of_the_view_is_caught_by_its_seal_before_lmdb_sees_it(small: Small) -> None:
    place = view_place(RealDisk(), small.store, keys(small))
    for offset in flips(small.store / "view" / "data.mdb"):
        with pytest.raises(ViewUnusableError, match="not what was written"):
            View.open(place, read_only=True)
        if offset % 500 == 0:
            assert unnoticed(small)


def keys(small: Small) -> KeyRing:
    chain = small.open(read_only=True)
    chain.close()
    return chain.keys


# -- exchanged, missing, old


def test_exchanged_segments_are_noticed(small: Small) -> None:
    first, second = segment_path(small.store, 1), segment_path(small.store, 2)
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    with pytest.raises(DamagedError):
        small.open()
    assert {d.segment for d in verify_log(small.store, ROOT, data=True).damage} == {1, 2}


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("view", ["view", "no view"])
def test_a_missing_segment_is_named(small: Small, number: int, view: str) -> None:
    segment_path(small.store, number).unlink()
    if view == "no view":
        shutil.rmtree(small.store / "view")
    with pytest.raises(DamagedError, match=f"segment {number} .*missing.*fsck --repair"):
        small.open()
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    assert [d.segment for d in report.damage] == [number]
    assert report.missing == [(1, 3) if number == 1 else (4, 6)]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("cut", ["inside a frame", "between frames"])
@pytest.mark.parametrize("view", ["view", "no view"])
def test_a_truncated_segment_is_noticed(small: Small, number: int, cut: str, view: str) -> None:
    path = segment_path(small.store, number)
    last = frames(small.store, number)[-1]
    if view == "no view":
        shutil.rmtree(small.store / "view")
    with path.open("r+b") as file:
        file.truncate(last.offset + (100 if cut == "inside a frame" else 0))
    with pytest.raises(DamagedError):
        small.open()
    report = verify_log(small.store, ROOT, data=False, heads=small.heads)
    if number == 2 and view == "no view" and cut == "between frames":
        # Nothing in the store tells it from the store as it was a batch ago: this machine's memory does.
        assert (report.damage, report.missing) == ([], [])
        with pytest.raises(RolledBackError, match="--accept-rollback"):
            report.require_sound()
    else:
        assert report.missing == [(last.head.sequence, last.head.sequence)]
        with pytest.raises(DamagedError, match="fsck --repair"):
            report.require_sound()


def test_an_older_copy_put_back_is_refused_and_can_be_accepted(small: Small, tmp_path: Path) -> None:
    older = small.at(tmp_path / "older")
    chain = small.open()
    chain.commit([])
    chain.close()
    shutil.rmtree(small.store)
    shutil.copytree(older.store, small.store)
    with pytest.raises(RolledBackError, match=r"seen batch 7 .* ends at 6 .*--accept-rollback"):
        small.open()
    report = verify_log(small.store, ROOT, data=True, heads=small.heads)
    assert not report.damage
    with pytest.raises(RolledBackError):
        report.require_sound()
    chain = small.open(accept_rollback=True)
    expect_content(chain, small)
    chain.commit([])
    chain.close()
    small.open().close()


def test_another_past_of_the_same_chain_is_refused(small: Small, tmp_path: Path) -> None:
    other = small.at(tmp_path / "other")
    for fork in (small, other):
        chain = fork.open()
        chain.commit([])
        chain.close()
    with pytest.raises(RolledBackError):
        other._replace(heads=small.heads).open()
    report = verify_log(other.store, ROOT, data=True, heads=small.heads)
    with pytest.raises(RolledBackError):
        report.require_sound()


# -- twins: without the check, a flip goes unnoticed


def open_unchecked(self: object, number: int, sealed: bytes, bound: bytes) -> bytes:
    """AES-256-GCM without comparing the tag."""
    stream = modes.CTR(number.to_bytes(12, "little") + b"\0\0\0\2")
    assert isinstance(self, Keyed)
    return Cipher(algorithms.AES(self.key), stream).decryptor().update(bytes(sealed)[:-TAG_SIZE])


class Keyed(aead._AesGcm):
    """Keeps its key, for the twin."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


def answers(small: Small) -> bool:
    """Whether all objects can still be read without an error, right or wrong."""
    chain = small.open(read_only=True)
    try:
        content(chain, small)
    except DamagedError:
        return False
    finally:
        chain.close()
    return True


def test_twin_without_the_seal_a_changed_block_is_read(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    path, at = body_of(small.store, 5, b"z")
    flip(path, at)
    assert not answers(small)
    monkeypatch.setitem(aead._SUITES, aead.AES_256_GCM, Keyed)
    monkeypatch.setattr(aead._AesGcm, "open", open_unchecked)
    assert answers(small)
    with pytest.raises(AssertionError):
        unnoticed(small)


def test_twin_without_event_hashes_verification_finds_no_changed_block(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, at = body_of(small.store, 5, b"z")
    flip(path, at)
    monkeypatch.setattr(walk_module, "event_hash", lambda _core, _body: Everything())
    assert verify_log(small.store, None, data=True).damage == []


class Everything(bytes):
    """Equal to all."""

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def test_twin_without_signatures_a_changed_one_is_believed(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    path, frame = place_of(small.store, 2)
    flip(path, frame.offset + frame.header.table_offset - 1)
    assert [d.why for d in verify_log(small.store, None, data=True).damage] != []
    for module in (signing, frame_module):
        monkeypatch.setattr(module, "verify_signature", lambda *_: None)
    assert verify_log(small.store, None, data=True).damage == []


def test_twin_without_claims_a_block_can_be_given_another_key(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(small.store / "view")
    path, frame = place_of(small.store, 3)  # in a sealed segment, whose blobs a rebuild does not read
    row = next(i for i, event in enumerate(frame.events) if event.key == key(b"x"))
    flip(path, frame.offset + frame.header.table_offset + row * EVENT_SIZE)
    with pytest.raises(DamagedError, match="claims"):
        small.open(read_only=True)
    monkeypatch.setattr(SetHash, "matches", lambda *_: True)
    with pytest.raises(AssertionError):
        unnoticed(small)


def test_twin_without_its_seal_a_changed_view_is_believed(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small.store / "view" / "data.mdb"
    flags = RECORD_SIZE - 17
    row = path.read_bytes().rindex(key(b"d")) + 16
    flip(path, row + flags, mask=1)  # a tombstone now
    assert unnoticed(small)
    seal = view_module._read_seal(view_place(RealDisk(), small.store, keys(small)))
    monkeypatch.setattr(view_module, "_hash_file", lambda _path: seal.hash)
    with pytest.raises(AssertionError):
        unnoticed(small)


def test_twin_without_a_remembered_head_an_older_copy_is_believed(small: Small, tmp_path: Path) -> None:
    older = small.at(tmp_path / "older")
    chain = small.open()
    chain.commit([])
    chain.close()
    older._replace(heads=small.heads)
    with pytest.raises(RolledBackError):
        older._replace(heads=small.heads).open()
    assert Chain.open(older.store, ROOT, read_only=True).head.sequence == 6


def test_a_tombstone_moved_to_the_other_lane_is_noticed(small: Small) -> None:
    """Else a rebuilt view would not take the object out of its sets."""
    chain = small.open()
    chain.close()
    path, frame = place_of(small.store, 4)
    row = frame.offset + frame.header.table_offset
    flip(path, row + CORE_SIZE - 2, mask=1)
    shutil.rmtree(small.store / "view")
    with pytest.raises(DamagedError):
        small.open(read_only=True)
