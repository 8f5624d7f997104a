"""An account's root: 32 random bytes that only its owner has, and what is made of them.

The server keeps it sealed, and cannot open it. Whoever has it opens every vault of the account.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from atedb.crypto.aead import random_bytes
from atedb.crypto.hashing import derive, digest
from atedb.crypto.kem import KEM_PRIVATE_SIZE, KEM_PUBLIC_SIZE, KemKey
from atedb.crypto.secret import Secret
from atedb.crypto.signing import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, SigningKey, verify_signature

ROOT_SIZE = 32


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What others may know of a user, signed by themselves: who checks the fingerprint once can seal to them.

    signing: Ed25519 public key; kem: X25519 and ML-KEM-768, see `atedb.crypto.kem`.
    """

    email: str
    signing: Annotated[bytes, Meta(min_length=PUBLIC_KEY_SIZE, max_length=PUBLIC_KEY_SIZE)]
    kem: Annotated[bytes, Meta(min_length=KEM_PUBLIC_SIZE, max_length=KEM_PUBLIC_SIZE)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that stand for the user and both keys."""
        return digest(self._signed())

    def verify(self) -> None:
        """Raises BadSignatureError unless the owner of the signing key has signed the rest."""
        verify_signature(self.signing, self._signed(), self.signature)

    def _signed(self) -> bytes:
        return b"atedb v1 card" + self.signing + self.kem + self.email.encode()


class AccountRoot:
    """The root of one account. secret: 32 bytes."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    @classmethod
    def generate(cls) -> AccountRoot:
        """That of a new account."""
        return cls(random_bytes(ROOT_SIZE))

    def __repr__(self) -> str:
        return "AccountRoot(…)"

    def slot_secret(self) -> Secret:
        """What opens the account's slot in the key slots of a vault."""
        return Secret.account(derive("account slots", self.secret))

    def kem(self) -> KemKey:
        """The key to which others seal what is for this user."""
        return KemKey(derive("account kem", self.secret, length=KEM_PRIVATE_SIZE))

    def card(self, email: str) -> Card:
        """The account's card."""
        signing = SigningKey(derive("account identity", self.secret))
        blank = Card(email, signing.public, self.kem().public, bytes(SIGNATURE_SIZE))
        return msgspec.structs.replace(blank, signature=signing.sign(blank._signed()))
