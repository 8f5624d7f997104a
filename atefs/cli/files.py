"""`atefs ls|cat|get|put|stat`: the files of a vault that is not mounted."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atedb.errors import StoreExistsError
from atefs.cli import opening, secrets

if TYPE_CHECKING:
    from atefs.vault.inode import Inode

_WHERE = click.argument("where", metavar="STORE-OR-MOUNTPOINT", type=click.Path(readable=False, path_type=Path))


@click.command()
@_WHERE
@click.argument("path", default="/")
@click.option("-l", "long", is_flag=True, help="Mode, owner, size and time as well.")
@secrets.secret_options
@output.json_option
def ls(where: Path, path: str, *, long: bool, as_json: bool, secret: secrets.SecretSource) -> None:
    """List PATH in a vault that is not mounted.

    \b
    Examples:
      atefs ls ~/vault
      atefs ls -l /media/backup/vault photos/2024
    """
    from atefs.cli import tree

    with opening.opened(opening.find_store(where), secret, read_only=True) as (_, vault):
        inode = tree.find(vault, path)
        if inode.is_dir:
            entries = [e for e in vault.readdir(inode.ino) if e.name not in (b".", b"..")]
            found = [(e.name, vault.getattr(e.ino)) for e in sorted(entries, key=lambda entry: entry.name)]
        else:
            found = [(os.fsencode(os.path.basename(path)), inode)]
        rows = [tree.described(vault, os.fsdecode(name), inode) for name, inode in found]
    if as_json:
        output.print_json(rows)
    elif long:
        for row in rows:
            target = f" -> {row['target']}" if row["target"] is not None else ""
            click.echo(
                f"{row['mode']} {row['nlink']:>3} {row['uid']:>5} {row['gid']:>5} {row['size']:>12} "
                f"{output.when(row['mtime'])} {row['name']}{target}"
            )
    else:
        for row in rows:
            click.echo(row["name"])


@click.command()
@_WHERE
@click.argument("path")
@secrets.secret_options
def cat(where: Path, path: str, *, secret: secrets.SecretSource) -> None:
    """Print the file PATH of a vault that is not mounted.

    \b
    Example:
      atefs cat ~/vault notes/today.txt | less
    """
    from atefs.cli import tree

    with opening.opened(opening.find_store(where), secret, read_only=True) as (_, vault):
        sys.stdout.flush()
        for chunk in tree.content(vault, tree.find(vault, path)):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@click.command()
@_WHERE
@click.argument("path")
@click.argument("target", default=".", type=click.Path(readable=False, path_type=Path))
@secrets.secret_options
def get(where: Path, path: str, target: Path, *, secret: secrets.SecretSource) -> None:
    """Copy PATH, a file or a whole folder, out of a vault that is not mounted, to TARGET.

    Modes, times and extended attributes come along; the owner does when you are root. Nothing is overwritten.

    \b
    Examples:
      atefs get ~/vault notes/today.txt .
      atefs get /media/backup/vault / restored
    """
    from atefs.cli import tree

    name = os.path.basename(path.rstrip("/"))
    if target.is_dir() and name:
        target /= name
    if os.path.lexists(target) and not (target.is_dir() and not name):
        raise StoreExistsError(f"{target} exists; nothing was copied; name another target")
    with opening.opened(opening.find_store(where), secret, read_only=True) as (_, vault):
        count, size = tree.copy_out(vault, tree.find(vault, path), target)
    click.echo(f"Copied {count} files and folders, {output.size(size)}, to {target}.")


@click.command()
@_WHERE
@click.argument("origin", type=click.Path(exists=True, path_type=Path), metavar="SOURCE")
@click.argument("path", default="/")
@secrets.secret_options
def put(where: Path, origin: Path, path: str, *, secret: secrets.SecretSource) -> None:
    """Copy SOURCE, a file or a whole folder, into a vault that is not mounted, as PATH or into the folder PATH.

    All of it is on stable storage when the command returns. Nothing is overwritten.

    \b
    Example:
      atefs put ~/vault report.pdf /documents
    """
    from atefs.cli import tree

    with opening.opened(opening.find_store(where), secret, read_only=False) as (chain, vault):
        parent, name = tree.destination(vault, path, os.fsencode(origin.resolve().name))
        count, size = tree.copy_in(vault, origin, parent, name)
        vault.commit()
        chain.barrier()
    click.echo(f"Copied {count} files and folders, {output.size(size)}.")


@click.command()
@_WHERE
@click.argument("path", default="/")
@secrets.secret_options
@output.json_option
def stat(where: Path, path: str, *, as_json: bool, secret: secrets.SecretSource) -> None:
    """Show the attributes of PATH in a vault that is not mounted.

    \b
    Example:
      atefs stat ~/vault notes/today.txt --json
    """
    from atefs.cli import tree

    with opening.opened(opening.find_store(where), secret, read_only=True) as (_, vault):
        inode: Inode = tree.find(vault, path)
        row = tree.described(vault, path, inode)
    if as_json:
        output.print_json(row)
        return
    for name in ("atime", "mtime", "ctime", "btime"):
        row[name] = output.when(row[name])
    output.fields({name: value for name, value in row.items() if value is not None})
