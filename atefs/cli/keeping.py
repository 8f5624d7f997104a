"""`atefs pin`, `atefs unpin`, `atefs prefetch`: content of a server's vault on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from atedb.cli import output
from atefs.cli.conflicts import mounted_path

_PATHS = click.argument("paths", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path))


@click.command()
@_PATHS
def prefetch(paths: tuple[Path, ...]) -> None:
    """Bring the content of PATHS, and of all below them, from the server to this machine.

    It stays until the room in the cache is needed for something else.

    \b
    Example:
      atefs prefetch ~/vault/photos
    """
    _fetch(paths, pin=False)


@click.command()
@_PATHS
def pin(paths: tuple[Path, ...]) -> None:
    """Bring the content of PATHS, and of all below them, from the server to this machine, and keep it here.

    It is kept as it is now: what others write there later comes when it is read, or pinned again.

    \b
    Example:
      atefs pin ~/vault/photos
    """
    _fetch(paths, pin=True)


@click.command()
@_PATHS
def unpin(paths: tuple[Path, ...]) -> None:
    """Let the content of PATHS go when there is no room for it; it is fetched again when it is read.

    \b
    Example:
      atefs unpin ~/vault/photos
    """
    from atefs.mount import client

    for path in paths:
        mountpoint, names = mounted_path(path)
        done = client.ask(mountpoint, "unpin", path=names)
        click.echo(f"{path}: {done['files']} files are kept here no longer than there is room.")


def _fetch(paths: tuple[Path, ...], *, pin: bool) -> None:
    from atefs.mount import client

    for path in paths:
        mountpoint, names = mounted_path(path)
        done = client.ask(mountpoint, "fetch", patience=None, path=names, pin=pin)
        stay = "stay" if pin else "are"
        click.echo(f"{path}: {done['files']} files {stay} here, {output.size(done['bytes'])} of them from the server.")
