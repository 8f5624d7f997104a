"""What was promised is there after a crash, comes into the next batch, and is not taken for what it is not."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atedb.chain import journal as journal_module
from atedb.chain.chain import Chain
from atedb.chain.disk import File, RealDisk, RealFile, RealThroughFile
from atedb.chain.event import Body, Change, Term
from atedb.chain.journal import ALIGNMENT, NAME, Journal
from atedb.chain.log import segment_path
from atedb.chain.position import Position
from atedb.chain.repair import repair
from atedb.chain.verify import verify_log
from atedb.errors import DamagedError, ReadOnlyError, RolledBackError
from atedb.testing.disk import FaultyDisk, PowerCut
from tests.chain.conftest import ROOT, crash, end, noise, put, term


def bodies(chain: Chain, *names: bytes) -> list[bytes | None]:
    return [chain.load(chain.object_key(b"T", name)) for name in names]


def promised(chain: Chain, *changes: Change) -> None:
    assert chain.promise(changes)


def begun(store: Path, **options: Any) -> Chain:
    """A chain with one durable batch."""
    chain = Chain.create(store, ROOT, **options)
    chain.commit([put(chain, b"a", b"first"), put(chain, b"b", b"first")])
    chain.barrier()
    return chain


def killed(store: Path) -> Position:
    """A chain with a batch and three promises, whose owner was killed; the batch."""
    chain = begun(store)
    promised(chain, put(chain, b"a", b"second"))
    promised(chain, end(chain, b"b"), put(chain, b"c", b"first"))
    promised(chain, put(chain, b"c", b"second"))
    state = chain._view.state
    crash(chain)
    return Position(state.sequence, state.head)


def test_what_was_promised_is_in_a_batch_after_a_kill(store: Path) -> None:
    before = killed(store)
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a", b"b", b"c") == [b"second", None, b"second"]
    assert chain.head.sequence == chain.durable == before.sequence + 1
    crash(chain)
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a", b"b", b"c") == [b"second", None, b"second"]
    assert again.head.sequence == before.sequence + 1
    again.close()


def test_without_a_look_into_the_journal_it_is_lost(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin."""
    killed(store)
    monkeypatch.setattr(Journal, "read", lambda *_: {})
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a", b"b", b"c") == [b"first", b"first", None]
    chain.close()


def test_what_is_opened_to_be_read_shows_it_and_writes_nothing(store: Path) -> None:
    killed(store)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    chain = Chain.open(store, ROOT, read_only=True)
    assert {change.body for change in chain.promised.values()} == {b"second", b""}
    assert not chain.promise([put(chain, b"d", b"x")])
    chain.close()
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path in before} == before


def test_sets_and_how_to_compress_are_kept_with_it(store: Path) -> None:
    chain = begun(store)
    row = term(chain, b"set", b"member", b"value")
    promised(chain, put(chain, b"d", b"body")._replace(terms=(row,), compress=True))
    crash(chain)
    again = Chain.open(store, ROOT)
    assert again.members(again.group_key(b"G", b"set")) == {row.member: b"value"}
    again.close()


def test_a_commit_ends_what_was_promised_before(store: Path) -> None:
    chain = begun(store)
    first = put(chain, b"a", b"second")
    promised(chain, first)
    chain.commit([first._replace(body=b"third")])
    chain.barrier()
    crash(chain)
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a") == [b"third"]
    assert again.head.sequence == 2
    promised(again, put(again, b"a", b"fourth"))
    crash(again)
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a") == [b"fourth"]
    chain.close()


def test_a_commit_that_lacks_what_was_promised_is_refused(store: Path) -> None:
    chain = begun(store)
    promised(chain, put(chain, b"a", b"second"))
    with pytest.raises(RuntimeError, match="lacks what was promised"):
        chain.commit([put(chain, b"b", b"second")])
    chain.commit([put(chain, b"a", b"second"), put(chain, b"b", b"second")])
    chain.close()


def test_nothing_is_promised_on_top_of_what_a_power_cut_could_take_back(store: Path) -> None:
    chain = begun(store)
    chain.commit([put(chain, b"a", b"second")])
    assert not chain.promise([put(chain, b"a", b"third")])
    chain.barrier()
    batch = chain.prepare([put(chain, b"a", b"third")])
    assert not chain.promise([put(chain, b"b", b"third")])
    chain.write(batch)
    chain.settle(batch)
    chain.close()


def test_a_chain_that_follows_a_server_promises_nothing(store: Path) -> None:
    chain = begun(store, remote=True)
    assert not chain.promise([put(chain, b"a", b"second")])
    assert not (store / NAME).exists()
    chain.close()


def test_what_is_too_much_or_finds_no_room_is_to_be_committed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SIZE", 4 * ALIGNMENT)
    chain = begun(store)
    assert not chain.promise([put(chain, b"a", noise(journal_module.MOST))])
    owed = [put(chain, b"a", noise(5000))]
    promised(chain, *owed)
    promised(chain, *owed)
    assert not chain.promise(owed)
    chain.commit(owed)
    assert not chain.promise(owed)
    chain.barrier()
    promised(chain, *owed)
    chain.commit(owed)
    chain.close()


