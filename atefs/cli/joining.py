"""The first mount of a chain on a server: from then on this machine has a replica of it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from atedb.errors import AteError, ExitCode, StoreExistsError, StoreNotFoundError
from atefs.cli import secrets
from atefs.cli.asking import ask
from atefs.cli.new_store import made_beside, refuse_existing
from atefs.cli.unlocking import unlock

if TYPE_CHECKING:
    from atedb.net.client import ServerConnection
    from atedb.net.url import ServerUrl
    from atefs.mount.session import Session


class OtherVaultError(AteError):
    """The server has another vault under the address than the one that is to be there."""

    exit_code = ExitCode.EXISTS


class _Founding(NamedTuple):
    """What a chain is opened with before its first batch."""

    header: bytes
    keys: bytes


def join(mountpoint: Path, store: Path, url: ServerUrl, where: secrets.SecretSource, session: Session) -> bytes:
    """Make the replica `store` of the chain at `url`; where there is no chain yet, make the vault and the chain, too.

    session: who we are to the server; the vault is opened with it where it can be.

    Returns the root key. A crash in between leaves either nothing, or a store that the next mount goes on with. Raises
    what connecting does, WrongSecretError, OtherVaultError.
    """
    found = ask(url, session.identity, _founding(url))
    if found is None:
        return _found(mountpoint, store, url, where, session)
    return _copy(store, url, found, where, session)


def send(store: Path, url: ServerUrl, session: Session) -> None:
    """Let the vault in `store`, which is whole, be at `url` from now on: make the chain there, unless it is there.

    Raises OtherVaultError when another one is, and what connecting does; then nothing has changed.
    """
    from atefs.mount import servers
    from atefs.mount.shared_slots import SLOTS

    header, keys = (store / "chain").read_bytes(), (store / SLOTS).read_bytes()

    async def make(connection: ServerConnection) -> None:
        await connection.open(url.path, create=(header, keys))

    try:
        ask(url, session.identity, make)
    except StoreExistsError:
        raise OtherVaultError(
            f"there is another vault at {url} than the one in {store}; nothing was sent; mount it at another mount "
            "point, or name another address"
        ) from None
    servers.attach(store, url)


def _founding(url: ServerUrl) -> Callable[[ServerConnection], Awaitable[_Founding | None]]:
    async def fetch(connection: ServerConnection) -> _Founding | None:
        from atefs.mount.shared_slots import SLOTS

        try:
            opened = await connection.open(url.path)
        except StoreNotFoundError:
            return None
        keys, _ = await connection.document(SLOTS)
        return _Founding(opened.header, keys)

    return fetch


def _found(
    mountpoint: Path, store: Path, url: ServerUrl, where: secrets.SecretSource, session: Session
) -> bytes:  # fmt: skip
    """A new vault, here and on the server: the account opens it, where somebody is logged in, or a new passphrase."""
    from atedb.crypto.slot import MAX_LABEL
    from atedb.crypto.slots import KeySlots
    from atefs.cli.creating import create_store, show_recovery_code

    click.echo(f"There is no vault at {url} yet; making one, with a replica for {mountpoint} in {store}.")
    if session.account is not None and where.interactive:
        first, label = session.account.slot_secret(), f"account {session.email}"[:MAX_LABEL]
    else:
        first, label = secrets.new_secret(where), "first key"
    with first as secret:
        code = create_store(store, secret, label, remote=True)
        try:
            send(store, url, session)
        except OtherVaultError:
            shutil.rmtree(store)  # somebody else was quicker: nothing is in it, and nobody has seen its keys
            raise OtherVaultError(
                f"somebody else has made a vault at {url} just now; nothing was changed; mount it: say the same again"
            ) from None
        except BaseException:  # it may be on the server all the same, and the next mount goes on with it
            show_recovery_code(code)
            raise
        show_recovery_code(code)
        return KeySlots.load(store).unlock(secret)


def _copy(
    store: Path, url: ServerUrl, found: _Founding, where: secrets.SecretSource, session: Session
) -> bytes:  # fmt: skip
    """A replica of a vault that is there, empty yet: its driver fills it."""
    from atedb.chain.chain import Chain
    from atedb.chain.header import parse_header, verify_root
    from atedb.crypto.slots import KeySlots
    from atefs.mount import places, servers
    from atefs.mount.opening import terms_for
    from atefs.mount.shared_slots import SLOTS

    refuse_existing(store)
    header = parse_header(found.header)
    with made_beside(store) as unfinished:
        places.private_folder(unfinished)
        (unfinished / SLOTS).write_bytes(found.keys)
        slots = KeySlots.load(unfinished)
        root = unlock(slots, url, session, where)
        verify_root(header, root)
        chain = Chain.create(
            unfinished, root, heads=places.heads_folder(store), header=header, remote=True,
            terms=terms_for(header, root),
        )  # fmt: skip
        chain.close()
        slots.save(unfinished)
        servers.attach(unfinished, url)
    return root
