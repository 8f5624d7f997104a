"""`atefs passwd`, `atefs key add|list|remove`: what opens a vault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atefs.cli import opening, secrets

if TYPE_CHECKING:
    from atedb.crypto.slots import Secret

_WHERE = click.argument("where", metavar="STORE-OR-MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
_NEW_PASSPHRASE = click.option(
    "--new-passphrase-file",
    type=click.Path(readable=False, path_type=Path),
    help="Read the new passphrase from this file.",
)
_NEW_KEY_FILE = click.option(
    "--new-key-file", type=click.Path(readable=False, path_type=Path), help="The key file that is to open the vault."
)


@click.command()
@_WHERE
@_NEW_PASSPHRASE
@secrets.secret_options
def passwd(where: Path, *, new_passphrase_file: Path | None, secret: secrets.SecretSource) -> None:
    """Change the passphrase; the old one opens nothing any more.

    The vault may be mounted meanwhile: its contents are not sealed anew, only the key that the passphrase guards. When
    the vault is opened with its recovery code instead, the oldest passphrase is the one that is changed.

    \b
    Examples:
      atefs passwd ~/vault
      atefs passwd ~/vault --passphrase-file old.txt --new-passphrase-file new.txt
    """
    from atedb.crypto.slots import KeySlots, SecretKind

    store = opening.find_store(where)
    slots = KeySlots.load(store)
    root = opening.unlock_slots(store, slots, secret, "Current passphrase")
    kinds = {slot.id: slot.kind for slot in slots.list()}
    used = slots.unlocked_by
    with _new_secret(new_passphrase_file, None) as fresh:
        if used is not None and kinds[used] is SecretKind.PASSPHRASE:
            slots.replace(root, used, fresh)
        elif passphrases := [name for name, kind in kinds.items() if kind is SecretKind.PASSPHRASE]:
            slots.replace(root, passphrases[0], fresh)
        else:
            slots.add(root, fresh, "passphrase")
    slots.save(store)
    click.echo("The passphrase is changed; the old one opens nothing any more.")


@click.group()
def key() -> None:
    """Add, list and remove the keys that open a vault.

    Several passphrases, key files and recovery codes may open one vault.

    \b
    Examples:
      atefs key list ~/vault
      atefs key add ~/vault --label "Anna"
      atefs key add ~/vault --new-key-file /media/stick/vault.key
      atefs key add ~/vault --recovery-code
      atefs key remove ~/vault 3fa9c2d1
    """


@key.command("list")
@_WHERE
@output.json_option
def list_(where: Path, as_json: bool) -> None:
    """List the keys; no secret is needed for that."""
    from atedb.crypto.slots import KeySlots

    slots = KeySlots.load(opening.find_store(where), mend=False).list()
    if as_json:
        output.print_json([{"id": s.id, "kind": str(s.kind), "label": s.label, "created": s.created} for s in slots])
    else:
        output.table(
            ["ID", "KIND", "LABEL", "CREATED"], [[s.id, s.kind, s.label, output.when(s.created)] for s in slots]
        )


@key.command()
@_WHERE
@click.option("--label", default="", help="What the list will call it.")
@_NEW_PASSPHRASE
@_NEW_KEY_FILE
@click.option("--recovery-code", is_flag=True, help="Make a new recovery code and print it, once.")
@click.option("--account", is_flag=True, help="Let your account open it, with a login, and with tokens of it.")
@secrets.secret_options
def add(
    where: Path, *, label: str, new_passphrase_file: Path | None, new_key_file: Path | None, recovery_code: bool,
    account: bool, secret: secrets.SecretSource,
) -> None:  # fmt: skip
    """Let one more passphrase, key file, recovery code or account open the vault."""
    from atedb.crypto.recovery_code import generate_code
    from atedb.crypto.slots import KeySlots, Secret
    from atefs.cli.creating import show_recovery_code

    if sum((recovery_code, account, new_passphrase_file is not None, new_key_file is not None)) > 1:
        raise click.UsageError("One of --new-passphrase-file, --new-key-file, --recovery-code and --account.")
    store = opening.find_store(where)
    slots = KeySlots.load(store)
    root = opening.unlock_slots(store, slots, secret)
    code = generate_code() if recovery_code else None
    if code:
        new = Secret.recovery_code(code)
    else:
        new = _account_secret(store) if account else _new_secret(new_passphrase_file, new_key_file)
    with new as fresh:
        slot = slots.add(root, fresh, label or str(fresh.kind))
    slots.save(store)
    click.echo(f"Added key {slot}.")
    if code:
        show_recovery_code(code)


@key.command()
@_WHERE
@click.argument("slot", metavar="ID")
@secrets.secret_options
def remove(where: Path, slot: str, *, secret: secrets.SecretSource) -> None:
    """Take the key ID away; what it was opens nothing any more. The last key cannot be removed."""
    from atedb.crypto.slots import KeySlots

    store = opening.find_store(where)
    slots = KeySlots.load(store)
    root = opening.unlock_slots(store, slots, secret)
    slots.remove(root, slot)
    slots.save(store)
    click.echo(f"Removed key {slot}; it opens nothing any more.")


def _account_secret(store: Path) -> Secret:
    """What the account opens the vault with that one is logged in to, on the vault's server."""
    from atefs.cli.asking import logged_in
    from atefs.mount import servers

    url = servers.attached(store)
    if url is None:
        raise click.UsageError(f"The vault in {store} follows no server, and so belongs to no account.")
    account = logged_in(url).account
    assert account is not None
    return account.slot_secret()


def _new_secret(passphrase_file: Path | None, key_file: Path | None) -> Secret:
    return secrets.new_secret(secrets.SecretSource(passphrase_file=passphrase_file, key_file=key_file))
