"""Running a command: what becomes of its errors, for `atefs` and `atedb` alike."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from atedb.errors import AteError, ExitCode

INTERRUPTED = 130


def run(command: click.Command, arguments: Sequence[str] | None, name: str) -> int:
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
