"""`kill -9` of the driver under programs that were told that their work is safe: SQLite and git find all of it."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, atefs, run

pytestmark = pytest.mark.needs("fuse")

journals = pytest.mark.parametrize("journal", ["DELETE", "WAL"])


def killed_at_work(vault: Mounted, writer: Sequence[str | Path], enough: int) -> list[str]:
    """Kill the driver once the writer has acknowledged so much, and mount anew; every line that it said."""
    with subprocess.Popen(writer, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if len(said) == enough:
                vault.kill()
        complaint = process.stderr.read()
    assert len(said) >= enough, f"the writer ended by itself after {len(said)}:\n{complaint}"
    vault.mount()
    return said


def sound(vault: Mounted) -> None:
    vault.umount()
    assert "Nothing is wrong." in atefs("fsck", "--passphrase-file", vault.passphrase_file, vault.path).stdout


# SQLite

TRANSACTIONS = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("PRAGMA journal_mode=" + sys.argv[2])
base.execute("PRAGMA synchronous=EXTRA")
base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, content BLOB)")
base.execute("CREATE TABLE IF NOT EXISTS newest (one INTEGER PRIMARY KEY, n INTEGER)")
(first,) = base.execute("SELECT coalesce(max(n), 0) + 1 FROM t").fetchone()
for n in range(first, first + 100_000):
    base.execute("BEGIN")
    base.execute("INSERT INTO t VALUES (?, randomblob(3000))", (n,))
    base.execute("UPDATE t SET content = randomblob(2000) WHERE n = ?", (max(1, n - 7),))
    base.execute("INSERT OR REPLACE INTO newest VALUES (1, ?)", (n,))
    base.execute("COMMIT")
    print(n, flush=True)
"""


def check_base(base: Path, acknowledged: int) -> None:
    """Whole transactions, none missing, and none that was acknowledged is lost."""
    with closing(sqlite3.connect(base)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        newest, number = connection.execute("SELECT max(n), count(n) FROM t").fetchone()
        assert connection.execute("SELECT n FROM newest").fetchone() == (newest,)
    assert number == newest, "a transaction of the middle is missing"
    assert newest >= acknowledged, "an acknowledged transaction is lost"


def transactions(vault: Mounted, journal: str, rounds: int) -> None:
    chance = random.Random(rounds)
    base = vault / "base.db"
    for _ in range(rounds):
        said = killed_at_work(vault, [sys.executable, "-c", TRANSACTIONS, base, journal], chance.randint(1, 60))
        check_base(base, int(said[-1]))
    sound(vault)


@journals
def test_sqlite_keeps_what_it_committed_when_the_driver_is_killed(vault: Mounted, journal: str) -> None:
    """Also: the mount that the killed driver leaves is cleared away by the next `atefs mount`, without fsck."""
    transactions(vault, journal, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
@journals
def test_sqlite_keeps_what_it_committed_through_thirty_kills(vault: Mounted, journal: str) -> None:
    transactions(vault, journal, 30)


def test_the_check_finds_a_lost_transaction(vault: Mounted) -> None:
    """The negative twin: with an acknowledgement that never was, the check fails."""
    base = vault / "base.db"
    said = killed_at_work(vault, [sys.executable, "-c", TRANSACTIONS, base, "WAL"], 5)
    with pytest.raises(AssertionError, match="is lost"):
        check_base(base, int(said[-1]) + 100)


# git

COMMITS = """
import os, subprocess, sys
where = sys.argv[1]
def git(*words):
    return subprocess.run(["git", "-C", where, *words], check=True, capture_output=True, text=True).stdout.strip()
if not os.path.exists(where):
    subprocess.run(["git", "init", "-q", "-b", "main", where], check=True)
    for setting in ("core.fsync=all", "core.fsyncMethod=fsync", "gc.auto=60", "gc.autoDetach=false",
                    "user.name=a", "user.email=a@b"):
        git("config", *setting.split("="))
refs = os.open(os.path.join(where, ".git/refs/heads"), os.O_RDONLY)
for number in range(100_000):
    for name in ("a", "b", "c"):
        with open(os.path.join(where, name), "wb") as file:
            file.write(os.urandom(3000))
    git("add", ".")
    git("commit", "-qm", "next")
    os.fsync(refs)  # git syncs the new value of a ref, not the rename that puts it in place
    print(git("rev-parse", "HEAD"), flush=True)
"""


def check_repository(where: Path, acknowledged: Sequence[str]) -> None:
    """Sound, and every acknowledged commit is in its history."""
    for lock in (where / ".git").rglob("*.lock"):  # of the git that was at work; it says to remove them
        lock.unlink()
    run("git", "-C", where, "fsck", "--full", "--strict")
    run("git", "-C", where, "status")
    history = set(run("git", "-C", where, "rev-list", "HEAD").stdout.split())
    assert history.issuperset(acknowledged), "an acknowledged commit is lost"


def commits(vault: Mounted, rounds: int) -> None:
    chance = random.Random(rounds)
    where = vault / "repository"
    for _ in range(rounds):
        said = killed_at_work(vault, [sys.executable, "-c", COMMITS, where], chance.randint(1, 12))
        check_repository(where, said)
    sound(vault)


@pytest.fixture
def own_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """git knows nothing of this machine's settings."""
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.mark.needs("git")
@pytest.mark.usefixtures("own_git")
def test_git_keeps_what_it_committed_when_the_driver_is_killed(vault: Mounted) -> None:
    commits(vault, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.needs("git")
@pytest.mark.usefixtures("own_git")
def test_git_keeps_what_it_committed_through_twenty_five_kills(vault: Mounted) -> None:
    commits(vault, 25)


@pytest.mark.needs("git")
@pytest.mark.usefixtures("own_git")
def test_the_check_finds_a_lost_commit(vault: Mounted) -> None:
    """The negative twin: with the ref set back by one commit, the check fails."""
    where = vault / "repository"
    said = killed_at_work(vault, [sys.executable, "-c", COMMITS, where], 3)
    check_repository(where, said)
    run("git", "-C", where, "reset", "-q", "--hard", f"{said[-1]}^")
    with pytest.raises(AssertionError, match="is lost"):
        check_repository(where, said)