def test_what_a_record_says_is_the_same_for_any_form_of_a_body(store: Path) -> None:
    chain = begun(store)
    forms: list[Body] = [b"abc", bytearray(b"abc"), memoryview(b"abc"), [b"a", memoryview(b"bc")]]
    for form in forms:
        promised(chain, put(chain, b"a", b"")._replace(body=form))
    names = [b"%d" % number for number in range(len(forms))]
    promised(chain, *(put(chain, name, b"")._replace(body=form) for name, form in zip(names, forms, strict=True)))
    crash(chain)
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a", *names) == [b"abc"] * 5
    again.close()


# Damage


def records(store: Path) -> list[int]:
    """The offsets of the records of `killed`."""
    return [0, ALIGNMENT, 2 * ALIGNMENT]


def flip(store: Path, at: int) -> None:
    data = bytearray((store / NAME).read_bytes())
    data[at] ^= 1
    (store / NAME).write_bytes(data)


def test_a_torn_last_record_was_never_acknowledged(store: Path) -> None:
    killed(store)
    flip(store, records(store)[2] + 100)
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a", b"b", b"c") == [b"second", None, b"first"]
    chain.close()


@pytest.mark.parametrize("record", [0, 1])
def test_damage_before_the_last_record_is_named_and_nothing_is_taken(store: Path, record: int) -> None:
    killed(store)
    flip(store, records(store)[record] + 100)
    with pytest.raises(DamagedError, match="what was synced last is damaged"):
        Chain.open(store, ROOT)


def test_every_byte_of_a_record_is_guarded(store: Path) -> None:
    base = killed(store)
    chain = Chain.open(store, ROOT, read_only=True)
    whole = list(chain.promised.values())
    disk = Memory(store / NAME)
    journal = Journal(disk, store, chain.keys)
    good = journal.read(base)
    assert list(good.values()) == whole
    for start in records(store):
        for at in range(start, start + 300):
            disk.data[at] ^= 1
            try:
                found = journal.read(base)
            except DamagedError:
                found = {}
            finally:
                disk.data[at] ^= 1
            torn = start == records(store)[2] and [c.body for c in found.values()] == [b"second", b"", b"first"]
            assert found in ({}, good) or torn, at
    chain.close()


