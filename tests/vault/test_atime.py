"""Access times are noted by the rules of man 8 mount, and never at the cost of an error."""

from __future__ import annotations

import pytest

from atefs.vault.atime import DAY, TICK, AtimePolicy, AtimeRule
from atefs.vault.inode import Attributes
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench

STRICT = AtimePolicy(AtimeRule.STRICTATIME, AtimeRule.STRICTATIME)
NEVER = AtimePolicy(AtimeRule.NOATIME, AtimeRule.NOATIME)


def with_policy(bench: Bench, policy: AtimePolicy, *, read_only: bool = False) -> Vault:
    bench.vault.commit()
    bench.vault = Vault(bench.chain, bench.clock, read_only, atime=policy)
    return bench.vault


def test_relatime_notes_the_first_access_after_a_change_and_one_a_day(quick: Bench) -> None:
    vault, file = quick.vault, quick.file(data=b"x")
    quick.committed()
    assert vault.note_access(file)
    assert vault.getattr(file).atime == quick.now
    quick.now += TICK
    assert vault.note_access(file)
    assert vault.getattr(file).atime == quick.now
    quick.committed()
    stamp = vault.getattr(file).stamp
    assert not vault.note_access(file)
    assert vault.getattr(file).stamp == stamp
    assert quick.committed() == []
    vault.write(file, 0, b"y")
    assert vault.note_access(file)
    quick.now += TICK
    vault.setattr(file, Attributes(mode=0o600))
    quick.now += TICK
    assert vault.note_access(file)
    assert not vault.note_access(file)
    quick.now += DAY
    assert vault.note_access(file)


def test_strictatime_notes_each_and_noatime_none(quick: Bench) -> None:
    file, folder = quick.file(data=b"x"), quick.folder()
    vault = with_policy(quick, STRICT)
    assert vault.notes_every_read
    for ino in (file, file, folder, folder):
        assert vault.note_access(ino)
        assert vault.getattr(ino).atime == quick.now
    vault = with_policy(quick, NEVER)
    assert not any(vault.note_access(ino) for ino in (file, folder))
    vault = with_policy(quick, AtimePolicy(directories=AtimeRule.NOATIME))
    vault.write(file, 0, b"y")
    vault.mkdir(folder, b"inner", 0o755, ME)
    assert vault.note_access(file)
    assert not vault.note_access(folder)


def test_an_access_time_outlives_a_remount_and_changes_nothing_else(bench: Bench) -> None:
    vault, small, large = bench.vault, bench.file(data=b"x" * 100), bench.file(b"g", b"y" * 300_000)
    link, folder = vault.symlink(1, b"l", b"target", ME).ino, bench.folder()
    bench.committed()
    vault = bench.reopen()
    noted = {ino: (vault.note_access(ino), bench.now)[1] for ino in (small, large, link, folder)}
    bench.committed()
    vault = bench.reopen()
    assert {ino: vault.getattr(ino).atime for ino in noted} == noted
    assert vault.read(small, 0, 200) == b"x" * 100
    assert vault.read(large, 299_999, 10) == b"y"
    assert vault.readlink(link) == b"target"


def test_where_nothing_may_be_written_it_stays_and_nothing_fails(quick: Bench) -> None:
    file = quick.file(data=b"x")
    old = quick.vault.getattr(file).atime
    vault = with_policy(quick, STRICT, read_only=True)
    assert not vault.note_access(file)
    assert vault.getattr(file).atime == old


def test_where_there_is_no_room_it_stays_and_nothing_fails(quick: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = quick.file(data=b"x")
    quick.committed()
    monkeypatch.setattr(quick.chain, "free_bytes", lambda: 0)
    old = quick.vault.getattr(file).atime
    assert not quick.vault.note_access(file)
    assert quick.vault.getattr(file).atime == old
