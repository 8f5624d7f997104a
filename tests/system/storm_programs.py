"""Real programs in a storm: tar, cp, rsync, git, SQLite and the shell, each machine in a folder of its own."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.system.replicas import tree
from tests.system.storm import Station
from tests.system.storm_journal import Journal

KEPT = 12
"""Trees of one machine, before the oldest is deleted."""
_GIT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip


def make_seed(folder: Path) -> Path:
    """A tree to be unpacked, outside of all vaults: small files, large ones, links, an empty folder. The archive."""
    chance = random.Random(1)
    source = folder / "seed"
    for number in range(40):
        path = source / f"d{number % 4}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([0, 10, 5000, 9000, 300_000 if number % 10 == 0 else 20_000])))
        os.utime(path, ns=(0, chance.randrange(10**18)))
    (source / "link").symlink_to("d1/f1")
    (source / "empty").mkdir()
    os.link(source / "d1/f1", source / "second")
    subprocess.run(["tar", "--format=posix", "-C", source, "-cf", folder / "seed.tar", "."], check=True)
    return folder / "seed.tar"


def digest_of(top: Path) -> str:
    """Of all that is below a folder, with the times of files."""
    found = tree(top)
    times = {path: (top / path).stat().st_mtime_ns for path, what in found.items() if len(what) == 16}
    return hashlib.blake2b(repr((sorted(found.items()), sorted(times.items()))).encode()).hexdigest()[:16]


class Programs:
    """What one machine runs, one program after the other."""

    def __init__(self, station: Station, seed: str, archive: Path) -> None:
        self.station = station
        self.journal = Journal(f"{station.name}/programs")
        self.chance = random.Random(f"{seed}/{station.name}/programs")
        self.top = station.replica / f"own-{station.name}"
        self._archive = archive
        self._expected = digest_of(archive.with_name("seed"))
        self._number = 0
        self._trees: list[tuple[str, int]] = []
        """With the life that each was made in: of one that ended by a kill, a tree may be there in part only."""

    def run(self) -> None:
        """Until the end."""
        station = self.station
        while not station.stop.is_set():
            program = self.chance.choice(_PROGRAMS)
            sync = self.chance.random() < 0.5
            self._number += 1
            with station.turn("programs") as life:
                self.top.mkdir(exist_ok=True)
                try:
                    program(self, life)
                except subprocess.CalledProcessError:
                    if not self._excused(life):
                        raise
                if sync:
                    station.sync(self.journal, life)

    def _excused(self, life: int) -> bool:
        """Whether a program may have failed: its machine was down, or it waits for a server that is out of reach."""
        return not self.station.undisturbed(life) or "sync" in self.station.options

    def _program(self, *command: str | Path) -> str:
        done = subprocess.run(
            [os.fspath(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False, env={**os.environ, **_GIT},
        )  # fmt: skip
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            error.add_note(done.stderr[-500:])
            raise error
        return done.stdout.strip()

    def _new_tree(self, life: int, make: Callable[[Path], object]) -> None:
        """A tree that is to be like the seed."""
        name = f"tree{self._number}"
        (self.top / name).mkdir()
        with self.station.writing(self.journal, f"{self.top.name}/{name}", life):
            make(self.top / name)
        if self.station.undisturbed(life):
            self._trees.append((name, life))
        if len(self._trees) > KEPT:
            oldest, _ = self._trees.pop(0)
            self.station.destroyed.add(f"{self.top.name}/{oldest}")
            self._program("rm", "-rf", self.top / oldest)

    def _source(self, life: int) -> str:
        """A tree that is whole, here."""
        for name, made in self._trees[-1:]:
            if made == life:
                return f"{self.top / name}/."
        return f"{self._archive.with_name('seed')}/."

    def unpack(self, life: int) -> None:
        self._new_tree(life, lambda new: self._program("tar", "-C", new, "-xf", self._archive))

    def copy(self, life: int) -> None:
        self._new_tree(life, lambda new: self._program("cp", "-a", self._source(life), new))

    def synchronise(self, life: int) -> None:
        self._new_tree(life, lambda new: self._program("rsync", "-aH", self._source(life), f"{new}/"))

    def append_by_shell(self, life: int) -> None:
        tokens = [f"{self.station.name}.shell{self._number}.{turn}" for turn in range(5)]
        for token in tokens:
            with self.station.writing(self.journal, token, life):
                self._program("sh", "-c", f"echo '<{token}>' >> '{self.top / 'log'}'")

    def commit(self, life: int) -> None:
        where = self.top / "repository"
        for lock in (where / ".git").rglob("*.lock"):  # of a git that was killed with its machine
            lock.unlink()
        self._program("git", "init", "-q", "-b", "main", where)  # as often as one likes
        git = ("git", "-C", where, "-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync", "-c", "gc.autoDetach=false")
        for name in "ab":
            (where / name).write_bytes(self.chance.randbytes(3000))
        self._program(*git, "add", ".")
        self._program(*git, "commit", "-qm", "next")
        head = self._program(*git, "rev-parse", "HEAD")
        with self.station.writing(self.journal, f"{self.top.name}/commit/{head}", life):
            self.station.replica.sync()

    def _commits(self, where: Path) -> list[str]:
        """All that a repository has; none where there is no whole one, because its machine was lost as it was made."""
        for lock in (where / ".git").rglob("*.lock"):
            lock.unlink()
        try:
            self._program("git", "-C", where, "--git-dir=.git", "rev-parse", "--git-dir")
        except subprocess.CalledProcessError:
            return []
        self._program("git", "-C", where, "fsck", "--full", "--strict")
        return self._program("git", "-C", where, "rev-list", "--all").split()

    def transact(self, life: int) -> None:
        """In a process of its own: with a driver that is killed, memory goes that is shared through a file (SIGBUS)."""
        mode = "WAL" if self.station.name > "m1" else "DELETE"
        number = str(self._number)
        with self.station.writing(self.journal, f"{self.top.name}/row/{number}", life):
            self._program(sys.executable, "-c", _TRANSACTION, self.top / "base.db", mode, number)

    def found(self, top: Path) -> set[str]:
        """Tokens of all programs of this machine that are there in a vault mounted at `top`."""
        own = top / self.top.name
        found = {f"{own.name}/{path.name}" for path in own.glob("tree*") if digest_of(path) == self._expected}
        found |= {f"{own.name}/commit/{commit}" for commit in self._commits(own / "repository")}
        if (own / "base.db").exists():
            copy = Path(tempfile.mkdtemp(dir=self._archive.parent))  # elsewhere, a lost machine's locks do not count
            for path in own.glob("base.db*"):
                shutil.copy(path, copy)
            with closing(sqlite3.connect(copy / "base.db")) as base:
                assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                if base.execute("SELECT name FROM sqlite_master").fetchall():  # else it was lost while it was made
                    found |= {f"{own.name}/row/{number}" for (number,) in base.execute("SELECT n FROM t")}
        return found


_TRANSACTION = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
try:
    base.execute("PRAGMA journal_mode=" + sys.argv[2])
    base.execute("PRAGMA synchronous=EXTRA")
    base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, content BLOB)")
    base.execute("INSERT INTO t VALUES (?, randomblob(3000))", (int(sys.argv[3]),))
finally:
    base.close()
"""

_PROGRAMS = [
    Programs.unpack, Programs.copy, Programs.synchronise, Programs.append_by_shell, Programs.append_by_shell,
    Programs.commit, Programs.transact, Programs.transact,
]  # fmt: skip
