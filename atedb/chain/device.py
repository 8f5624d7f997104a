"""This machine's signing key for one chain: sealed in the store, certified by the chain's root.

The certificate travels in the first batch that the device signs. A lost or damaged key file is
replaced by a new device.
"""

from __future__ import annotations

from pathlib import Path

from atedb.chain.disk import Disk
from atedb.crypto.aead import SealBrokenError, cipher, random_bytes
from atedb.crypto.hashing import derive
from atedb.crypto.keys import KeyRing
from atedb.crypto.signing import SigningKey
from atedb.errors import StorageError

NAME = "device"
_BOUND = b"atedb v1 device key"


def load_device(disk: Disk, store: Path, keys: KeyRing) -> SigningKey | None:
    """The device's key, or None when there is none that opens."""
    try:
        data = disk.read_bytes(store / NAME)
        seed = cipher(keys.suite, _file_key(keys, data[:32])).open(0, data[32:], _BOUND)
    except (StorageError, SealBrokenError):
        return None
    return SigningKey(seed)


def make_device(disk: Disk, store: Path, keys: KeyRing) -> SigningKey:
    """A new device, its key sealed into the store."""
    seed, salt = random_bytes(32), random_bytes(32)
    disk.replace(store / NAME, salt + cipher(keys.suite, _file_key(keys, salt)).seal(0, seed, _BOUND))
    return SigningKey(seed)


def _file_key(keys: KeyRing, salt: bytes) -> bytes:
    return derive("device file", keys.purpose("device file"), salt)
