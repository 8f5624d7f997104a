"""Exact counts per operation: appends, barriers, seals, opens and view reads. Speed, as a unit test."""

from __future__ import annotations

from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane
from tests.chain.conftest import ROOT, put


def counts(chain: Chain) -> tuple[int, int, int, int, int]:
    now = chain.counters
    return now.appends, now.barriers, now.seals, now.opens, now.view_reads


def spent(before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, int]:
    names = ("appends", "barriers", "seals", "opens", "view_reads")
    return {n: b - a for n, a, b in zip(names, before, after, strict=True) if a != b}


def test_a_commit_is_one_append_and_one_seal_for_each_event_and_the_claim(chain: Chain) -> None:
    before = counts(chain)
    chain.commit([put(chain, b"a", b"1"), put(chain, b"b", b"2")])
    assert spent(before, counts(chain)) == {"appends": 1, "seals": 3, "view_reads": 2}


def test_overwriting_what_was_just_written_asks_nothing_of_the_file(chain: Chain) -> None:
    chain.commit([put(chain, b"a", b"1")])
    before = counts(chain)
    chain.commit([put(chain, b"a", b"2")])
    assert spent(before, counts(chain)) == {"appends": 1, "seals": 2}


def test_a_barrier_is_one_and_none_when_all_is_durable(chain: Chain) -> None:
    chain.commit([put(chain, b"a", b"1")])
    before = counts(chain)
    chain.barrier()
    chain.barrier()
    assert spent(before, counts(chain)) == {"barriers": 1}


def test_a_cold_load_is_two_view_reads_and_one_open_and_the_next_of_its_batch_one_less(store: Path) -> None:
    chain = Chain.create(store, ROOT)
    chain.commit([put(chain, b"a", b"1"), put(chain, b"b", b"2")])
    chain.close()
    chain = Chain.open(store, ROOT)
    before = counts(chain)
    chain.load(chain.object_key(b"T", b"a"))
    assert spent(before, counts(chain)) == {"opens": 1, "view_reads": 2}
    before = counts(chain)
    chain.load(chain.object_key(b"T", b"b"))
    assert spent(before, counts(chain)) == {"opens": 1, "view_reads": 1}
    chain.close()


def test_what_is_not_there_costs_one_view_read_and_no_open(chain: Chain) -> None:
    before = counts(chain)
    assert chain.load(chain.object_key(b"T", b"none")) is None
    assert spent(before, counts(chain)) == {"view_reads": 1}


def test_a_small_event_adds_its_row_and_its_tag_and_no_more(chain: Chain) -> None:
    chain.commit([put(chain, b"a", b"")])  # brings the device's certificate
    before = chain.stored_bytes
    chain.commit([put(chain, b"a", bytes(100))])
    assert chain.stored_bytes - before == 100 + 16 + 68


def test_a_compressible_body_is_stored_small_and_a_random_one_as_it_is(chain: Chain) -> None:
    text, noise = b"the same words again " * 500, bytes(range(256)) * 1
    key = chain.object_key(b"T", b"a")
    before = chain.stored_bytes
    chain.commit([Change(key, Lane.BLOB, text, compress=True)])
    assert chain.stored_bytes - before < len(text) // 10
    before = chain.stored_bytes
    chain.commit([Change(key, Lane.BLOB, noise, compress=True)])
    assert chain.stored_bytes - before == len(noise) + 16 + 68
    assert chain.load(key) == noise
