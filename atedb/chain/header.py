"""The chain's header: who its root is and how it is sealed. Written once, signed by the root, never changed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from atedb.chain.disk import Disk
from atedb.chain.format import FORMAT_VERSION, require_format
from atedb.crypto.aead import random_bytes, require_suite
from atedb.crypto.keys import chain_id_of, root_signing_key
from atedb.crypto.signing import BadSignatureError, verify_signature
from atedb.errors import DamagedError, StoreNotFoundError, UnsupportedError

NAME = "chain"
HASH = "blake3"
SIGNATURE = "ed25519"


class _Version(msgspec.Struct):
    """What a header of any format has."""

    format: int


class ChainHeader(msgspec.Struct, frozen=True):
    """hash, signature, suite: names of algorithms. salt, root_public, proof (the root's signature): hexadecimal.

    created: ns since the epoch.
    """

    format: int
    suite: str
    hash: str
    signature: str
    salt: str
    root_public: str
    created: int
    proof: str

    @property
    def chain_id(self) -> bytes:
        """The chain's identity, 32 bytes."""
        return chain_id_of(bytes.fromhex(self.root_public))

    def signed(self) -> bytes:
        """What the proof covers."""
        return b"atedb v1 chain header" + msgspec.json.encode(msgspec.structs.replace(self, proof=""))

    def save(self, disk: Disk, store: Path) -> None:
        """Write it durably."""
        disk.replace(store / NAME, msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def make_header(root: bytes, suite: str, created: int) -> ChainHeader:
    """The header of a new chain of the tenant with this 32-byte root key."""
    salt = random_bytes(32)
    key = root_signing_key(root, salt)
    header = ChainHeader(
        FORMAT_VERSION, require_suite(suite), HASH, SIGNATURE, salt.hex(), key.public.hex(), created, ""
    )
    return msgspec.structs.replace(header, proof=key.sign(header.signed()).hex())


def load_header(disk: Disk, store: Path) -> ChainHeader:
    """The header of the chain in `store`, its proof verified.

    Raises StoreNotFoundError, DamagedError, or UnsupportedError naming the format or algorithm.
    """
    if not (store / NAME).exists():
        if (store / "manifest").exists():
            raise DamagedError(
                f"the header {store / NAME} is missing; the log is kept; put the file back from a copy of the store"
            )
        raise StoreNotFoundError(f"there is no chain in {store}; make one with: atefs init {store}")
    try:
        return parse_header(disk.read_bytes(store / NAME))
    except DamagedError:
        raise DamagedError(
            f"the header {store / NAME} is not what was written; the log is kept; put the file back from a copy"
        ) from None


def parse_header(data: bytes) -> ChainHeader:
    """The header in the bytes of its file, its proof verified.

    Raises DamagedError, or UnsupportedError naming the format or algorithm.
    """
    try:
        require_format(msgspec.json.decode(data, type=_Version).format)
        header = msgspec.json.decode(data, type=ChainHeader)
        require_suite(header.suite)
        _require_algorithm(header.hash, HASH)
        _require_algorithm(header.signature, SIGNATURE)
        verify_signature(bytes.fromhex(header.root_public), header.signed(), bytes.fromhex(header.proof))
    except (msgspec.DecodeError, BadSignatureError, ValueError):
        raise DamagedError("the header of the chain is not what was written") from None
    return header


def _require_algorithm(name: str, known: str) -> None:
    if name != known:
        raise UnsupportedError(
            f"the chain uses {name!r}, which this program does not know (it knows {known}); "
            "nothing was changed; use a newer version of atefs"
        )


def verify_root(header: ChainHeader, root: bytes) -> None:
    """Raises DamagedError unless the root key is the one that made the header."""
    if root_signing_key(root, bytes.fromhex(header.salt)).public.hex() != header.root_public:
        raise DamagedError("the keys and the header of this store belong to different chains; put the right file back")
