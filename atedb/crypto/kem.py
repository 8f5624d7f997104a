"""A server's long-lived key, and secrets sealed to a public key: X25519 and ML-KEM-768 together (X-Wing's combination).

Whoever breaks one of the two learns nothing yet. Source: RFC 9180 (HPKE), draft-connolly-cfrg-xwing-kem, FIPS 203.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from atedb.crypto.aead import SealBrokenError
from atedb.crypto.hashing import digest

_MLKEM_PUBLIC = 1184
_MLKEM_SEED = 64
_X25519 = 32
KEM_PUBLIC_SIZE: Final = _MLKEM_PUBLIC + _X25519
KEM_PRIVATE_SIZE: Final = _MLKEM_SEED + _X25519
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_OVERHEAD = 1088 + 32 + 16


class BadKeyError(ValueError):
    """Bytes that are no key."""


class KemKey:
    """A private key. private: 96 secret bytes, the seed of ML-KEM and the scalar of X25519; public: 1,216 bytes."""

    def __init__(self, private: bytes) -> None:
        """The key again from its `private` bytes. Raises BadKeyError."""
        if len(private) != KEM_PRIVATE_SIZE:
            raise BadKeyError(f"a private key has {KEM_PRIVATE_SIZE} bytes")
        mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:_MLKEM_SEED])
        x25519 = X25519PrivateKey.from_private_bytes(private[_MLKEM_SEED:])
        self._key = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.private = private
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KemKey:
        """A new key."""
        return cls(MLKEM768PrivateKey.generate().private_bytes_raw() + X25519PrivateKey.generate().private_bytes_raw())

    def __repr__(self) -> str:
        return f"KemKey(fingerprint={self.fingerprint.hex()})"

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that stand for the public key."""
        return fingerprint(self.public)

    def open(self, sealed: bytes, purpose: bytes) -> bytes:
        """What was sealed to this key for this purpose. Raises SealBrokenError."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=purpose)
        except (InvalidTag, ValueError):
            raise SealBrokenError("a secret was not sealed to this key") from None


def fingerprint(public: bytes) -> bytes:
    """32 bytes that stand for a public key."""
    return digest(b"atedb v1 server key" + public)


def seal_to(public: bytes, secret: bytes, purpose: bytes) -> bytes:
    """`secret`, readable by the owner of `public` alone; `sealed_size` bytes. Raises BadKeyError."""
    if len(public) != KEM_PUBLIC_SIZE:
        raise BadKeyError(f"a public key has {KEM_PUBLIC_SIZE} bytes")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC])
        x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:])
        return _SUITE.encrypt(secret, hpke.MLKEM768X25519PublicKey(mlkem, x25519), info=purpose)
    except ValueError:
        raise BadKeyError("these bytes are no public key") from None


def sealed_size(secret: int) -> int:
    """How long `secret` bytes are when sealed to a key."""
    return secret + _OVERHEAD
