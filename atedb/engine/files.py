"""The embedded engine: each chain is a folder of files on this machine's disk.

The chain "you@example.com/vault" lies in `you@example.com/vault.chain` below the engine's folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import trio

from atedb import threads
from atedb.chain.disk import Disk
from atedb.chain.files import ChainFiles
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.header import ChainHeader, parse_header
from atedb.chain.lock import ChainLock
from atedb.chain.log import FOLDER, Log
from atedb.engine.filelog import HEADER, KEYS, FileLog
from atedb.engine.interface import MAX_DOCUMENT
from atedb.errors import DamagedError, InvalidError, LimitError, StoreExistsError, StoreNotFoundError

WRITERS = 32
"""Threads that write and wait at barriers, for all chains together."""
_SUFFIX = ".chain"
_PART = re.compile(r"[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,126}")
_MAX_PARTS = 8


class FileEngine:
    """An `Engine` in a folder, which is made when the first chain is."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk = disk
        self._folder = folder
        self._writers = trio.CapacityLimiter(WRITERS)

    async def open(self, name: str, *, create: ChainFiles | None = None) -> FileLog:
        """See `Engine.open`."""
        store = chain_store(self._folder, name)
        with trio.CancelScope(shield=True):  # what is opened has an owner
            opened = await threads.run(self._open, store, create, limiter=self._writers)
        return opened

    async def names(self) -> list[str]:
        """See `Engine.names`."""
        return await threads.run(chain_names, self._folder)

    async def stored(self, name: str) -> int:
        """See `Engine.stored`."""
        return await threads.run(self._stored, chain_store(self._folder, name))

    def _open(self, store: Path, create: ChainFiles | None) -> FileLog:
        if create is not None:
            header = _checked(create)
            if not (store / HEADER).exists():
                self._create(store, create, header)
            elif self._disk.read_bytes(store / HEADER) != create.header:
                raise StoreExistsError(f"there is another chain in {store}; nothing was changed")
        elif not (store / HEADER).exists() and not self._has_log(store):
            raise StoreNotFoundError("there is no such chain")
        return FileLog(self._disk, store, self._writers)

    def _create(self, store: Path, files: ChainFiles, header: ChainHeader) -> None:
        """Make the chain; its header comes last, and before that there is none."""
        for folder in [*reversed(store.relative_to(self._folder).parents), store.relative_to(self._folder)]:
            self._disk.make_folder(self._folder / folder)
        lock = ChainLock(store)
        try:
            if self._has_log(store):
                raise DamagedError(f"the header {store / HEADER} is missing; the log is kept; put the file back")
            if FOLDER in self._disk.names(store):  # the rest of a creation that a crash ended
                for name in self._disk.names(store / FOLDER):
                    self._disk.unlink(store / FOLDER / name)
            Log.create(self._disk, store, header.chain_id).close()
            self._disk.replace(store / KEYS, files.keys)
            self._disk.replace(store / HEADER, files.header)
        finally:
            lock.release()

    def _has_log(self, store: Path) -> bool:
        """Whether there is more than a creation leaves that a crash has ended."""
        return store.exists() and FOLDER in self._disk.names(store) and self._stored(store) > SEGMENT_HEADER_SIZE

    def _stored(self, store: Path) -> int:
        return sum(path.stat().st_size for path in (store / FOLDER).iterdir())


def chain_store(folder: Path, name: str) -> Path:
    """Where a chain lies below an engine's folder. Raises LimitError for a name that is not one."""
    parts = name.split("/")
    good = len(parts) <= _MAX_PARTS and all(_PART.fullmatch(p) and not p.endswith(_SUFFIX) for p in parts)
    if not good:
        raise LimitError(
            f"{name!r} is not the name of a chain: one to {_MAX_PARTS} parts of letters, digits and . _ @ + - are"
        )
    return folder.joinpath(*parts[:-1], parts[-1] + _SUFFIX)


def chain_names(folder: Path) -> list[str]:
    """The names of all chains below an engine's folder, sorted."""
    stores = folder.rglob(f"*{_SUFFIX}")
    found = [store.relative_to(folder) for store in stores if (store / HEADER).is_file()]
    return sorted(str(path.with_name(path.name.removesuffix(_SUFFIX))) for path in found)


def _checked(files: ChainFiles) -> ChainHeader:
    """The header of a chain that is to be made. Raises InvalidError, LimitError, UnsupportedError."""
    if max(len(files.header), len(files.keys)) > MAX_DOCUMENT:
        raise LimitError(f"header or key slots are larger than {MAX_DOCUMENT} bytes")
    try:
        return parse_header(files.header)
    except DamagedError as error:
        raise InvalidError(str(error)) from None
