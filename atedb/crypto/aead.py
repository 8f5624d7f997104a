"""Authenticated encryption: the suites a chain may name, behind one small interface.

A cipher is made for one key that seals one batch only, so nonces are plain counters: an event's place in its batch.
"""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings
from nacl.exceptions import CryptoError

from atedb.errors import DamagedError, UnsupportedError

KEY_SIZE = 32
TAG_SIZE = 16
AES_256_GCM = "aes-256-gcm"
XCHACHA20_POLY1305 = "xchacha20-poly1305"

Buffer = bytes | bytearray | memoryview


class SealBrokenError(DamagedError):
    """A sealed body did not verify: it was changed, moved, or belongs to another key."""


class Cipher(ABC):
    """Seals and opens under one key. Never seal two bodies with one number."""

    @abstractmethod
    def seal(self, number: int, body: Buffer, bound: bytes) -> bytes:
        """`body` sealed, with `bound` as associated data; 16 bytes longer than `body`."""

    @abstractmethod
    def open(self, number: int, sealed: Buffer, bound: bytes) -> bytes:
        """The body again. Raises SealBrokenError."""


class _AesGcm(Cipher):
    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, number: int, body: Buffer, bound: bytes) -> bytes:
        return self._aead.encrypt(number.to_bytes(12, "little"), body, bound)

    def open(self, number: int, sealed: Buffer, bound: bytes) -> bytes:
        try:
            return self._aead.decrypt(number.to_bytes(12, "little"), sealed, bound)
        except InvalidTag:
            raise SealBrokenError("a sealed body does not verify") from None


class _XChaCha20Poly1305(Cipher):
    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, number: int, body: Buffer, bound: bytes) -> bytes:
        return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
            bytes(body), bound, number.to_bytes(24, "little"), self._key
        )

    def open(self, number: int, sealed: Buffer, bound: bytes) -> bytes:
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                bytes(sealed), bound, number.to_bytes(24, "little"), self._key
            )
        except CryptoError:
            raise SealBrokenError("a sealed body does not verify") from None


_SUITES: dict[str, type[_AesGcm] | type[_XChaCha20Poly1305]] = {
    AES_256_GCM: _AesGcm,
    XCHACHA20_POLY1305: _XChaCha20Poly1305,
}


def require_suite(name: str) -> str:
    """`name`, if this program knows the suite. Raises UnsupportedError, which names it."""
    if name not in _SUITES:
        known = ", ".join(sorted(_SUITES))
        raise UnsupportedError(
            f"the chain is sealed with {name!r}, which this program does not know (it knows {known}); "
            "nothing was changed; use a newer version of atefs"
        )
    return name


def cipher(suite: str, key: bytes) -> Cipher:
    """A cipher of the named suite under a 32-byte key. Raises UnsupportedError."""
    return _SUITES[require_suite(suite)](key)


@functools.cache
def preferred_suite() -> str:
    """AES-256-GCM where the processor has AES instructions, else XChaCha20-Poly1305."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return XCHACHA20_POLY1305
    for line in flags.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return AES_256_GCM if "aes" in value.split() else XCHACHA20_POLY1305
    return XCHACHA20_POLY1305


def random_bytes(size: int) -> bytes:
    """`size` bytes of the operating system's randomness."""
    return secrets.token_bytes(size)
