"""What a login or a token opens of a vault on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from atedb.errors import WrongSecretError
from atefs.cli import secrets
from atefs.cli.asking import about_account

if TYPE_CHECKING:
    from atedb.account.token import Bundle
    from atedb.crypto.slots import KeySlots
    from atedb.net.url import ServerUrl
    from atefs.mount.session import Session


def unlock(
    slots: KeySlots, url: ServerUrl, session: Session, where: secrets.SecretSource, prompt: str = "Passphrase"
) -> bytes:  # fmt: skip
    """The root key of the vault with these slots: by the session where it opens it, else by what somebody types.

    A secret that the command line names goes before the session. Raises as `secrets.unlock` and `bundle_of`.
    """
    root = by_session(slots, url, session) if where.interactive else None
    return root or secrets.unlock(slots, where, prompt)


def bundle_of(url: ServerUrl, session: Session) -> Bundle:
    """The keys that a session gives: those of its login, or those that the server keeps, sealed, for its token.

    Without a connection, those that it had when it was asked last. Raises RefusedError for a token that is let in no
    more; DamagedError, ConnectionLostError.
    """
    from atedb.account.token import Bundle
    from atedb.chain.disk import RealDisk
    from atedb.net.errors import ConnectionLostError, RefusedError
    from atefs.mount import places
    from atefs.mount.session import bundle_cache

    if session.account is not None:
        return Bundle(account=session.account.secret)
    if session.token is None:
        return Bundle()
    cache = bundle_cache(session.token)
    try:
        sealed = about_account(url, session, lambda client: client.bundle())
    except ConnectionLostError:
        if not cache.exists():
            raise
        return session.token.open(RealDisk().read_bytes(cache))
    except RefusedError:
        cache.unlink(missing_ok=True)
        raise
    places.write_private(cache, sealed)
    return session.token.open(sealed)


def by_session(slots: KeySlots, url: ServerUrl, session: Session) -> bytes | None:
    """The root key of the vault with these slots; None where the session does not open it, which is said.

    Raises as `bundle_of`.
    """
    from atedb.crypto.slots import SecretKind

    if session.token is None:
        return None
    bundle = bundle_of(url, session)
    root, account = bundle.chain_root(url.path), bundle.account_root
    if root is not None:
        return root
    if account is not None and any(slot.kind is SecretKind.ACCOUNT for slot in slots.list()):
        with account.slot_secret() as secret:
            try:
                return slots.unlock(secret)
            except WrongSecretError:
                pass
    click.echo(f"{url} is not opened by your account; let it: atefs key add --account STORE-OR-MOUNTPOINT", err=True)
    return None
