"""`atefs init`, and what the first `atefs mount` does: making a vault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atedb.cli.sizes import parse_size
from atefs.cli import secrets
from atefs.cli.new_store import made_beside, refuse_existing

if TYPE_CHECKING:
    from atedb.crypto.slots import Secret


@click.command()
@click.argument("store", type=click.Path(readable=False, path_type=Path))
@click.option("--quota", type=str, metavar="SIZE", help="Refuse to hold more than this, for example 20G.")
@secrets.secret_options
@output.json_option
def init(store: Path, *, quota: str | None, secret: secrets.SecretSource, as_json: bool) -> None:
    """Make a new vault in the folder STORE, without mounting it.

    A recovery code is printed once: it opens the vault when the passphrase is lost.

    \b
    Examples:
      atefs init /srv/vaults/photos
      atefs mount ~/photos /srv/vaults/photos
    """
    store = Path(os.path.abspath(store))
    limit = parse_size(quota) if quota else 0
    refuse_existing(store)
    with secrets.new_secret(secret) as first:
        code = create_store(store, first, quota=limit)
    if as_json:
        output.print_json({"store": store, "recovery_code": code})
    else:
        click.echo(f"Made a vault in {store}.")
        show_recovery_code(code)
        click.echo(f"Mount it with: atefs mount MOUNTPOINT {store}")


def create_store(
    store: Path, secret: Secret, label: str = "first key", *, quota: int = 0, remote: bool = False
) -> str:  # fmt: skip
    """A new vault in the folder `store`, which opens with the secret, listed by `label`; its recovery code.

    Made beside its place and moved there when it is whole and durable: a crash leaves no half of a vault. quota: bytes,
    0 for none. remote: it is to follow a server. Raises StoreExistsError and what the disk answers.
    """
    from atedb.chain.chain import Chain
    from atedb.crypto.aead import random_bytes
    from atedb.crypto.recovery_code import generate_code
    from atedb.crypto.slots import KeySlots, Secret
    from atefs.mount import places
    from atefs.vault.vault import Vault

    refuse_existing(store)
    root = random_bytes(32)
    code = generate_code()
    slots = KeySlots.create(root)
    slots.add(root, secret, label)
    slots.add(root, Secret.recovery_code(code), "recovery code")
    with made_beside(store) as unfinished:
        heads = places.heads_folder(store if remote else None)
        chain = Chain.create(unfinished, root, heads=heads, remote=remote)
        try:
            Vault.make(chain, uid=os.getuid(), gid=os.getgid(), quota=quota)
            slots.save(unfinished)
        finally:
            chain.close()
    return code


def show_recovery_code(code: str, can: str = "open the vault") -> None:
    """The one time that it is shown. can: what whoever has it can do."""
    click.echo()
    click.echo(f"Recovery code, shown this once. Whoever has it can {can}; write it down and keep it safe:")
    click.echo()
    click.echo(f"    {code}")
    click.echo()
