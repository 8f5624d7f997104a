"""Format version 1: what this program writes, and what it wrote when the version was fixed, read by another."""

from __future__ import annotations

import shutil
from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane
from atedb.crypto.aead import AES_256_GCM
from tests.golden.decoder import DecodedEvent, decode_chain

GOLDEN = Path(__file__).parent / "chain-v1"
ROOT = bytes(range(32))
KINDS = {b"first": Lane.META, b"second": Lane.BLOB, b"third": Lane.META}


def write_chain(store: Path) -> None:
    """The chain that lies in `chain-v1`; run by hand, once for each version of the format: see CONTRIBUTING.md."""
    chain = Chain.create(store, ROOT, suite=AES_256_GCM)
    keys = {name: chain.object_key(b"T", name) for name in KINDS}
    chain.commit([Change(keys[name], lane, b"version one of " + name) for name, lane in KINDS.items()])
    chain.barrier()
    chain.commit([Change(keys[b"second"], Lane.BLOB, b"compressible " * 100, compress=True)])
    chain.commit([Change(keys[b"third"], Lane.META, b"epitaph", tombstone=True)])
    chain.close()


def expected(store: Path) -> list[DecodedEvent]:
    chain = Chain.open(store, ROOT)
    first, second, third = (chain.object_key(b"T", name) for name in KINDS)
    chain.close()
    return [
        DecodedEvent(1, first, 1, 0, False, b"version one of first"),
        DecodedEvent(1, second, 1, 1, False, b"version one of second"),
        DecodedEvent(1, third, 1, 0, False, b"version one of third"),
        DecodedEvent(2, second, 2, 1, False, b"compressible " * 100),
        DecodedEvent(3, third, 2, 0, True, b"epitaph"),
    ]


def test_an_independent_reader_reads_what_is_written_today(tmp_path: Path) -> None:
    write_chain(tmp_path / "store")
    assert decode_chain(tmp_path / "store", ROOT) == expected(tmp_path / "store")


def test_an_independent_reader_reads_the_golden_chain(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    assert decode_chain(GOLDEN, ROOT) == expected(tmp_path / "store")


def test_the_golden_chain_opens_and_answers(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "store")
    chain = Chain.open(tmp_path / "store", ROOT)
    assert chain.load(chain.object_key(b"T", b"first")) == b"version one of first"
    assert chain.load(chain.object_key(b"T", b"second")) == b"compressible " * 100
    assert chain.load(chain.object_key(b"T", b"third")) is None
    assert chain.commit([Change(chain.object_key(b"T", b"new"), Lane.META, b"goes on")]) == 4
    chain.close()
