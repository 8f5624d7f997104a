"""`mount.atefs`: what mount(8) calls for a line of type atefs in /etc/fstab (man 8 mount, "External helpers")."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from atedb.cli.running import run
from atedb.errors import ExitCode
from atefs.cli import secrets
from atefs.cli.mountpoint import MountPoint
from atefs.mount.options import parse

_MOUNT_FAILED = 32
_CODES = {int(ExitCode.OK): 0, int(ExitCode.USAGE): 1}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("store", metavar="STORE")
@click.argument("mountpoint", type=MountPoint())
@click.option("-o", "options", multiple=True, metavar="OPTIONS", help="Mount options; see atefs mount --help.")
@click.option("-s", "sloppy", is_flag=True, help="Unknown options are to be tolerated.")
@click.option("-f", "fake", is_flag=True, help="Do everything but mount.")
@click.option("-n", "no_mtab", is_flag=True, help="Accepted and without meaning.")
@click.option("-v", "verbose", is_flag=True, help="Accepted and without meaning.")
@click.option("-t", "fstype", help="Accepted and without meaning.")
@click.option("-N", "namespace", help="Accepted and without meaning.")
@secrets.secret_options
def mount_atefs(
    store: str, mountpoint: Path, *, options: tuple[str, ...], sloppy: bool, fake: bool, secret: secrets.SecretSource,
    **_ignored: object,
) -> int:  # fmt: skip
    """Mount the vault in the folder STORE on MOUNTPOINT, for mount(8) and /etc/fstab.

    \b
    /etc/fstab:
      /srv/vault  /home/me/vault  atefs  passphrase-file=/root/vault.pass,allow_other,nofail  0 0
    """
    from atefs.cli.mounting import mount_vault

    parsed = parse(options, sloppy=sloppy)
    where = secret.or_else(parsed.passphrase_file, parsed.key_file)
    if fake:
        return ExitCode.OK
    return mount_vault(mountpoint, store, parsed, where, foreground=False, debug=False, may_make=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. mount(8) knows exit codes of its own: 1 for wrong usage, 32 for a mount that failed."""
    code = run(mount_atefs, arguments, "mount.atefs")
    sys.exit(_CODES.get(code, _MOUNT_FAILED))
