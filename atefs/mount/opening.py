"""Opening the chain of a vault, in the one way that every command does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.header import load_header, verify_root
from atedb.crypto.keys import KeyRing
from atefs.mount import places
from atefs.vault.codec import Keys, terms_of


def names_of(store: Path, root: bytes) -> Keys:
    """What names the objects and sets of the chain in the folder. Raises DamagedError for another chain's root key."""
    header = load_header(RealDisk(), store)
    verify_root(header, root)
    return KeyRing(root, header.chain_id, header.suite)


def open_chain(
    store: Path, root: bytes, *, read_only: bool = False, accept_rollback: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Chain:  # fmt: skip
    """The chain in the folder, for the vault with this root key.

    progress: called with bytes done and in all while a long log is replayed. Raises what `Chain.open` does.
    """
    return Chain.open(
        store, root, terms=terms_of(names_of(store, root)), read_only=read_only, heads=places.heads_folder(),
        accept_rollback=accept_rollback, progress=progress,
    )  # fmt: skip
