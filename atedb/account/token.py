"""A token: 32 random bytes that let somebody in within limits, and their text.

The text is `ate_` and 58 letters and digits: the secret, and four bytes of a checksum, in base32 (RFC 4648) without
padding, in lower case. What looks like a token can so be searched for, and a slip of the hand is found here.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import msgspec
from msgspec import Meta

from atedb.account.root import AccountRoot
from atedb.crypto.aead import SealBrokenError, random_bytes
from atedb.crypto.envelope import open_secret, seal_secret
from atedb.crypto.hashing import derive, digest
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, DamagedError, ExitCode

PREFIX = "ate_"
_SECRET, _CHECKSUM = 32, 4
_TEXT = 58
MAX_CHAINS = 16
MAX_BUNDLE = 8 << 10


class TokenError(AteError):
    """A text that is no token."""

    exit_code = ExitCode.WRONG_SECRET


class ChainKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The root key of one chain."""

    path: Annotated[str, Meta(max_length=255)]
    root: Annotated[bytes, Meta(min_length=32, max_length=32)]

    def __repr__(self) -> str:
        return f"ChainKey(path={self.path!r})"


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys that a token gives. account: the account's root, for all that the account opens; or chain by chain."""

    account: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None
    chains: Annotated[tuple[ChainKey, ...], Meta(max_length=MAX_CHAINS)] = ()

    def __repr__(self) -> str:
        return "Bundle(…)"

    @property
    def account_root(self) -> AccountRoot | None:
        """The account's root, where the token gives it."""
        return AccountRoot(self.account) if self.account is not None else None

    def chain_root(self, path: str) -> bytes | None:
        """The root key of a chain, where the token gives it by itself."""
        return next((one.root for one in self.chains if one.path == path), None)


class Token:
    """What a token's text says. identity: the key by which a server knows it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.identity = SigningKey(derive("token identity", secret))

    @classmethod
    def generate(cls) -> Token:
        """A new one."""
        return cls(random_bytes(_SECRET))

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token of a text, which may have blanks around it. Raises TokenError, which repeats nothing of it."""
        word = text.strip()
        try:
            data = base64.b32decode(word.removeprefix(PREFIX).upper() + "=" * (-_TEXT % 8))
        except (binascii.Error, ValueError):
            data = b""
        if not word.startswith(PREFIX) or len(data) != _SECRET + _CHECKSUM or _checksum(data[:_SECRET]) != data[-4:]:
            raise TokenError(
                f"this is not a token as it was printed: one is {PREFIX} and {_TEXT} letters and digits, of which the "
                "last are a checksum; nothing was sent; copy it again, or make one with: atefs create-token"
            )
        return cls(data[:_SECRET])

    def __repr__(self) -> str:
        return f"Token(id={self.id})"

    @property
    def text(self) -> str:
        """What is kept in a file, and shown once."""
        data = self._secret + _checksum(self._secret)
        return PREFIX + base64.b32encode(data).decode("ascii").rstrip("=").lower()

    @property
    def id(self) -> str:
        """What lists call it."""
        return token_id(self.identity.public)

    def seal(self, bundle: Bundle) -> bytes:
        """The keys that it gives, for the server to keep: without the token, they cannot be read."""
        return seal_secret(self._key, msgspec.msgpack.encode(bundle), "token bundle")

    def open(self, sealed: bytes) -> Bundle:
        """The keys again. Raises DamagedError."""
        try:
            return msgspec.msgpack.decode(open_secret(self._key, sealed, "token bundle"), type=Bundle)
        except (SealBrokenError, msgspec.MsgspecError):
            raise DamagedError(
                "the server knows the token, but the keys that it keeps for it do not open; nothing was changed; make "
                "another token: atefs create-token"
            ) from None

    @property
    def _key(self) -> bytes:
        return derive("token key", self._secret)


def token_id(identity: bytes) -> str:
    """Twelve hexadecimal digits that stand for the token with this public key."""
    return digest(b"atedb v1 token" + identity)[:6].hex()


def _checksum(secret: bytes) -> bytes:
    return digest(b"atedb v1 token checksum" + secret)[:_CHECKSUM]
