"""The command `atefs`: its commands.

Nothing heavy is imported here: `atefs --help` and completion must be quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from atedb.cli.lazy import LazyGroup
from atedb.cli.running import run

COMMANDS = {
    "mount": ("mounting", "Mount a vault; the first time, make it."),
    "umount": ("mounting", "Unmount a vault, once all of it is safe on disk."),
    "status": ("mounting", "Show what is mounted, and how it is doing."),
    "init": ("creating", "Make a new vault without mounting it."),
    "info": ("checking", "Show what is known about a vault without opening it."),
    "fsck": ("checking", "Check a vault, and with --repair save what can be saved."),
    "verify": ("checking", "Prove that a vault's log is whole and unaltered."),
    "dump": ("checking", "Show a vault's log as a tree of events."),
    "passwd": ("keys", "Change the passphrase."),
    "key": ("keys", "Add, list and remove the keys that open a vault."),
    "ls": ("files", "List a folder of a vault that is not mounted."),
    "cat": ("files", "Print a file of a vault that is not mounted."),
    "get": ("files", "Copy files out of a vault that is not mounted."),
    "put": ("files", "Copy files into a vault that is not mounted."),
    "stat": ("files", "Show a file's attributes in a vault that is not mounted."),
    "pin": ("keeping", "Keep the content of files and folders on this machine."),
    "unpin": ("keeping", "Let content that was pinned go when there is no room."),
    "prefetch": ("keeping", "Bring the content of files and folders from the server."),
    "lock": ("locking", "Run a command while nobody else, on any machine, has a file locked."),
    "conflicts": ("conflicts", "Show and decide what was changed on two machines apart."),
    "create-user": ("users", "Register on a server, as its first user or with an invitation."),
    "login": ("users", "Log in to a server: your vaults there open without a passphrase then."),
    "logout": ("users", "Log out from a server."),
    "whoami": ("users", "Show as whom you are known to a server."),
    "user": ("users", "Your account: details, password, recovery; invite others."),
    "create-token": ("tokens", "Make a token, for mounts where nobody can be asked."),
    "token": ("tokens", "Make, list and revoke tokens; give the second factor."),
    "verify-user": ("people", "Compare another user's fingerprint, and remember it."),
    "audit": ("auditing", "Show what a server has noted about your account."),
    "identity": ("trusting", "Print the key by which servers know this user."),
    "trust": ("trusting", "Show what is believed of a vault's server, and why; accept a restored one."),
    "bench": ("bench", "Measure how quick a vault is here."),
    "completion": ("completion", "Print the script that completes `atefs` in your shell."),
}
"""Name -> the module that has it (as a variable of the same name), and one line of help."""


@click.group(
    cls=LazyGroup, package="atefs.cli", table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="atefs")
@click.option("--debug", is_flag=True, help="Show tracebacks, and log more.")
@click.pass_context
def atefs(ctx: click.Context, debug: bool) -> None:
    """An encrypted filesystem: everything in a vault is sealed before it reaches the disk.

    \b
    The usual day:
      atefs mount ~/vault        the first time, this makes the vault
      cp -r photos ~/vault
      atefs status
      atefs umount ~/vault       returns when all of it is safe on disk

    Secrets are asked for, or come from --passphrase-file, ATE_PASSPHRASE_FILE, --passphrase-fd or --key-file; never
    from the command line.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 wrong secret, 4 in use, 5 not found, 6 damaged,
    7 rolled back, 8 not supported, 9 no space, 10 read-only, 11 no FUSE, 12 busy, 13 exists already, 14 I/O error,
    15 server out of reach, 16 refused by the server.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with one of `ExitCode`, or 130 when interrupted."""
    sys.exit(run(atefs, arguments, "atefs"))
