"""The command `atedb`: its commands.

Nothing heavy is imported here: `atedb --help` and completion must be quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from atedb.cli.lazy import LazyGroup
from atedb.cli.running import run

COMMANDS = {
    "solo": ("solo", "Serve chains from this machine."),
    "verify": ("verify", "Prove that the chains of a server are whole."),
    "repair": ("repair", "Mend a damaged chain of a server."),
    "invite": ("invite", "Make a code with which somebody may register."),
    "tenant": ("tenant", "Say who may use the server: add, list and remove tenants."),
}
"""Name -> the module that has it (as a variable of the same name), and one line of help."""


@click.group(
    cls=LazyGroup, package="atedb.cli", table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="atefs", prog_name="atedb")
@click.option("--debug", is_flag=True, help="Show tracebacks, and log more.")
@click.pass_context
def atedb(ctx: click.Context, debug: bool) -> None:
    """The chain store under atefs: a server that keeps chains for many, and can read none of them.

    \b
    A server for one person:
      atedb solo --listen 0.0.0.0                        prints a code for the first user
      atefs create-user you@example.com --server ws://server:5000
      atefs mount ~/vault ws://server:5000/db/you@example.com/vault

    Exit codes are those of atefs: see atefs --help.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with one of `ExitCode`, or 130 when interrupted."""
    sys.exit(run(atedb, arguments, "atedb"))
