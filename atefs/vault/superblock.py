"""The superblock: when the vault was made, and its quota."""

from __future__ import annotations

from atedb.chain.event import Change
from atedb.errors import StoreNotFoundError, UnsupportedError
from atefs.vault.codec import FORMAT, Keys, decode_superblock, superblock_change, superblock_key
from atefs.vault.limits import BLOCK
from atefs.vault.objects import Objects


class Superblock:
    """dirty: it has to go out with the next commit."""

    def __init__(self, objects: Objects) -> None:
        """As `load`."""
        self.dirty = False
        self.load(objects)

    def load(self, objects: Objects) -> None:
        """Take what the chain says. Raises StoreNotFoundError when it holds no vault, UnsupportedError for one of a
        newer format.
        """
        body = objects.load(superblock_key(objects.log))
        if body is None:
            raise StoreNotFoundError("This chain holds no vault. Make one with: atefs init")
        record = decode_superblock(body)
        if record.format > FORMAT or record.block != BLOCK:
            raise UnsupportedError(
                f"The vault has format {record.format} with blocks of {record.block} bytes; this program knows format "
                f"{FORMAT} with {BLOCK}. Nothing was changed. Use a newer atefs."
            )
        self.created = record.created
        self.quota = record.quota
        self._next_ino = record.next_ino

    def set_quota(self, quota: int) -> None:
        """quota: bytes of live data the vault may hold, 0 for no bound."""
        self.quota = quota
        self.dirty = True

    def change(self, keys: Keys) -> Change:
        self.dirty = False
        return superblock_change(keys, self.created, self._next_ino, self.quota)
