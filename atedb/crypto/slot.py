"""One key slot: the root key, wrapped under one secret.

Argon2id (RFC 9106) makes a key from the secret and a fresh salt; BLAKE3 makes of it the wrapping key and 32 bytes that
commit to it; XChaCha20-Poly1305 wraps the root key. Poly1305 alone does not commit to a key: one ciphertext can be made
to open under two (Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021). The commitment
closes that.
"""

from __future__ import annotations

import hmac
import struct
from typing import Annotated, Final

import msgspec
from nacl import bindings
from nacl.exceptions import CryptoError

from atedb.crypto.aead import TAG_SIZE, XCHACHA20_POLY1305, SealBrokenError, cipher, random_bytes
from atedb.crypto.hashing import derive
from atedb.crypto.keys import COMMITMENT_SIZE, ROOT_KEY_SIZE
from atedb.crypto.secret import Secret, SecretKind
from atedb.errors import AteError, DamagedError, UnsupportedError

ARGON2ID: Final = "argon2id"
SALT_SIZE = 16
MAX_LABEL = 64
MAX_OPSLIMIT = 8
MIN_MEMLIMIT = 8 << 10
MAX_MEMLIMIT = 512 << 20

_BOUND = struct.Struct("<8sBIQ16s")
_KIND_NUMBER = {SecretKind.PASSPHRASE: 1, SecretKind.KEY_FILE: 2, SecretKind.RECOVERY: 3, SecretKind.ACCOUNT: 4}


class KdfParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cost of one Argon2id run: passes over memory, and memory in bytes; one lane.

    The default is RFC 9106's second recommended option (section 4: t=3, 64 MiB).

    A file's parameters are checked before they are used. The upper bounds keep a hostile file from taking all memory
    or hours: 16 slots at the most cost about half a minute. The lower bounds are Argon2's own. A higher floor would
    protect nobody on reading: the cost of an existing slot is an input of its key and bound to the wrapped key, so
    that a lowered one opens nothing, and a new slot takes its cost from this program, never from the file.
    """

    algorithm: str = ARGON2ID
    opslimit: int = 3
    memlimit: int = 64 << 20

    def verify(self) -> None:
        """Raises UnsupportedError for an unknown algorithm, DamagedError for a cost out of bounds."""
        if self.algorithm != ARGON2ID:
            raise UnsupportedError(
                f"a key slot uses {self.algorithm!r}, which this program does not know (it knows {ARGON2ID}); "
                "nothing was changed; use a newer version of atefs"
            )
        if not (
            1 <= self.opslimit <= MAX_OPSLIMIT
            and MIN_MEMLIMIT <= self.memlimit <= MAX_MEMLIMIT
            and self.memlimit % 1024 == 0
        ):
            raise DamagedError(
                f"a key slot asks for {self.opslimit} passes over {self.memlimit} bytes of memory, outside of what "
                f"this program does (1 to {MAX_OPSLIMIT} passes, {MIN_MEMLIMIT} to {MAX_MEMLIMIT} bytes); nothing was "
                "changed; put the file `keys` back from a backup"
            )


# A recovery code has 180 random bits, an account's key 256: no cost makes guessing them any less hopeless.
RECOVERY_KDF = KdfParams(opslimit=1, memlimit=MIN_MEMLIMIT)

# A value whose only use is to cost what an attempt costs, where a vault has no slot of the kind asked for.
_NO_SALT = bytes(SALT_SIZE)


def is_label(text: str) -> bool:
    """Whether the text may label a slot: short, and unable to play tricks on a terminal."""
    return text.isprintable() and len(text) <= MAX_LABEL


def stretch(secret: Secret, salt: bytes, kdf: KdfParams) -> bytes:
    """32 bytes from a secret, at the cost of `kdf`. Raises AteError where the memory is not to be had."""
    kdf.verify()
    try:
        return bindings.crypto_pwhash_alg(
            32, secret.reveal(), salt, kdf.opslimit, kdf.memlimit, bindings.crypto_pwhash_ALG_ARGON2ID13
        )
    except (CryptoError, MemoryError):
        raise AteError(
            f"this machine did not give the {kdf.memlimit >> 20} MiB of memory that trying a key takes; nothing was "
            "changed; free some memory and run the command again"
        ) from None


def default_cost(kind: SecretKind) -> KdfParams:
    """What a new slot costs."""
    return RECOVERY_KDF if kind in (SecretKind.RECOVERY, SecretKind.ACCOUNT) else KdfParams()


def idle(secret: Secret) -> None:
    """The work of one attempt at the default cost, for nothing."""
    stretch(secret, _NO_SALT, default_cost(secret.kind))


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key slot as it is stored. created: nanoseconds since 1970."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{8}$")]
    kind: SecretKind
    label: str
    created: Annotated[int, msgspec.Meta(ge=0)]
    kdf: KdfParams
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_SIZE, max_length=SALT_SIZE)]
    commitment: Annotated[bytes, msgspec.Meta(min_length=COMMITMENT_SIZE, max_length=COMMITMENT_SIZE)]
    wrapped: Annotated[bytes, msgspec.Meta(min_length=ROOT_KEY_SIZE + TAG_SIZE, max_length=ROOT_KEY_SIZE + TAG_SIZE)]
    cipher: str = XCHACHA20_POLY1305

    @classmethod
    def wrap(cls, slot_id: str, label: str, created: int, *, root: bytes, secret: Secret, kdf: KdfParams) -> Slot:
        """A slot from which `secret` gets `root` (32 bytes) again."""
        salt = random_bytes(SALT_SIZE)
        key, commitment = _keys(secret, salt, kdf)
        bound = _bound(slot_id, secret.kind, kdf, salt)
        # The key is used this once (its salt is fresh), so the number that makes the nonce is always 0.
        wrapped = cipher(XCHACHA20_POLY1305, key).seal(0, root, bound)
        return cls(slot_id, secret.kind, label, created, kdf, salt, commitment, wrapped)

    def unwrap(self, secret: Secret) -> bytes | None:
        """The root key, or None where this secret does not open this slot: the same work either way."""
        key, commitment = _keys(secret, self.salt, self.kdf)
        try:
            root = cipher(self.cipher, key).open(0, self.wrapped, _bound(self.id, self.kind, self.kdf, self.salt))
        except SealBrokenError:
            root = None
        committed = hmac.compare_digest(commitment, self.commitment)
        return root if committed and self.kind is secret.kind else None

    def verify(self) -> None:
        """Raises UnsupportedError for an unknown algorithm, DamagedError for a cost or a label out of bounds."""
        self.kdf.verify()
        if not is_label(self.label):
            # Labels are shown before any key has vouched for them.
            raise DamagedError("a key slot has a label that atefs does not write; put `keys` back from a backup")
        if self.cipher != XCHACHA20_POLY1305:
            raise UnsupportedError(
                f"a key slot is wrapped with {self.cipher!r}, which this program does not know (it knows "
                f"{XCHACHA20_POLY1305}); nothing was changed; use a newer version of atefs"
            )


def _keys(secret: Secret, salt: bytes, kdf: KdfParams) -> tuple[bytes, bytes]:
    material = derive("key slot", stretch(secret, salt, kdf), length=32 + COMMITMENT_SIZE)
    return material[:32], material[32:]


def _bound(slot_id: str, kind: SecretKind, kdf: KdfParams, salt: bytes) -> bytes:
    packed = _BOUND.pack(slot_id.encode("ascii"), _KIND_NUMBER[kind], kdf.opslimit, kdf.memlimit, salt)
    return b"atedb v1 key slot" + packed
