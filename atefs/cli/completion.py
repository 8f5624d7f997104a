"""`atefs completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes `atefs` in SHELL.

    \b
    Examples:
      atefs completion bash > ~/.local/share/bash-completion/completions/atefs
      atefs completion zsh  > "${fpath[1]}/_atefs"
      atefs completion fish > ~/.config/fish/completions/atefs.fish
    """
    from atefs.cli.main import atefs

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(atefs, {}, "atefs", "_ATEFS_COMPLETE").source())
