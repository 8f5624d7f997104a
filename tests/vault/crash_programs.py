"""What careful programs do to files, as operations of a vault; and what each relies on after a crash.

Between such a program and the vault stands the kernel's page cache: what is written to a file reaches the vault at
fsync and close of that file, and before that page by page in any order, when it suits the kernel. Names reach it at
once.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Callable, Iterator
from itertools import count

from blake3 import blake3

from atefs.errors import NotFoundError
from atefs.vault.limits import PAGE
from atefs.vault.vault import Vault
from tests.vault.conftest import ME
from tests.vault.crash_traces import Trace

ROUNDS = 6


class Program:
    """The system calls of a program. lax: the negative twin, whose fsync returns at once and does nothing."""

    def __init__(self, trace: Trace, seed: int, *, lax: bool = False) -> None:
        self._trace = trace
        self._vault = trace.vault
        self._chance = random.Random(seed)
        self._lax = lax
        self._cached: dict[int, dict[int, bytes]] = {}

    def told(self, number: int) -> None:
        """The program was told that its piece of work `number` is durable."""
        self._trace.told = number

    def create(self, name: bytes) -> int:
        ino = self._vault.mknod(1, name, stat.S_IFREG | 0o644, 0, ME).ino
        self._meanwhile()
        return ino

    def write(self, ino: int, offset: int, data: bytes) -> None:
        """Whole pages, or less than one."""
        for at in range(0, len(data), PAGE):
            self._cached.setdefault(ino, {})[offset + at] = data[at : at + PAGE]
        self._meanwhile()

    def fsync(self, ino: int) -> None:
        """Of a file or a folder (number 1)."""
        if not self._lax:
            self._hand_over(ino, list(self._cached.get(ino, {})))
            self._trace.fsync()
        self._meanwhile()

    def close(self, ino: int) -> None:
        self._hand_over(ino, list(self._cached.get(ino, {})))
        self._meanwhile()

    def rename(self, name: bytes, new: bytes) -> None:
        self._vault.rename(1, name, 1, new)
        self._meanwhile()

    def link(self, ino: int, name: bytes) -> None:
        self._vault.link(ino, 1, name)
        self._meanwhile()

    def unlink(self, name: bytes) -> None:
        self._cached.pop(self._vault.lookup(1, name).ino, None)
        self._vault.unlink(1, name)
        self._meanwhile()

    def _meanwhile(self) -> None:
        """The kernel writes some pages back, and the vault is committed without a barrier."""
        for ino, pages in self._cached.items():
            if pages and self._chance.random() < 0.5:
                self._hand_over(ino, self._chance.sample(sorted(pages), self._chance.randint(1, len(pages))))
        if self._chance.random() < 0.7:
            self._trace.commit()

    def _hand_over(self, ino: int, offsets: list[int]) -> None:
        for offset in offsets:
            self._vault.write(ino, offset, self._cached[ino].pop(offset))


def read(vault: Vault, name: bytes) -> bytes | None:
    """A file's content; None: there is no such file."""
    try:
        inode = vault.lookup(1, name)
    except NotFoundError:
        return None
    return vault.read(inode.ino, 0, inode.size)


def sealed(data: bytes) -> bytes:
    """`data` with its hash before it, filled up to whole pages: a record that is known when it is whole."""
    record = blake3(data).digest() + len(data).to_bytes(4, "big") + data
    return record + bytes(-len(record) % PAGE)


def unsealed(record: bytes) -> bytes | None:
    """What was sealed; None when the record is not whole."""
    data = record[36 : 36 + int.from_bytes(record[32:36], "big")]
    return data if len(record) >= 36 and blake3(data).digest() == record[:32] else None


def version(page: int, number: int) -> bytes:
    """A page of a database as the transaction `number` leaves it."""
    return number.to_bytes(4, "big") + random.Random(page * 1000 + number).randbytes(PAGE - 4)


# Write another file, and rename it over the old one


def save(program: Program) -> None:
    for number in range(1, ROUNDS + 1):
        file = program.create(b"f.tmp")
        program.write(file, 0, sealed(b"%d" % number * 5000))
        program.fsync(file)
        program.rename(b"f.tmp", b"f")
        program.fsync(1)
        program.told(number)
        program.close(file)


def saved(vault: Vault, told: int) -> None:
    """The file is one whole version, and not older than the last that was synced."""
    content = read(vault, b"f")
    if content is None:
        assert told == 0
        return
    whole = unsealed(content)
    assert whole is not None, "a mixture, or part of a version"
    assert told <= int(whole[:1]) <= told + 1


# Append to a log


def append(program: Program) -> None:
    file = program.create(b"log")
    program.fsync(1)
    for number in range(1, 2 * ROUNDS + 1):
        program.write(file, (number - 1) * PAGE, sealed(b"record %d" % number))
        program.fsync(file)
        program.told(number)


def appended(vault: Vault, told: int) -> None:
    """Every synced record is there; after them comes at most the one that was being written."""
    content = read(vault, b"log") or b""
    records = [unsealed(content[at : at + PAGE]) for at in range(0, len(content), PAGE)]
    assert records[:told] == [b"record %d" % number for number in range(1, told + 1)]
    assert records[told:] in ([], [None], [b"record %d" % (told + 1)])


