"""Opening the chain of a vault, in the one way that every command does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.event import TermsOf
from atedb.chain.header import ChainHeader, load_header, verify_root
from atedb.chain.remote import NAME as REMOTE
from atedb.crypto.keys import KeyRing
from atefs.mount import places
from atefs.vault.codec import Keys, terms_of


def terms_for(header: ChainHeader, root: bytes) -> TermsOf:
    """How the view of the chain with this header is made from its log."""
    return terms_of(KeyRing(root, header.chain_id, header.suite))


def names_of(store: Path, root: bytes) -> Keys:
    """What names the objects and sets of the chain in the folder. Raises DamagedError for another chain's root key."""
    header = load_header(RealDisk(), store)
    verify_root(header, root)
    return KeyRing(root, header.chain_id, header.suite)


def follows_server(store: Path) -> bool:
    """Whether the store is a replica of a chain on a server."""
    return (store / REMOTE).exists()


def heads_of(store: Path, *, remote: bool = False) -> Path:
    """The folder where the head of the chain in the store is remembered. remote: it is to follow a server."""
    return places.heads_folder(store if remote or follows_server(store) else None)


def open_chain(
    store: Path, root: bytes, *, read_only: bool = False, accept_rollback: bool = False,
    progress: Callable[[int, int], None] | None = None, remote: bool = False,
) -> Chain:  # fmt: skip
    """The chain in the folder, for the vault with this root key.

    progress: called with bytes done and in all while a long log is replayed. remote: it follows a server. Raises what
    `Chain.open` does.
    """
    heads = heads_of(store, remote=remote)
    return Chain.open(
        store, root, terms=terms_of(names_of(store, root)), read_only=read_only, heads=heads,
        accept_rollback=accept_rollback, progress=progress, remote=remote,
    )  # fmt: skip
