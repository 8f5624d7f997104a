"""``atedb``: the chain store on the command line."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atefs", prog_name="atedb")
def main() -> None:
    """The chain store under atefs.

    In this version chains are local: `atefs` makes, mounts, verifies and dumps them. There is no server yet.
    """
