"""The kernel's side of a mount, as far as its cache goes: what it has seen it believes until it is told otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atedb.errors import AteError
from atefs.mount.ids import SAME
from atefs.mount.locks import SharedLocks
from atefs.vault.vault import Vault
from tests.simulation.programs import NAMES, folders


class Kernel:
    """A `KernelAdapter` to which nothing is attached, but which remembers what programs have looked at."""

    requests = 0
    ids = SAME

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._known: dict[int, int] = {}
        self._entries: dict[tuple[int, bytes], int] = {}
        self._attributes: dict[int, tuple[Any, ...]] = {}
        self._pages: dict[int, bytes] = {}

    def look(self) -> None:
        """Somebody looks at everything there is. Raises NotResident."""
        vault = self._vault
        entries: dict[tuple[int, bytes], int] = {}
        for folder in folders(vault):
            entries |= {(folder, name): 0 for name in NAMES}
            entries |= {(folder, row.name): row.ino for row in vault.readdir(folder)[2:]}
        inodes = {ino for ino in entries.values() if ino}
        pages = {ino: self._content(ino) for ino in inodes if vault.getattr(ino).is_file}
        self.forget()
        for ino in inodes:
            vault.remember(ino)
            self._known[ino] = 1
        self._entries, self._pages = entries, pages
        self._attributes = {ino: self._seen(ino) for ino in inodes}

    def _content(self, ino: int) -> bytes:
        return self._vault.read(ino, 0, 16 << 10)

    def _seen(self, ino: int) -> tuple[Any, ...]:
        inode = self._vault.getattr(ino)
        return inode.mode, inode.uid, inode.nlink, inode.size, inode.blocks, inode.mtime, inode.ctime

    def forget(self) -> None:
        """Believe nothing any more, as after a change made here, which the kernel knows of. Raises NotResident."""
        for ino in list(self._known):
            self._vault.forget(ino)
            del self._known[ino]
        self._entries, self._attributes, self._pages = {}, {}, {}

    def wrong(self) -> list[str]:
        """What it believes and is not so."""
        found = [f"the name {slot}" for slot, ino in self._entries.items() if self._looked_up(*slot) != ino]
        for ino in self._attributes.keys() | self._pages.keys():
            try:
                if ino in self._attributes and self._attributes[ino] != self._seen(ino):
                    found.append(f"the attributes of {ino}: {self._attributes[ino]}, {self._seen(ino)}")
                if ino in self._pages and self._pages[ino] != self._content(ino):
                    found.append(f"the content of {ino}")
            except AteError as error:
                found.append(f"the inode {ino} ({error})")
        return found

    def _looked_up(self, parent: int, name: bytes) -> int:
        try:
            return self._vault.lookup(parent, name).ino
        except AteError:
            return 0

    # -- as of KernelAdapter

    def attach(self, mountpoint: Path, options: frozenset[str]) -> None: ...

    def share_locks(self, locks: SharedLocks) -> bool:
        return False

    async def serve(self) -> None: ...

    def stop(self) -> None: ...

    def detach(self) -> None: ...

    def outdate(self, attributes: Iterable[int], pages: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        for ino in pages:
            self._pages.pop(ino, None)
        for ino in (*attributes, *pages):
            self._attributes.pop(ino, None)
        for slot in entries:
            self._entries.pop(slot, None)
