"""An incremental keyed hash of the set of live objects: MSet-XOR-Hash.

Source: Clarke, Devadas, van Dijk, Gassend, Suh, "Incremental Multiset Hash Functions and Their Application to Memory
Integrity Checking", ASIACRYPT 2003, section 4. Each live object is one element, so the multiset is a set; adding
and removing are the same XOR. Whoever lacks the key can neither forge nor predict an element.
"""

from __future__ import annotations

import struct

from atedb.crypto.aead import random_bytes
from atedb.crypto.hashing import keyed

ELEMENT_SIZE = 16
_ENCODED = struct.Struct("<16s16sQ")


class SetHash:
    """The hash of a set under one key. `total` and `count` are its state."""

    __slots__ = ("_key", "count", "total")

    def __init__(self, key: bytes, total: int = 0, count: int = 0) -> None:
        self._key = key
        self.total = total
        self.count = count

    def element(self, core: bytes, event_hash: bytes) -> bytes:
        """The 16-byte element of one live event: what it is (its core) and holds (its hash)."""
        return keyed(self._key, b"\x01" + core + event_hash, ELEMENT_SIZE)

    def copy(self) -> SetHash:
        """An independent copy."""
        return SetHash(self._key, self.total, self.count)

    def add(self, element: bytes) -> None:
        """Put one element in."""
        self.total ^= int.from_bytes(element, "little")
        self.count += 1

    def remove(self, element: bytes) -> None:
        """Take one element out."""
        self.total ^= int.from_bytes(element, "little")
        self.count -= 1

    def claim(self) -> bytes:
        """40 bytes that state the set: a fresh nonce, the masked hash, the count."""
        nonce = random_bytes(16)
        return _ENCODED.pack(nonce, self._masked(nonce), self.count)

    def matches(self, claim: bytes) -> bool:
        """Whether `claim` states this very set."""
        nonce, masked, count = _ENCODED.unpack(claim)
        return bool(count == self.count and masked == self._masked(nonce))

    def _masked(self, nonce: bytes) -> bytes:
        mask = int.from_bytes(keyed(self._key, b"\x00" + nonce, ELEMENT_SIZE), "little")
        return (mask ^ self.total).to_bytes(ELEMENT_SIZE, "little")


CLAIM_SIZE = _ENCODED.size
