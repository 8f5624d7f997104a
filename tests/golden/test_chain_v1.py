"""Format version 1: what this program writes, and what it wrote when the version was fixed, read by another."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from atedb.crypto.aead import AES_256_GCM
from tests.golden.decoder import DecodedEvent, decode_chain, decode_journal

GOLDEN = Path(__file__).parent / "chain-v1"
SYNCED = Path(__file__).parent / "journal-v1"
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


def write_synced(store: Path) -> None:
    """The chain that lies in `journal-v1`, whose owner was killed; its journal is cut short."""
    chain = Chain.create(store, ROOT, suite=AES_256_GCM)
    keys = {name: chain.object_key(b"T", name) for name in KINDS}
    chain.commit([Change(keys[b"first"], Lane.META, b"committed")])
    chain.barrier()
    row = Term(b"G" * 16, b"M" * 16, b"value")
    assert chain.promise([Change(keys[b"first"], Lane.META, b"synced", terms=(row,))])
    assert chain.promise([
        Change(keys[b"second"], Lane.BLOB, b"compressible " * 400, compress=True),
        Change(keys[b"third"], Lane.META, b"epitaph", tombstone=True, terms=(row._replace(value=None),)),
    ])  # fmt: skip
    chain._log.trim()
    chain._release()
    os.truncate(store / "journal", 4 * 4096)


def expected_records(store: Path) -> list[list[object]]:
    chain = Chain.open(store, ROOT, read_only=True)
    first, second, third = (chain.object_key(b"T", name) for name in KINDS)
    chain.close()
    group, member = b"G" * 16, b"M" * 16
    return [
        [[first, 0, b"synced", False, False, [[group, member, b"value"]]]],
        [
            [second, 1, b"compressible " * 400, False, True, []],
            [third, 0, b"epitaph", True, False, [[group, member, None]]],
        ],
    ]


def test_an_independent_reader_reads_the_journal_that_is_written_today(tmp_path: Path) -> None:
    write_synced(tmp_path / "store")
    assert decode_journal(tmp_path / "store", ROOT) == expected_records(tmp_path / "store")


def test_an_independent_reader_reads_the_golden_journal(tmp_path: Path) -> None:
    shutil.copytree(SYNCED, tmp_path / "store")
    assert decode_journal(SYNCED, ROOT) == expected_records(tmp_path / "store")


def test_the_golden_journal_is_taken_over(tmp_path: Path) -> None:
    shutil.copytree(SYNCED, tmp_path / "store")
    chain = Chain.open(tmp_path / "store", ROOT)
    assert chain.load(chain.object_key(b"T", b"first")) == b"synced"
    assert chain.load(chain.object_key(b"T", b"second")) == b"compressible " * 400
    assert chain.load(chain.object_key(b"T", b"third")) is None
    assert chain.members(b"G" * 16) == {}
    assert chain.head.sequence == 2
    chain.close()
