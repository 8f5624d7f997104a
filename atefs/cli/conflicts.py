"""`atefs conflicts`: what was changed on two machines apart, and which of the two is to stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from atedb.cli import output
from atedb.errors import StoreNotFoundError
from atefs.cli.mountpoint import MountPoint

_FILES = click.argument("files", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path))


def mounted_path(path: Path) -> tuple[Path, list[str]]:
    """The mount point above a path, and the names below it. Raises StoreNotFoundError where no vault is mounted."""
    from atefs.mount import mountinfo, places

    absolute = places.canonical(path) if mountinfo.find(places.canonical(path)) else Path(os.path.abspath(path))
    real = Path(os.path.realpath(absolute.parent)) / absolute.name
    found = mountinfo.find(absolute) or mountinfo.covering(real)
    if found is None or not found.ours:
        raise StoreNotFoundError(f"{path} is in no vault that is mounted; nothing was changed; see: atefs status")
    if found.mountpoint == absolute:
        return absolute, []
    return found.mountpoint, list(real.relative_to(found.mountpoint).parts)


@click.group()
def conflicts() -> None:
    """Show and decide what was changed on two machines while they were apart.

    Where both have changed the same thing, one version keeps the name, and the other one lies beside it as
    NAME.conflict-MACHINE-TIME. Look at both, then keep one; or give it any other name and have both.

    \b
    Examples:
      atefs conflicts list ~/vault
      atefs conflicts keep ~/vault/paper.txt.conflict-laptop-20260102T030405Z
      atefs conflicts drop ~/vault/paper.txt.conflict-laptop-20260102T030405Z
    """


@conflicts.command("list")
@click.argument("mountpoint", type=MountPoint())
@output.json_option
def list_(mountpoint: Path, as_json: bool) -> None:
    """List what waits for a decision, the oldest first."""
    mountpoint, _ = mounted_path(mountpoint)
    found = _all(mountpoint)
    if as_json:
        output.print_json(found)
    elif found:
        rows = [[output.when(c["time"]), c["device"], c["path"], c["instead_of"]] for c in found]
        output.table(["TIME", "MACHINE", "KEPT AS", "INSTEAD OF"], rows)
    else:
        click.echo("There is nothing to decide.")


@conflicts.command()
@_FILES
def keep(files: tuple[Path, ...]) -> None:
    """Let each of FILES, which were kept beside others, take the place of what has their name now.

    What had the name is deleted by that.
    """
    for path in files:
        mountpoint, conflict = _one(path)
        target = mountpoint / conflict["instead_of"]
        os.rename(mountpoint / conflict["path"], target)
        click.echo(f"{target} is now what was kept as {path.name}.")
    _settle(files)


@conflicts.command()
@_FILES
def drop(files: tuple[Path, ...]) -> None:
    """Delete each of FILES, which were kept beside others. A folder has to be empty."""
    for path in files:
        mountpoint, conflict = _one(path)
        dropped = mountpoint / conflict["path"]
        if dropped.is_dir() and not dropped.is_symlink():
            dropped.rmdir()
        else:
            dropped.unlink()
        click.echo(f"{path} is deleted.")
    _settle(files)


def _all(mountpoint: Path) -> list[dict[str, Any]]:
    from atefs.mount import client

    found: list[dict[str, Any]] = client.ask(mountpoint, "conflicts")["conflicts"]
    return found


def _one(path: Path) -> tuple[Path, dict[str, Any]]:
    """The mount point, and the conflict that lies at the path."""
    mountpoint, names = mounted_path(path)
    for conflict in _all(mountpoint):
        if conflict["path"] == "/".join(names):
            return mountpoint, conflict
    raise StoreNotFoundError(f"{path} is no conflict; nothing was changed; see: atefs conflicts list {mountpoint}")


def _settle(files: tuple[Path, ...]) -> None:
    from atefs.mount import client

    for mountpoint in {mounted_path(path.parent)[0] for path in files}:
        client.ask(mountpoint, "settle")
