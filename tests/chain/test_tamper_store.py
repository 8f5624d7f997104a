"""A store with something missing, stale, foreign or too new: refused by name, or mended without loss."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.header import ChainHeader, load_header
from atedb.chain.inspect import read_info
from atedb.chain.verify import verify_log
from atedb.crypto.keys import root_signing_key
from atedb.errors import DamagedError, InUseError, ReadOnlyError, StoreNotFoundError, UnsupportedError
from tests.chain.conftest import ROOT, crash
from tests.chain.small import Small, build, expect_content, flip, listed, put, tree


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """The small chain."""
    return build(tmp_path)


def expect_mended(small: Small, file: str) -> None:
    """Opening the chain brings `file` back, and nothing is lost."""
    chain = small.open()
    expect_content(chain, small)
    chain.commit([])
    chain.close()
    assert (small.store / file).exists()
    assert verify_log(small.store, ROOT, data=True, heads=small.heads).remarks == []


# -- the manifest


@pytest.mark.expect_log("manifest is made anew from the segments: the manifest is missing")
def test_a_missing_manifest_is_made_anew(small: Small) -> None:
    (small.store / "manifest").unlink()
    report = verify_log(small.store, ROOT, data=True)
    assert report.damage == []
    assert "the manifest is missing" in report.remarks[0]
    assert read_info(small.store).sealed_sequence is None
    expect_mended(small, "manifest")


@pytest.mark.expect_log("manifest is made anew from the segments: the manifest is not what was written")
def test_a_damaged_manifest_is_made_anew(small: Small) -> None:
    flip(small.store / "manifest", 30)
    assert verify_log(small.store, ROOT, data=True).damage == []
    expect_mended(small, "manifest")


def test_an_older_manifest_is_replaced(small: Small) -> None:
    path = small.store / "manifest"
    old = Chain.create(small.store.parent / "other", ROOT, header=load_header(RealDisk(), small.store))
    crash(old)
    shutil.copy(old.store / "manifest", path)  # the chain's own, when it had one segment
    report = verify_log(small.store, ROOT, data=True)
    assert report.damage == []
    assert "older than the segments" in report.remarks[0]
    expect_mended(small, "manifest")


# -- the view


def test_a_missing_view_is_rebuilt(small: Small) -> None:
    shutil.rmtree(small.store / "view")
    expect_mended(small, "view/data.mdb")


def test_a_view_without_its_seal_is_rebuilt(small: Small) -> None:
    (small.store / "view.seal").unlink()
    expect_mended(small, "view.seal")


def test_a_damaged_view_is_rebuilt(small: Small) -> None:
    flip(small.store / "view" / "data.mdb", 20_000)
    report = verify_log(small.store, ROOT, data=True)
    assert report.damage == []
    assert "the view is rebuilt" in report.remarks[0]
    expect_mended(small, "view/data.mdb")


@pytest.mark.parametrize("parts", [("view", "view.seal"), ("view",), ("view.seal",)])
def test_a_stale_view_is_brought_up_to_date_or_rebuilt(small: Small, tmp_path: Path, parts: tuple[str, ...]) -> None:
    older = small.at(tmp_path / "older")
    chain = small.open()
    chain.commit([put(b"a", listed(b"a", b"3"))])
    chain.close()
    small.objects[b"a"] = listed(b"a", b"3")
    small.members[b"a".ljust(16)] = b"3"
    for part in parts:
        if part == "view":
            shutil.rmtree(small.store / part)
            shutil.copytree(older.store / part, small.store / part)
        else:
            shutil.copy(older.store / part, small.store / part)
    expect_mended(small, "view.seal")


def test_a_view_that_is_ahead_of_its_log_is_damage(small: Small, tmp_path: Path) -> None:
    older = small.at(tmp_path / "older")
    chain = small.open()
    chain.commit([put(b"a", b"newer")])
    chain.close()
    shutil.rmtree(small.store / "segments")
    shutil.copytree(older.store / "segments", small.store / "segments")
    with pytest.raises(DamagedError, match=r"segment 2 .*batch 7 ended at"):
        Chain.open(small.store, ROOT)
    report = verify_log(small.store, ROOT, data=True)
    assert report.missing == [(7, 7)]


# -- the device


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: flip(path, 40), lambda path: path.write_bytes(b"")])
def test_without_its_device_file_a_store_gets_a_new_device(small: Small, harm: Callable[[Path], object]) -> None:
    harm(small.store / "device")
    expect_mended(small, "device")
    chain = small.open()
    chain.commit([put(b"d", b"by the new device")])
    chain.close()
    chain = small.open(read_only=True)
    assert chain.load(b"d".ljust(16, b".")) == b"by the new device"
    chain.close()


# -- the header


def with_header(small: Small, **changes: object) -> None:
    """Write a header that differs, signed as it should be."""
    header = msgspec.structs.replace(load_header(RealDisk(), small.store), **changes)
    key = root_signing_key(ROOT, bytes.fromhex(header.salt))
    header = msgspec.structs.replace(header, proof=key.sign(header.signed()).hex())
    (small.store / "chain").write_bytes(msgspec.json.encode(header))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "the store has format 2, this program reads format 1"),
        ({"suite": "rot13"}, "'rot13'.*it knows aes-256-gcm, xchacha20-poly1305"),
        ({"hash": "sha3-256"}, "'sha3-256'.*it knows blake3"),
        ({"signature": "ml-dsa-65"}, "'ml-dsa-65'.*it knows ed25519"),
    ],
)
def test_what_is_not_known_is_refused_by_name(small: Small, changes: dict[str, object], named: str) -> None:
    with_header(small, **changes)
    before = tree(small.store)
    for attempt in (small.open, lambda: verify_log(small.store, ROOT, data=True)):
        with pytest.raises(UnsupportedError, match=f"{named}.*nothing was changed; use a newer version"):
            attempt()
    assert tree(small.store) == before


def test_a_newer_header_is_refused_by_its_format_whatever_else_it_has(small: Small) -> None:
    (small.store / "chain").write_bytes(b'{"format": 3, "algorithms": ["x", "y"]}')
    with pytest.raises(UnsupportedError, match="format 3"):
        small.open()


@pytest.mark.expect_log("the manifest is another chain's")
def test_the_header_of_another_chain_is_refused(small: Small, tmp_path: Path) -> None:
    other = build(tmp_path / "other")
    shutil.copy(other.store / "chain", small.store / "chain")
    with pytest.raises(DamagedError):
        small.open()


def test_another_root_key_is_refused(small: Small) -> None:
    with pytest.raises(DamagedError, match="different chains"):
        Chain.open(small.store, bytes(32))


def test_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    for attempt in (lambda: Chain.open(tmp_path, ROOT), lambda: read_info(tmp_path)):
        with pytest.raises(StoreNotFoundError, match="atefs init"):
            attempt()


# -- the lock, and reading only


def test_a_store_in_use_names_the_process(small: Small) -> None:
    read, write = os.pipe()
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        small.open()
        os.write(done, b"1")
        os.read(read, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(InUseError, match=f"process {child} on .*atefs status"):
            small.open()
        with pytest.raises(InUseError):
            small.open(read_only=True)
        assert (read_info(small.store).in_use or "").startswith(f"process {child} on ")
        assert verify_log(small.store, ROOT, data=True).damage == []
    finally:
        os.write(write, b"1")
        os.waitpid(child, 0)
        for descriptor in (read, write, ready, done):
            os.close(descriptor)
    assert read_info(small.store).in_use is None
    small.open().close()


@pytest.mark.parametrize("harm", ["none", "view", "view.seal", "device"])
def test_a_read_only_open_writes_nothing(small: Small, harm: str) -> None:
    path = small.store / harm
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    before = tree(small.store.parent)
    chain = small.open(read_only=True)
    expect_content(chain, small)
    with pytest.raises(ReadOnlyError):
        chain.commit([])
    chain.close()
    assert tree(small.store.parent) == before


def test_twin_an_open_for_writing_does_write(small: Small) -> None:
    before = tree(small.store.parent)
    small.open().close()
    assert tree(small.store.parent) != before


def test_info_needs_no_secret_and_writes_nothing(small: Small) -> None:
    before = tree(small.store.parent)
    info = read_info(small.store)
    header = load_header(RealDisk(), small.store)
    assert isinstance(header, ChainHeader)
    assert (info.format, info.chain, info.created) == (1, header.chain_id.hex(), header.created)
    assert (info.suite, info.hash, info.signature) == (header.suite, "blake3", "ed25519")
    assert (info.segments, info.sealed_sequence, info.in_use) == (2, 3, None)
    assert info.bytes == sum(p.stat().st_size for p in (small.store / "segments").iterdir())
    assert msgspec.json.decode(msgspec.json.encode(info))["view_bytes"] > 0
    assert tree(small.store.parent) == before
