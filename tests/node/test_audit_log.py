"""The audit log of an account: what its owner reads, what a crash leaves, and how a lying server is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from atedb.account.audit import BEGINNING, AuditEntry, Mark, What, after, marks, open_entry, seal_entry
from atedb.account.client import Audit
from atedb.account.root import AccountRoot
from atedb.errors import DamagedError, RolledBackError
from atedb.net.errors import RefusedError
from atedb.node import audit_log
from atedb.node.audit_log import AuditLog
from tests.engine.frames import Author
from tests.node.account_world import ANNA, BEN, OTHER, Person, World, in_world

ENTRIES = [bytes([number]) * (40 + number) for number in range(1, 9)]


def written(path: Path, *entries: bytes) -> AuditLog:
    log = AuditLog(path)
    for sealed in entries:
        log.append(sealed)
    return log


def read(log: AuditLog, number: int = 0, most: int = 120) -> list[bytes]:
    found: list[bytes] = []
    start = log.read(number, most).start
    while True:
        page = log.read(number, most)
        assert page.start == start
        found += page.entries
        for start in marks(page.start, page.entries):
            number = start.number
        if not page.more:
            assert number >= log.end.number
            return found


def test_entries_are_read_back_in_parts_and_after_a_restart(tmp_path: Path) -> None:
    log = written(tmp_path / "log", *ENTRIES)
    again = AuditLog(tmp_path / "log")
    assert again.end == log.end == list(marks(BEGINNING, ENTRIES))[-1]
    for number in range(len(ENTRIES) + 2):
        assert read(again, number) == ENTRIES[number:]


def test_an_old_log_gives_way_to_a_new_one_that_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MAX_BYTES", 200)
    log = written(tmp_path / "log", *ENTRIES)
    kept = read(log)
    assert ENTRIES[-len(kept) :] == kept
    assert 2 <= len(kept) < len(ENTRIES)
    assert log.read(0, 1000).start == list(marks(BEGINNING, ENTRIES))[-len(kept) - 1]
    assert AuditLog(tmp_path / "log").end == log.end
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500


@pytest.mark.parametrize("left", range(len(ENTRIES[4]) + 5))
def test_what_a_crash_has_torn_off_is_cut_and_the_rest_goes_on(tmp_path: Path, left: int) -> None:
    path = tmp_path / "log"
    written(path, *ENTRIES[:4])
    size = path.stat().st_size
    written(path, ENTRIES[4])
    with path.open("r+b") as file:
        file.truncate(size + left)
    log = AuditLog(path)
    there = read(log)
    assert there == ENTRIES[: 5 if left == len(ENTRIES[4]) + 4 else 4]
    log.append(b"e")  # shorter than what was torn
    assert read(AuditLog(path)) == [*there, b"e"]


def test_a_crash_between_two_files_leaves_every_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MAX_BYTES", 200)
    log = written(tmp_path / "log", *ENTRIES[:3])
    (tmp_path / "log.older").write_bytes((tmp_path / "log").read_bytes())
    assert read(AuditLog(tmp_path / "log")) == read(log)


def test_a_file_that_is_no_log_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"something else" * 10)
    with pytest.raises(DamagedError, match="it is kept"):
        AuditLog(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == b"something else" * 10


def test_an_entry_is_for_its_owner_alone() -> None:
    anna, other = AccountRoot(b"a" * 32), AccountRoot(b"o" * 32)
    entry = AuditEntry(17, What.LOGGED_IN, "0123456789ab", "192.0.2.1")
    sealed = seal_entry(entry, anna.card(ANNA))
    assert open_entry(sealed, anna.kem(), ANNA) == entry
    for key, email in ((other.kem(), ANNA), (anna.kem(), BEN)):
        with pytest.raises(DamagedError, match="not made for this account"):
            open_entry(sealed, key, email)
    assert b"0123456789ab" not in sealed


async def look(world: World, anna: Person, seen: Mark = BEGINNING) -> Audit:
    async with world.client(anna.identity) as client:
        return await client.audit(ANNA, anna.enrolment.entry.root, seen)


def test_the_owner_reads_what_has_happened_and_nobody_else_does(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        with pytest.raises(RefusedError):
            await world.log_in(anna, OTHER, address="198.51.100.66")
        token, new = world.token(f"/{ANNA}/vault")
        async with world.client(anna.identity) as client:
            await client.make_token(new)
            await client.sudo(anna.code())
            await client.invite(BEN)
        async with world.connected(token.identity, "198.51.100.7") as connection:
            for _ in range(3):
                with pytest.raises(RefusedError):
                    await connection.open(f"/{ANNA}/other", create=Author().files)
        async with world.client(token.identity) as client:
            with pytest.raises(RefusedError, match="a token may not"):
                await client.audit(ANNA, anna.enrolment.entry.root, BEGINNING)
        async with world.client(anna.identity) as client:
            await client.revoke(token.id)
        found = await look(world, anna)
        assert [(one.what, one.about) for one in found.entries] == [
            (What.REGISTERED, anna.enrolment.entry.token.id),
            (What.LOGIN_REFUSED, ""),
            (What.TOKEN_MADE, token.id),
            (What.SECOND_FACTOR, anna.enrolment.entry.token.id),
            (What.INVITED, BEN),
            (What.CHAIN_REFUSED, f"/{ANNA}/other, token {token.id}"),
            (What.TOKEN_REVOKED, token.id),
        ]
        assert [one.address for one in found.entries if one.what is What.LOGIN_REFUSED] == ["198.51.100.66"]
        world.start()
        assert await look(world, anna, found.last) == found

    in_world(tmp_path, body)


def _taken_away(path: Path) -> None:
    log = AuditLog(path)
    entries = log.read(0, 1 << 20).entries
    path.unlink()
    written(path, *entries[:-1])


def _altered(path: Path) -> None:
    entries = AuditLog(path).read(0, 1 << 20).entries
    path.unlink()
    written(path, entries[0], entries[2], entries[1], *entries[3:])


def _replaced(path: Path) -> None:
    entries = AuditLog(path).read(0, 1 << 20).entries
    path.unlink()
    written(path, *entries[1:], entries[1], entries[1])


@pytest.mark.parametrize("lie", [_taken_away, _altered, _replaced], ids=lambda one: one.__name__[1:])
@pytest.mark.parametrize("remembers", [True, False], ids=["remembering", "twin-forgetting"])
def test_a_server_that_takes_away_or_alters_what_was_shown_is_found_out(
    tmp_path: Path, lie: object, remembers: bool
) -> None:
    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        for _ in range(3):
            await world.log_in(anna)
        seen = (await look(world, anna)).last
        assert callable(lie)
        lie(tmp_path / "audit" / f"{ANNA}.log")
        world.start()
        if remembers:
            with pytest.raises(RolledBackError, match="has not what it showed before"):
                await look(world, anna, seen)
        else:
            await look(world, anna)

    in_world(tmp_path, body)


def test_a_long_log_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atedb.node.members.AUDIT_BYTES", 3000)

    async def body(world: World) -> None:
        anna = await world.register(ANNA)
        for _ in range(7):
            await world.log_in(anna)
        found = await look(world, anna)
        assert (len(found.entries), found.first, found.last.number) == (8, BEGINNING, 8)
        with pytest.raises(RolledBackError):
            await look(world, anna, after(BEGINNING, b"another"))

    in_world(tmp_path, body)
