"""What the control socket offers about files: bringing their content here, and deciding conflicts.

Files are named by their path below the mount point, as a list of names; each operation takes the request's fields.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from atedb.chain.blobcache import Wanted
from atedb.chain.chain import Chain
from atedb.errors import NotResident
from atefs.mount.committer import Committer
from atefs.mount.control import Operation, Tell
from atefs.mount.waiting import Waiting
from atefs.vault.conflicts import list_conflicts
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault

if TYPE_CHECKING:
    from atefs.mount.locks import SharedLocks

T = TypeVar("T")

_DOTS = (b".", b"..")


class Offers:
    """Of one mounted vault."""

    def __init__(
        self, vault: Vault, chain: Chain, committer: Committer, loop: Waiting, locks: SharedLocks | None
    ) -> None:  # fmt: skip
        self._vault = vault
        self._chain = chain
        self._committer = committer
        self._loop = loop
        self._locks = locks

    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {
            "fetch": self._fetch, "unpin": self._unpin, "conflicts": self._conflicts, "settle": self._settle,
            "token": self._token,
        }  # fmt: skip

    async def _ask(self, question: Callable[[], T]) -> T:
        """What the vault answers, with what it needs fetched by a thread."""
        while True:
            await self._loop.opened()
            try:
                return question()
            except NotResident as absent:
                await self._loop.in_thread(absent.fetch)

    async def _find(self, names: list[str]) -> int:
        """The inode at a path. Raises NotFoundError, NotDirectoryError."""
        ino = ROOT_INO
        for name in names:
            raw = os.fsencode(name)
            ino = (await self._ask(lambda ino=ino, raw=raw: self._vault.lookup(ino, raw))).ino  # type: ignore[misc]
        return ino

    async def _files(self, top: int) -> AsyncIterator[int]:
        """Every regular file at and below an inode, each once."""
        seen: set[int] = set()
        left = [top]
        while left:
            ino = left.pop()
            if ino in seen:
                continue
            seen.add(ino)
            inode = await self._ask(lambda ino=ino: self._vault.getattr(ino))  # type: ignore[misc]
            if inode.is_file:
                yield ino
            elif inode.is_dir:
                entries = await self._ask(lambda ino=ino: self._vault.readdir(ino))  # type: ignore[misc]
                left.extend(entry.ino for entry in entries if entry.name not in _DOTS)
            await trio.lowlevel.checkpoint()

    async def _keys(self, ino: int) -> AsyncIterator[list[bytes]]:
        for region in await self._ask(lambda: self._vault.regions(ino)):
            yield await self._ask(lambda region=region: self._vault.content_keys(ino, region))  # type: ignore[misc]

    async def _fetch(self, tell: Tell, wanted: dict[str, Any]) -> dict[str, object]:
        """path; pin: keep it here from then on. Answers with the files, and the bytes of theirs that others wrote."""
        absent = self._chain.absent
        files = size = 0
        async for ino in self._files(await self._find(wanted["path"])):
            files += 1
            async for keys in self._keys(ino):
                records = self._chain.absent_records(keys)
                if absent is not None and records:
                    pin = bool(wanted.get("pin"))
                    await self._loop.in_thread(lambda r=records, p=pin: absent.fetch_all(r, pinned=p))  # type: ignore[misc]
                    size += sum(record.length for record in records)
                    await tell({"phase": "fetch", "files": files, "bytes": size})
        return {"files": files, "bytes": size}

    async def _unpin(self, _tell: Tell, wanted: dict[str, Any]) -> dict[str, object]:
        """path. What was pinned there may be let go of when there is no room."""
        absent = self._chain.absent
        files = 0
        async for ino in self._files(await self._find(wanted["path"])):
            files += 1
            async for keys in self._keys(ino):
                records = self._chain.absent_records(keys)
                if absent is not None:
                    absent.cache.unpin([Wanted(record.sequence, record.place) for record in records])
        return {"files": files}

    async def _token(self, _tell: Tell, wanted: dict[str, Any]) -> dict[str, object]:
        """path, of a file that is locked (man 2 flock). Answers with the server's token; 0: it does not know of it."""
        return {"token": self._locks.token(await self._find(wanted["path"])) if self._locks is not None else 0}

    # -- conflicts

    async def _conflicts(self, _tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
        """All that wait for a decision, the oldest first."""
        found = []
        for conflict in await self._ask(lambda: list_conflicts(self._vault)):
            found.append(
                {
                    "path": await self._path(conflict.parent, conflict.name),
                    "instead_of": await self._path(conflict.origin_parent, conflict.origin_name),
                    "device": conflict.device,
                    "time": conflict.time,
                    "content": conflict.content,
                }
            )
        return {"conflicts": found}

    async def _settle(self, _tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
        """Forget the conflicts that somebody has decided: by moving what was kept, or by deleting it."""
        standing = await self._ask(lambda: list_conflicts(self._vault))
        decided = [conflict for conflict in self._vault.conflicts.all() if conflict not in standing]
        for conflict in decided:
            self._vault.conflicts.settle(conflict)
        if decided:
            self._committer.touch()
        return {"settled": len(decided)}

    async def _path(self, parent: int, name: bytes) -> str:
        """The path of a name below the mount point, as far as its folder has one."""
        names = [name]
        while parent != ROOT_INO:
            above = (await self._ask(lambda ino=parent: self._vault.getattr(ino))).parent  # type: ignore[misc]
            entries = await self._ask(lambda ino=above: self._vault.readdir(ino))  # type: ignore[misc]
            names.append(next((entry.name for entry in entries if entry.ino == parent), b"?"))
            parent = above
        return os.fsdecode(b"/".join(reversed(names)))
