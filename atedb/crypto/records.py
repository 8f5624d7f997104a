"""Records of one direction of a connection: sealed one after the other under one key, opened in this order only.

Source: RFC 8439 (ChaCha20-Poly1305). The nonce is the record's number, so that none can be left out, repeated or moved.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from atedb.crypto.aead import Buffer, SealBrokenError

RECORD_OVERHEAD: Final = 16


class RecordSealer:
    """The sending end. key: 32 bytes that seal nothing else."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._number = 0

    def seal(self, plaintext: Buffer) -> bytes:
        """The next record, 16 bytes longer than `plaintext`."""
        number = self._number
        self._number += 1
        return self._aead.encrypt(number.to_bytes(12, "little"), plaintext, None)


class RecordOpener:
    """The receiving end, of the same key."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._number = 0

    def open(self, record: Buffer) -> bytes:
        """What the next record says. Raises SealBrokenError, after which nothing more is to be opened."""
        try:
            plaintext = self._aead.decrypt(self._number.to_bytes(12, "little"), record, None)
        except InvalidTag:
            raise SealBrokenError("a record is not what was sent") from None
        self._number += 1
        return plaintext
