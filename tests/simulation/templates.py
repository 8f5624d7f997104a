"""The folders that histories begin with, made once: a server with a vault, and machines with replicas of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from atedb.chain import layer, log, replica, stats
from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.header import ChainHeader, load_header
from atedb.crypto.aead import AES_256_GCM
from atedb.crypto.kem import KemKey
from atedb.crypto.slots import KdfParams, KeySlots, Secret
from atedb.node import index
from atefs.mount.opening import terms_for
from atefs.vault.vault import Vault

ROOT_KEY = bytes(range(32))
KEY = KemKey.generate()
"""The server's."""
PATH = "/you@example.com/vault"
NOW = 1_800_000_000 * 10**9
"""When histories begin, ns since 1970."""
WORTH = 8 * stats._BATCH
"""What replaying the tail costs when a checkpoint pays: the same at any load, so that no clock decides."""


def make_first(root: Path) -> None:
    """A machine with a new vault, which no server knows yet."""
    slots = KeySlots.create(ROOT_KEY, clock=lambda: NOW)
    slots.add(ROOT_KEY, Secret.passphrase("simulated"), "simulated", KdfParams(opslimit=1, memlimit=8192))
    chain = Chain.create(
        root / "store", ROOT_KEY, heads=root / "heads", remote=True, suite=AES_256_GCM, clock=lambda: NOW
    )
    Vault.make(chain, lambda: NOW)
    slots.save(root / "store")
    chain.close()


def join(root: Path, first: Path) -> None:
    """A machine with a replica of that vault, with nothing in it yet."""
    header = load_header(RealDisk(), first / "store")
    Chain.create(
        root / "store", ROOT_KEY, heads=root / "heads", remote=True, header=header, clock=lambda: NOW,
        terms=terms_for(header, ROOT_KEY),
    ).close()  # fmt: skip
    for name in ("keys", "keys.copy"):
        shutil.copy(first / "store" / name, root / "store" / name)


def header_of(root: Path) -> ChainHeader:
    return load_header(RealDisk(), root / "store")


@contextmanager
def small_bounds() -> Iterator[None]:
    """Segments are so small in this that they are rolled again and again; views and indexes are folded as often."""
    with (
        mock.patch.multiple(log, SEGMENT_TARGET=48 << 10, ZERO_AHEAD_FIRST=2 << 10, ZERO_AHEAD_MOST=4 << 10),
        mock.patch.multiple(stats, _WORTH=WORTH, _AT_MOST=WORTH),
        mock.patch.object(layer, "MAX_ROWS", 60),
        mock.patch.object(replica, "FOLD_FROM", 40),
        mock.patch.object(index, "FOLD_ROWS", 100),
    ):
        yield
