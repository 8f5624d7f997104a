"""The command `atefs`: its commands, and what becomes of their errors.

Nothing heavy is imported here: `atefs --help` and completion must be quick.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import click

from atedb.errors import AteError, ExitCode

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
    "bench": ("bench", "Measure how quick a vault is here."),
    "completion": ("completion", "Print the script that completes `atefs` in your shell."),
}
"""Name -> the module that has it (as a variable of the same name), and one line of help."""

INTERRUPTED = 130


class _Lazy(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"atefs.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
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
    7 rolled back, 8 not supported, 9 no space, 10 read-only, 11 no FUSE, 12 busy, 13 exists already, 14 I/O error.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with one of `ExitCode`, or 130 when interrupted."""
    sys.exit(run(atefs, arguments))


def run(command: click.Command, arguments: Sequence[str] | None, name: str = "atefs") -> int:
    """Run a command; its exit code. What went wrong is said in one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        outcome = command.main(given, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: interrupted; nothing more was done", err=True)
        return INTERRUPTED
    except AteError as error:
        return _failed(name, str(error), error.exit_code, debug)
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining about it while it ends.
        sys.stdout = None
        return ExitCode.OK
    except OSError as error:
        return _failed(name, f"{error.filename or 'the system'}: {error.strerror or error}", ExitCode.IO, debug)
    except Exception as error:
        message = f"a defect: {type(error).__name__}: {error}; nothing more was done; report it with what --debug shows"
        return _failed(name, message, ExitCode.FAILED, debug)
    return outcome if isinstance(outcome, int) else ExitCode.OK


def _failed(name: str, message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"{name}: {message}", err=True)
    return int(code)
