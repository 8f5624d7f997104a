"""Hashes and key derivation: BLAKE3 in its three modes (hash, keyed hash, derive key).

Source: O'Connor, Aumasson, Neves, Wilcox-O'Hearn, "BLAKE3: one function, fast everywhere", 2020.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from blake3 import blake3

HASH_SIZE = 32
_LENGTH = struct.Struct("<I")
_JOIN_BELOW = 16_384
"""Bytes that are copied faster than hashed in two calls."""


class Hasher:
    """An unkeyed hash fed piece by piece, for what is too large to hold."""

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, data: bytes | memoryview) -> None:
        """Add `data`; releases the interpreter's lock while it works on a large piece."""
        self._state.update(data)

    def digest(self) -> bytes:
        """The 32-byte hash of everything added so far."""
        return self._state.digest()


def digest(data: bytes) -> bytes:
    """The 32-byte hash of `data`."""
    return blake3(data).digest()


def digest_pair(head: bytes, body: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte hash of `head` followed by `body`, without joining a large body."""
    if len(body) < _JOIN_BELOW:
        return blake3(head + body).digest()
    return blake3(head).update(body).digest()


def keyed(key: bytes, data: bytes, length: int = HASH_SIZE) -> bytes:
    """A pseudo-random function of `data` under a 32-byte `key`; `length` bytes."""
    return blake3(data, key=key).digest(length=length)


def derive(purpose: str, secret: bytes, *context: bytes, length: int = HASH_SIZE) -> bytes:
    """A key for one purpose, from a secret of full entropy.

    purpose: a constant of this program, one per use. context: what the key is bound to (each part is
    length-prefixed, so that no two lists of parts collide). Returns `length` bytes.
    """
    material = secret + b"".join(_LENGTH.pack(len(part)) + part for part in context)
    return blake3(material, derive_key_context="atedb v1 " + purpose).digest(length=length)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root of the Merkle tree over `leaves` (32-byte hashes), split as RFC 9162 section 2.1.1 splits.

    A leaf is hashed by its owner under the prefix 0x00; inner nodes are hashed here under 0x01. The tree of no
    leaves has the hash of the empty string.
    """
    if not leaves:
        return digest(b"")
    level = list(leaves)
    # Pairing neighbours and carrying an odd last one up is the same tree as RFC 9162's recursive split.
    while len(level) > 1:
        paired = [blake3(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            paired.append(level[-1])
        level = paired
    return level[0]