# SQLite's rollback journal (sqlite.org/atomiccommit.html)

PAGES = 4


def roll_back_journal(program: Program) -> None:
    base = program.create(b"base")
    for page in range(PAGES):
        program.write(base, page * PAGE, version(page, 0))
    program.fsync(base)
    program.fsync(1)
    program.told(1)
    for number in range(1, ROUNDS + 1):
        journal = program.create(b"journal")
        program.write(journal, 0, sealed(b"".join(version(page, number - 1) for page in range(PAGES))))
        program.fsync(journal)
        program.fsync(1)
        for page in range(PAGES):
            program.write(base, page * PAGE, version(page, number))
        program.fsync(base)
        program.close(journal)
        program.unlink(b"journal")
        program.fsync(1)
        program.told(number + 1)


def rolled_back(vault: Vault, told: int) -> None:
    """After a hot journal was played back, the database is one transaction's, and no acknowledged one is lost."""
    if not told:
        return
    base = read(vault, b"base") or b""
    former = unsealed(read(vault, b"journal") or b"")
    expect_one_version(former if former is not None else base, told)


def expect_one_version(base: bytes, told: int) -> None:
    number = int.from_bytes(base[:4], "big")
    assert base == b"".join(version(page, number) for page in range(PAGES)), "pages of several transactions"
    assert told - 1 <= number <= told


# SQLite's write-ahead log (sqlite.org/wal.html)

FRAME = 2 * PAGE


def write_ahead(program: Program) -> None:
    base, wal = program.create(b"base"), program.create(b"wal")
    for page in range(PAGES):
        program.write(base, page * PAGE, version(page, 0))
    program.fsync(base)
    program.fsync(1)
    program.told(1)
    at = salt = 0
    for number in range(1, ROUNDS + 1):
        for page in range(PAGES):
            program.write(wal, at, frame(salt, page, version(page, number)))
            at += FRAME
        program.fsync(wal)
        program.told(number + 1)
        if number % 2 == 0:  # a checkpoint: the log begins again at its beginning
            for page in range(PAGES):
                program.write(base, page * PAGE, version(page, number))
            program.fsync(base)
            at, salt = 0, salt + 1


def frame(salt: int, page: int, content: bytes) -> bytes:
    """One of the log: the last page's is the commit."""
    return sealed(bytes([salt, page]) + content)


def frames(wal: bytes) -> Iterator[tuple[int, bytes]]:
    """Page and content of each frame up to the first that is not whole, or older than the first."""
    salt = None
    for at in range(0, len(wal), FRAME):
        data = unsealed(wal[at : at + FRAME])
        if data is None or (salt is not None and data[0] != salt):
            return
        salt = data[0]
        yield data[1], data[2:]


def recovered(vault: Vault, told: int) -> None:
    """With the committed frames over it, the database is one transaction's, and no acknowledged one is lost."""
    if not told:
        return
    content = read(vault, b"base") or b""
    pages = [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
    waiting: dict[int, bytes] = {}
    for page, data in frames(read(vault, b"wal") or b""):
        waiting[page] = data
        if page == PAGES - 1:
            for number, newer in waiting.items():
                pages[number] = newer
            waiting = {}
    expect_one_version(b"".join(pages), told)


# git: objects that never change, and a ref that names the newest


def commit_objects(program: Program) -> None:
    parent = b""
    for number in range(1, ROUNDS + 1):
        body = sealed(b"%d %s" % (number, parent))
        name = blake3(body).hexdigest(16).encode()
        file = program.create(b"tmp_obj")
        program.write(file, 0, body)
        program.fsync(file)
        program.close(file)
        if number % 2:
            program.link(file, name)
            program.unlink(b"tmp_obj")
        else:
            program.rename(b"tmp_obj", name)
        lock = program.create(b"main.lock")
        program.write(lock, 0, name)
        program.fsync(lock)
        program.close(lock)
        program.rename(b"main.lock", b"main")
        program.fsync(1)
        program.told(number)
        parent = name


def reachable(vault: Vault, told: int) -> None:
    """The ref names an object, and all that it leads to is whole."""
    name = read(vault, b"main")
    if name is None:
        assert told == 0
        return
    newest = None
    for _ in count():
        body = read(vault, name)
        assert body is not None, "an object is missing"
        data = unsealed(body)
        assert data is not None, "an object is not whole"
        number, _, name = data.partition(b" ")
        newest = newest or int(number)
        if not name:
            break
    assert newest is not None
    assert told <= newest <= told + 1


PROGRAMS: dict[str, tuple[Callable[[Program], None], Callable[[Vault, int], None]]] = {
    "write, fsync, rename over": (save, saved),
    "append and fsync": (append, appended),
    "SQLite's rollback journal": (roll_back_journal, rolled_back),
    "SQLite's write-ahead log": (write_ahead, recovered),
    "git's objects and refs": (commit_objects, reachable),
}
