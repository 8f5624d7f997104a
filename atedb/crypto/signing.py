"""Ed25519 signatures of devices and of a chain's root, and the certificates that bind the two.

Source: RFC 8032 (Ed25519), by libsodium through PyNaCl.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import nacl.bindings
import nacl.exceptions
import nacl.signing

from atedb.errors import DamagedError

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64


class BadSignatureError(DamagedError):
    """A signature does not verify."""


class SigningKey:
    """A private signing key. seed: 32 secret bytes."""

    def __init__(self, seed: bytes) -> None:
        self.public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()})"

    def sign(self, message: bytes) -> bytes:
        """A 64-byte signature."""
        return nacl.bindings.crypto_sign(message, self._secret)[:SIGNATURE_SIZE]


def verify_signature(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises BadSignatureError unless `signature` is `public`'s over `message`."""
    try:
        nacl.signing.VerifyKey(public).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
        raise BadSignatureError(f"the signature of {public.hex()[:16]} does not verify") from None


_CERTIFICATE = struct.Struct("<32sq64s")


class Certificate(NamedTuple):
    """The root's word that a device may sign batches of its chain.

    device: Ed25519 public key. created: ns since the epoch. signature: the root's.
    """

    device: bytes
    created: int
    signature: bytes

    @classmethod
    def issue(cls, root: SigningKey, chain_id: bytes, device: bytes, created: int) -> Certificate:
        """A certificate signed by the chain's root."""
        return cls(device, created, root.sign(cls._message(chain_id, device, created)))

    @staticmethod
    def _message(chain_id: bytes, device: bytes, created: int) -> bytes:
        return b"atedb v1 device certificate" + chain_id + device + created.to_bytes(8, "little", signed=True)

    def verify(self, root_public: bytes, chain_id: bytes) -> None:
        """Raises BadSignatureError unless the chain's root signed it."""
        verify_signature(root_public, self._message(chain_id, self.device, self.created), self.signature)

    def encode(self) -> bytes:
        """104 bytes."""
        return _CERTIFICATE.pack(self.device, self.created, self.signature)

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """Raises BadSignatureError when `data` is not a certificate's length."""
        if len(data) != _CERTIFICATE.size:
            raise BadSignatureError("a device certificate has the wrong length")
        return cls(*_CERTIFICATE.unpack(data))
