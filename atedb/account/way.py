"""A way into an account: by its password, or by its recovery code.

The client makes 32 bytes of the secret by Argon2id (RFC 9106), and of these two keys: one that signs, whose public half
the server keeps; and one under which the account's root is sealed. So the server verifies a login and can decrypt
nothing, and whoever steals its folder pays an Argon2id run for each guess.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from atedb.account.root import ROOT_SIZE, AccountRoot
from atedb.crypto.aead import SealBrokenError, random_bytes
from atedb.crypto.envelope import ENVELOPE_OVERHEAD, open_secret, seal_secret
from atedb.crypto.hashing import derive
from atedb.crypto.secret import Secret, SecretKind
from atedb.crypto.signing import PUBLIC_KEY_SIZE, SigningKey
from atedb.crypto.slot import RECOVERY_KDF, SALT_SIZE, KdfParams, stretch
from atedb.errors import AteError, DamagedError, ExitCode

_SEALED = ROOT_SIZE + ENVELOPE_OVERHEAD
Salt = Annotated[bytes, Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]
Sealed = Annotated[bytes, Meta(min_length=_SEALED, max_length=_SEALED)]
PublicKey = Annotated[bytes, Meta(min_length=PUBLIC_KEY_SIZE, max_length=PUBLIC_KEY_SIZE)]


class WayKind(StrEnum):
    """What somebody has to know."""

    PASSWORD = "password"
    RECOVERY = "recovery"


class CheapPasswordError(AteError):
    """The server names a cost at which guessing would be cheap."""

    exit_code = ExitCode.REFUSED


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the client has to know of a way to make its keys."""

    kdf: KdfParams
    salt: Salt

    def verify(self, kind: WayKind) -> None:
        """Raises CheapPasswordError below the cost that this program takes for new passwords.

        What the password becomes is known to the server: at a low cost, it could guess. Raises UnsupportedError and
        DamagedError as `KdfParams.verify`.
        """
        self.kdf.verify()
        least = _COSTS[kind]
        if self.kdf.opslimit < least.opslimit or self.kdf.memlimit < least.memlimit:
            raise CheapPasswordError(
                "the server asks for a login that would make the password cheap to guess; nothing was sent; do not log "
                "in there, and ask whoever runs it"
            )


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server keeps. login: the public key of who knows the secret. sealed: the account's root."""

    kind: WayKind
    kdf: KdfParams
    salt: Salt
    login: PublicKey
    sealed: Sealed

    @property
    def question(self) -> Question:
        """What a client is told before it has proven anything."""
        return Question(self.kdf, self.salt)


class WayKeys(NamedTuple):
    """What a secret becomes. login: signs requests; wrapping: 32 bytes under which the account's root is sealed."""

    login: SigningKey
    wrapping: bytes

    @classmethod
    def of(cls, secret: Secret, email: str, kind: WayKind, question: Question) -> WayKeys:
        """Takes about 0.1 s for a password. Raises AteError where the memory is not to be had."""
        stretched = stretch(secret, question.salt, question.kdf)
        material = derive("account way", stretched, str(kind).encode(), email.encode(), length=64)
        return cls(SigningKey(material[:32]), material[32:])

    def open(self, sealed: bytes, email: str) -> AccountRoot:
        """The account's root. Raises DamagedError for one that was not sealed by who knows the secret."""
        try:
            return AccountRoot(open_secret(self.wrapping, sealed, "account root", email.encode()))
        except SealBrokenError:
            raise DamagedError(
                "the server let us in, but what it keeps of the account does not open; nothing was changed; use the "
                "recovery code: atefs user recover"
            ) from None


_COSTS = {WayKind.PASSWORD: KdfParams(), WayKind.RECOVERY: RECOVERY_KDF}
_KINDS = {WayKind.PASSWORD: SecretKind.PASSPHRASE, WayKind.RECOVERY: SecretKind.RECOVERY}


def default_question(kind: WayKind, salt: bytes) -> Question:
    """At the cost that this program takes."""
    return Question(_COSTS[kind], salt)


def make_way(kind: WayKind, secret: Secret, email: str, root: AccountRoot) -> Way:
    """A way for a secret of its kind."""
    assert secret.kind is _KINDS[kind]
    question = default_question(kind, random_bytes(SALT_SIZE))
    keys = WayKeys.of(secret, email, kind, question)
    sealed = seal_secret(keys.wrapping, root.secret, "account root", email.encode())
    return Way(kind, question.kdf, question.salt, keys.login.public, sealed)
