"""``ate-tui``: the dashboard."""

from __future__ import annotations

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atefs", prog_name="ate-tui")
def main() -> None:
    """The dashboard of a server. This version has no server, and so nothing to show: use `atefs status`."""
    raise click.ClickException("there is no server to show in this version; for local vaults run `atefs status`")
