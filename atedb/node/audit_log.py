"""The audit logs of a node's accounts: a file for each, appended to, `DATA/audit/<email>.log`.

A file begins with a magic, the number of the entry before its first one, and the hash of all up to that; then come
entries, each a length (`u32`) and what is sealed. What a crash has torn off its end was never acknowledged.
"""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import trio

from atedb import threads
from atedb.account.audit import BEGINNING, MAX_SEALED, Mark, after
from atedb.chain.disk import RealDisk
from atedb.crypto.hashing import HASH_SIZE
from atedb.errors import DamagedError
from atedb.node.data_folder import made

FOLDER = "audit"
MAX_BYTES = 4 << 20
"""Of a file; then it becomes the older one, in the place of the one that was, and a new one is begun."""
_MAGIC = b"ATEAUDIT"
_HEAD = struct.Struct(f"<8sQ{HASH_SIZE}s")
_LENGTH = struct.Struct("<I")


class Page(NamedTuple):
    """Entries that follow `start`, as they are sealed. more: there are others after them."""

    start: Mark
    entries: list[bytes]
    more: bool


class AuditLog:
    """The log of one account. Its methods are for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._disk = RealDisk()
        self._length = 0
        self.end = self._recovered()

    def append(self, sealed: bytes) -> None:
        """Add an entry; durable on return. Raises StorageError."""
        data = _LENGTH.pack(len(sealed)) + sealed
        if not self._length or self._length + len(data) > MAX_BYTES:
            self._begin()
        with closing(self._disk.open(self._path, writable=True)) as file:
            file.write([data], self._length)
            file.sync()
        self._length += len(data)
        self.end = after(self.end, sealed)

    def read(self, number: int, most: int) -> Page:
        """Up to `most` bytes of the entries after this number, or after the oldest that there is; one, if it is longer.

        Raises DamagedError.
        """
        start, found, size = self.end, list[bytes](), 0
        for path in (self._older, self._path):
            mark, entries = _read(self._disk, path)
            for sealed in entries:
                if mark.number >= number:  # else it was asked for before, or stands in both files after a crash
                    if found and size + len(sealed) > most:
                        return Page(start, found, True)
                    start = start if found else mark
                    found.append(sealed)
                    size += len(sealed)
                    number = mark.number + 1
                mark = after(mark, sealed)
        return Page(start, found, False)

    @property
    def _older(self) -> Path:
        return self._path.with_name(self._path.name + ".older")

    def _begin(self) -> None:
        if self._length:
            self._disk.replace(self._older, self._disk.read_bytes(self._path))
        self._disk.replace(self._path, _HEAD.pack(_MAGIC, *self.end))
        self._length = _HEAD.size

    def _recovered(self) -> Mark:
        """Where the log ends. What a crash has torn is cut off."""
        end, entries = _read(self._disk, self._path)
        if self._path.exists():
            self._length = _HEAD.size + sum(_LENGTH.size + len(sealed) for sealed in entries)
            if self._path.stat().st_size > self._length:
                with closing(self._disk.open(self._path, writable=True)) as file:
                    file.truncate(self._length)
                    file.sync()
        for sealed in entries:
            end = after(end, sealed)
        return end


class AuditLogs:
    """All of a data folder. Those that are in use are kept open in memory, MOST_OPEN of them."""

    MOST_OPEN = 256

    def __init__(self, data: Path) -> None:
        self._data = data
        self._turn = trio.Lock()
        self._open: dict[str, AuditLog] = {}

    async def append(self, email: str, sealed: bytes) -> None:
        """Add an entry to an account's log; durable on return. Raises StorageError, DamagedError."""
        async with self._turn:
            await threads.run(lambda: self._log(email).append(sealed))

    async def read(self, email: str, number: int, most: int) -> Page:
        """Entries of an account's log; see `AuditLog.read`."""
        async with self._turn:
            return await threads.run(lambda: self._log(email).read(number, most))

    def _log(self, email: str) -> AuditLog:
        log = self._open.pop(email, None)
        if log is None:
            log = AuditLog(made(self._data, FOLDER) / f"{email}.log")
        self._open[email] = log
        if len(self._open) > self.MOST_OPEN:
            del self._open[next(iter(self._open))]
        return log


def _read(disk: RealDisk, path: Path) -> tuple[Mark, list[bytes]]:
    """Where a file begins, and its whole entries. Raises DamagedError."""
    if not path.exists():
        return BEGINNING, []
    data = disk.read_bytes(path)
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise DamagedError(f"{path} is no audit log; it is kept; move it away: a new one is begun then")
    _, number, hash_ = _HEAD.unpack_from(data)
    entries, at = [], _HEAD.size
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if not 0 < length <= MAX_SEALED or at + length > len(data):
            break
        entries.append(data[at : at + length])
        at += length
    return Mark(number, hash_), entries
