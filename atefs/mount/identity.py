"""Who this machine is to servers: an Ed25519 key of its own, in one file. It opens no vault."""

from __future__ import annotations

import os
from pathlib import Path

from atedb.chain.disk import RealDisk
from atedb.crypto.aead import random_bytes
from atedb.crypto.signing import SigningKey
from atedb.errors import DamagedError
from atefs.mount import places

_HEAD = b"ate identity v1 "
_SEED = 32


def identity_file() -> Path:
    """Where the key is kept, closed to others."""
    return places.config_home() / "identity"


def identity() -> SigningKey:
    """The key; made when there is none yet. Raises DamagedError for a file that holds none, StorageError."""
    path = identity_file()
    if not os.path.lexists(path):
        places.write_private(path, _HEAD + random_bytes(_SEED).hex().encode() + b"\n")
    text = RealDisk().read_bytes(path)
    try:
        seed = bytes.fromhex(text.removeprefix(_HEAD).strip().decode("ascii"))
    except ValueError:
        seed = b""
    if not text.startswith(_HEAD) or len(seed) != _SEED:
        raise DamagedError(
            f"{path} holds no identity; nothing was changed; put it back from a copy, or move it away: then a new one "
            "is made, which servers have to be told of"
        )
    return SigningKey(seed)
