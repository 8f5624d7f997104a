"""Finding and opening the vault that a command names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from atedb.cli import output
from atedb.errors import InUseError, StoreNotFoundError
from atefs.cli import secrets

if TYPE_CHECKING:
    from atedb.chain.chain import Chain
    from atedb.crypto.slots import KeySlots
    from atefs.mount.session import Session
    from atefs.vault.vault import Vault


def find_store(where: Path) -> Path:
    """The store folder for STORE-OR-MOUNTPOINT: a store, or the mount point of a local vault, mounted or not."""
    from atefs.mount import client, mountinfo, places

    mountpoint = places.canonical(where)
    mount = mountinfo.find(mountpoint)
    if mount is not None and mount.ours:
        try:
            return Path(client.ask(mountpoint, "status")["store"])
        except client.NoDriverError:
            pass
    elif is_store(mountpoint):
        return mountpoint
    local = places.vault_of(mountpoint)
    if is_store(local):
        return local
    raise StoreNotFoundError(
        f"{where} is neither a vault's store nor the mount point of one; nothing was changed; "
        f"make one with: atefs mount {where}"
    )


def is_store(path: Path) -> bool:
    """Whether the folder holds a chain, whole or not."""
    return any((path / name).exists() for name in ("chain", "keys", "keys.copy", "manifest"))


def mountpoint_of(store: Path) -> Path | None:
    """Where the store is mounted, as far as this user's drivers tell."""
    from atefs.mount import client, mountinfo

    for mount in mountinfo.ours():
        try:
            if Path(client.ask(mount.mountpoint, "status", patience=2)["store"]) == store:
                return mount.mountpoint
        except client.NoDriverError:
            continue
    return None


def refuse_mounted(store: Path, instead: str) -> None:
    """Raise InUseError when the store is mounted. instead: what to do, with {0} for the mount point."""
    mountpoint = mountpoint_of(store)
    if mountpoint is not None:
        raise InUseError(f"the vault is mounted at {mountpoint}; nothing was changed; {instead.format(mountpoint)}")


def unlock(store: Path, where: secrets.SecretSource, *, mend: bool, session: Session | None = None) -> bytes:
    """The root key of a store. mend: may a damaged copy of the key slots be written anew from the other? session: who
    we are to its server, if that is known already."""
    from atedb.crypto.slots import KeySlots

    slots = KeySlots.load(store, mend=mend and os.access(store, os.W_OK))
    return unlock_slots(store, slots, where, session=session)


def unlock_slots(
    store: Path, slots: KeySlots, where: secrets.SecretSource, prompt: str = "Passphrase", *,
    session: Session | None = None,
) -> bytes:  # fmt: skip
    """The root key of a store with these key slots: by a login or a token, where there is one, or what somebody types.

    Raises WrongSecretError, NoSecretError, and what the session's keys cannot be had for.
    """
    from atefs.cli import unlocking
    from atefs.mount import servers
    from atefs.mount.session import session_for

    url = servers.attached(store)
    if url is None:
        return secrets.unlock(slots, where, prompt)
    return unlocking.unlock(slots, url, session or session_for(url.server), where, prompt)


@contextmanager
def opened(store: Path, where: secrets.SecretSource, *, read_only: bool) -> Iterator[tuple[Chain, Vault]]:
    """The chain and the vault of a store that is not mounted, closed again at the end."""
    from atefs.mount.opening import open_chain
    from atefs.vault.vault import Vault

    refuse_mounted(store, "use the mount point: ls {0}")
    root = unlock(store, where, mend=not read_only)
    with output.progress("opening") as progress:
        chain = open_chain(store, root, read_only=read_only, progress=progress)
    try:
        yield chain, Vault(chain, read_only=read_only)
    finally:
        chain.close()