class Memory(RealDisk):
    """The journal in memory."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes()[: 4 * ALIGNMENT])

    def open(self, path: Path, *, writable: bool = False) -> File:
        data = self.data

        class Bytes(RealFile):
            def read(self, length: int, offset: int) -> bytearray:
                return data[offset : offset + length]

        return Bytes(path, os.O_RDONLY)


def test_records_of_another_batch_of_another_chain_or_in_another_place_are_none(store: Path, tmp_path: Path) -> None:
    base = killed(store)
    other = killed(tmp_path / "other")
    mine, theirs = store / NAME, tmp_path / "other" / NAME
    chain = Chain.open(store, ROOT, read_only=True)
    journal = Journal(RealDisk(), store, chain.keys)
    assert journal.read(base)
    assert journal.read(base._replace(sequence=2)) == journal.read(base._replace(hash=bytes(32))) == {}
    good = mine.read_bytes()
    mine.write_bytes(theirs.read_bytes())
    assert journal.read(base) == journal.read(other) == {}
    mine.write_bytes(good[ALIGNMENT:])
    with pytest.raises(DamagedError, match="after 0 records"):
        journal.read(base)
    mine.write_bytes(b"")
    assert journal.read(base) == {}
    chain.close()


def test_repair_takes_what_is_before_the_damage_and_keeps_the_rest_as_it_was(store: Path) -> None:
    killed(store)
    flip(store, records(store)[1] + 100)
    damaged = (store / NAME).read_bytes()
    report = repair(store, ROOT)
    assert "the journal was damaged" in report.remarks[-1]
    (kept,) = store.glob("damaged-*")
    assert (kept / NAME).read_bytes() == damaged
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a", b"b", b"c") == [b"second", b"first", None]
    chain.close()


def test_repair_leaves_a_sound_journal_to_the_next_opening(store: Path) -> None:
    killed(store)
    report = repair(store, ROOT)
    assert not any("journal" in remark for remark in report.remarks)
    assert not list(store.glob("damaged-*"))
    chain = Chain.open(store, ROOT)
    assert bodies(chain, b"a", b"b", b"c") == [b"second", None, b"second"]
    chain.close()


def test_where_the_log_is_damaged_what_was_promised_is_salvaged(store: Path) -> None:
    chain = begun(store)
    at = chain._log.end
    chain.commit([put(chain, b"d", b"lost")])
    chain.commit([put(chain, b"e", b"kept")])
    chain.barrier()
    promised(chain, put(chain, b"a", b"second"))
    crash(chain)
    damage_log(store, at)
    with pytest.raises(DamagedError, match="batch 2 was acknowledged"):
        Chain.open(store, ROOT)
    report = repair(store, ROOT)
    assert report.found
    assert not (store / NAME).exists()
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a", b"b", b"e") == [b"second", b"first", b"kept"]
    again.close()


def damage_log(store: Path, at: int) -> None:
    path = segment_path(store, 1)
    data = bytearray(path.read_bytes())
    data[at + 200] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [True, False])
def test_a_batch_on_which_something_was_promised_is_no_torn_tail(
    store: Path, expect_log: Callable[[str], None], damage: bool
) -> None:
    """And without the journal nobody knows."""
    chain = begun(store)
    at = chain._log.end
    chain.commit([put(chain, b"d", b"synced")])
    chain.barrier()
    promised(chain, put(chain, b"a", b"second"))
    crash(chain)
    if damage:
        damage_log(store, at)
    else:
        os.truncate(segment_path(store, 1), at)
    with pytest.raises(DamagedError if damage else RolledBackError):
        Chain.open(store, ROOT)
    report = verify_log(store, ROOT, data=False)
    assert bool(report.damage) == damage
    assert bool(report.rolled_back) != damage
    if damage:
        expect_log("torn tail")
    (store / NAME).unlink()
    Chain.open(store, ROOT).close()


def test_who_accepts_an_older_log_is_not_asked_again(store: Path) -> None:
    chain = begun(store)
    at = chain._log.end
    chain.commit([put(chain, b"d", b"synced")])
    chain.barrier()
    promised(chain, put(chain, b"a", b"second"))
    crash(chain)
    os.truncate(segment_path(store, 1), at)
    Chain.open(store, ROOT, accept_rollback=True).close()
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a", b"d") == [b"first", None]
    again.close()


# The disk


@pytest.mark.expect_log("there is no journal from now on")
def test_a_journal_that_cannot_be_written_costs_time_only(store: Path, tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, failure=errno.EIO)
    chain = begun(store, disk=disk)
    promised(chain, put(chain, b"a", b"second"))
    disk.fail_at = disk.steps + 1
    owed = [put(chain, b"a", b"third")]
    assert not chain.promise(owed)
    assert not chain.promise(owed)
    chain.commit(owed)
    chain.barrier()
    crash(chain)
    again = Chain.open(store, ROOT)
    assert bodies(again, b"a") == [b"third"]
    again.close()


@pytest.mark.expect_log("there is no journal from now on")
def test_where_there_is_no_room_for_a_journal_there_is_none(store: Path, tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path, failure=errno.ENOSPC)
    chain = begun(store, disk=disk)
    disk.fail_at = disk.steps + 1
    assert not chain.promise([put(chain, b"a", b"second")])
    chain.commit([put(chain, b"a", b"second")])
    chain.close()


def test_the_power_fails_at_any_step_of_taking_it_over(tmp_path: Path) -> None:
    chance = random.Random(1)
    step, cut = 0, True
    while cut:
        step += 1
        world, found = tmp_path / f"world{step}", tmp_path / f"found{step}"
        killed(world / "store")
        found.mkdir()
        disk = FaultyDisk(world)
        disk.cut_at = step
        try:
            Chain.open(world / "store", ROOT, disk=disk).close()
            cut = False
        except PowerCut:
            pass
        disk.survivors(found, chance)
        again = Chain.open(found / "store", ROOT)
        assert bodies(again, b"a", b"b", b"c") == [b"second", None, b"second"], step
        again.close()
    assert step > 5


def no_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str, flags: int, *more: Any, **words: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *more, **words)

    monkeypatch.setattr(os, "open", refusing)


def no_dsync(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def refusing(fd: int, buffers: Any, offset: int, *flags: int) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", refusing)


@pytest.mark.parametrize("lacking", [no_direct, no_dsync])
def test_where_the_page_cache_cannot_be_passed_a_barrier_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: Callable[[pytest.MonkeyPatch], None]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * ALIGNMENT))
    barriers: list[int] = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        barriers.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    lacking(monkeypatch)
    file = RealThroughFile(path)
    file.write(memoryview(b"x" * ALIGNMENT), ALIGNMENT)
    file.close()
    assert path.read_bytes() == bytes(ALIGNMENT) + b"x" * ALIGNMENT
    assert len(barriers) == 1


def test_a_closed_chain_promises_nothing_more(store: Path) -> None:
    chain = begun(store)
    chain.close()
    reader = Chain.open(store, ROOT, read_only=True)
    with pytest.raises(ReadOnlyError):
        reader.commit([])
    assert not reader.promise([])
    reader.close()


def test_terms_come_back_as_terms(store: Path) -> None:
    chain = begun(store)
    row = term(chain, b"set", b"member", None)
    promised(chain, put(chain, b"d", b"body")._replace(terms=(row,)))
    crash(chain)
    reader = Chain.open(store, ROOT, read_only=True)
    (change,) = reader.promised.values()
    assert isinstance(change.terms[0], Term)
    assert change.terms == (row,)
    reader.close()
