"""A small secret, sealed under a key that may seal many: each time under a key of its own, which it commits to.

32 random bytes and the key make, by BLAKE3, a key for XChaCha20-Poly1305 and 32 bytes that commit to it: Poly1305 alone
lets one ciphertext open under two keys (Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021).
"""

from __future__ import annotations

import hmac
from typing import Final

from atedb.crypto.aead import TAG_SIZE, XCHACHA20_POLY1305, SealBrokenError, cipher, random_bytes
from atedb.crypto.hashing import derive
from atedb.crypto.keys import COMMITMENT_SIZE

_SALT = 32
ENVELOPE_OVERHEAD: Final = _SALT + COMMITMENT_SIZE + TAG_SIZE


def seal_secret(key: bytes, secret: bytes, purpose: str, *context: bytes) -> bytes:
    """`secret` under a key of 32 bytes; ENVELOPE_OVERHEAD bytes longer.

    purpose: a constant of this program, one per use. context: what it is bound to; it opens with the same only.
    """
    salt = random_bytes(_SALT)
    material = derive(purpose, key, salt, *context, length=32 + COMMITMENT_SIZE)
    # The key is used this once (its salt is fresh), so the number that makes the nonce is always 0.
    return salt + material[32:] + cipher(XCHACHA20_POLY1305, material[:32]).seal(0, secret, b"")


def open_secret(key: bytes, sealed: bytes, purpose: str, *context: bytes) -> bytes:
    """What `seal_secret` sealed. Raises SealBrokenError for another key, purpose or context, and altered bytes."""
    if len(sealed) < ENVELOPE_OVERHEAD:
        raise SealBrokenError("a sealed secret is too short")
    salt, commitment = sealed[:_SALT], sealed[_SALT : _SALT + COMMITMENT_SIZE]
    material = derive(purpose, key, salt, *context, length=32 + COMMITMENT_SIZE)
    if not hmac.compare_digest(material[32:], commitment):
        raise SealBrokenError("a secret was sealed under another key, or for something else")
    return cipher(XCHACHA20_POLY1305, material[:32]).open(0, sealed[_SALT + COMMITMENT_SIZE :], b"")
