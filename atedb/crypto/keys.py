"""From one root key to a key for each purpose, epoch and batch."""

from __future__ import annotations

from atedb.crypto.aead import Cipher, cipher
from atedb.crypto.hashing import derive, digest, keyed
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, DamagedError, ExitCode

ROOT_KEY_SIZE = 32
TENANT_SIZE = 16
OBJECT_KEY_SIZE = 16
SALT_SIZE = 32
COMMITMENT_SIZE = 32


class MissingKeyError(AteError):
    """An event is sealed under a tenant or epoch whose key is not held here."""

    exit_code = ExitCode.WRONG_SECRET


def chain_id_of(root_public: bytes) -> bytes:
    """A chain's identity: the 32-byte hash of its root public key."""
    return digest(b"atedb v1 chain id" + root_public)


def root_signing_key(root: bytes, chain_salt: bytes) -> SigningKey:
    """The key that signs a chain's header and certifies its devices; one per chain."""
    return SigningKey(derive("chain root signing key", root, chain_salt))


class KeyRing:
    """The keys that one holder of a tenant's root key has in one chain.

    root: 32 bytes. chain_id: 32 bytes. suite: the chain's AEAD.
    """

    def __init__(self, root: bytes, chain_id: bytes, suite: str) -> None:
        self.chain_id = chain_id
        self.suite = suite
        self.tenant = derive("tenant identifier", root, chain_id, length=TENANT_SIZE)
        self.epoch = 1
        self._root = root
        self._objects = derive("object identifiers", root, chain_id)
        self._epochs: dict[tuple[bytes, int], bytes] = {}

    def __repr__(self) -> str:
        return f"KeyRing(tenant={self.tenant.hex()}, epoch={self.epoch})"

    def purpose(self, name: str) -> bytes:
        """A 32-byte key for one more use inside this chain."""
        return derive(name, self._root, self.chain_id)

    def object_key(self, kind: bytes, *parts: bytes) -> bytes:
        """The opaque 16-byte key of an object. kind: one byte, which fixes how the parts are laid out."""
        return keyed(self._objects, kind + b"".join(parts), OBJECT_KEY_SIZE)

    group_key = object_key
    """The opaque 16-byte key of a sealed set: of a kind that no object has."""

    def epoch_key(self, tenant: bytes, epoch: int) -> bytes:
        """The key of one generation of a tenant. Raises MissingKeyError."""
        if tenant != self.tenant:
            raise MissingKeyError(f"the key of tenant {tenant.hex()} is not held here; nothing was changed")
        key = self._epochs.get((tenant, epoch))
        if key is None:
            key = derive("epoch key", self._root, self.chain_id, tenant, epoch.to_bytes(4, "little"))
            self._epochs[tenant, epoch] = key
        return key

    def batch_cipher(self, tenant: bytes, epoch: int, salt: bytes) -> tuple[Cipher, bytes]:
        """The cipher of one batch, and the 32 bytes that commit to its key.

        AES-GCM alone does not commit to a key: one ciphertext can be made to open under two. The commitment,
        derived beside the key and compared by `open_batch_cipher`, closes that.
        """
        material = derive("batch key", self.epoch_key(tenant, epoch), self.chain_id, salt, length=64)
        return cipher(self.suite, material[:32]), material[32:]

    def open_batch_cipher(self, tenant: bytes, epoch: int, salt: bytes, commitment: bytes) -> Cipher:
        """As `batch_cipher`, for reading. Raises DamagedError when the commitment is not this key's."""
        opened, expected = self.batch_cipher(tenant, epoch, salt)
        if commitment != expected:
            raise DamagedError("a batch does not commit to its tenant's key: it was sealed under another one")
        return opened
