"""`atefs lock`: run a command while nobody else, on any machine, has the same file locked."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import click

from atedb.errors import BusyError, StoreNotFoundError, UnreachableError, UnsupportedError
from atefs.cli.conflicts import mounted_path

NOT_FOUND, NOT_RUN = 127, 126
"""What shells end with for a command that is not there, and for one that cannot be run."""
TOKEN = "ATE_LOCK_TOKEN"
_BY_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores, and programs expect to end them."""


@click.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.option("-s", "--shared", is_flag=True, help="Let others in who ask for a shared lock, too.")
@click.option("-w", "--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up after so long.")
@click.argument("path", type=click.Path(readable=False, path_type=Path))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def lock(path: Path, command: tuple[str, ...], *, shared: bool, wait: float | None) -> int:
    """Run COMMAND while no other machine, and nobody here, has the file PATH locked.

    PATH is a file in a mounted vault, which has to be there. Without --wait the lock is waited for as long as it takes.
    It is that of man 2 flock: programs may ask for it themselves. It ends with COMMAND, however that ends; what COMMAND
    has written is seen by whoever has the lock next. With a server, COMMAND finds a number in ATE_LOCK_TOKEN that is
    higher each time that the lock is given.

    The exit code is that of COMMAND; 126 or 127 if it cannot be run; 12 if the lock was not to be had in time, and 15
    if the server, which has to know of it, cannot be reached: then COMMAND was not run.

    \b
    Examples:
      atefs lock ~/vault/backup.lock restic backup ~/vault
      atefs lock --wait 10 --shared ~/vault/accounts.db ./report.sh
    """
    from atefs.mount import client

    mountpoint, names = mounted_path(path)
    server = client.ask(mountpoint, "status")["server"]
    if server is not None and server["locks"] is None:
        raise UnsupportedError(
            f"{mountpoint} is mounted with --driver pyfuse3, which knows nothing of locks on other machines; the "
            "command was not run; mount it without that option"
        )
    file = _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    environment = dict(os.environ)
    if server is not None:
        environment[TOKEN] = str(_token(mountpoint, names))
    os.set_inheritable(file, True)
    for number in _BY_DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except FileNotFoundError:
        click.echo(f"atefs: {command[0]}: there is no such command", err=True)
        return NOT_FOUND
    except OSError as error:
        click.echo(f"atefs: {command[0]} cannot be run: {error.strerror}", err=True)
        return NOT_RUN


def _locked(path: Path, how: int, wait: float | None) -> int:
    """A descriptor of the file that has this name when it is locked. Raises BusyError, UnreachableError."""
    while True:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"{path} is not there; the command was not run. A file to lock is made once, on one machine: "
                f"touch {path}"
            ) from None
        if path.is_dir():
            raise UnsupportedError(f"{path} is a folder, whose locks stay on this machine; lock a file in it")
        try:
            _flock(file, how, wait)
        except OSError as error:
            if error.errno == errno.EHOSTUNREACH:
                raise _unreachable() from None
            raise
        try:
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # it was replaced or deleted while we waited: the lock of what is there now is wanted


class _TimeUp(Exception):
    """The alarm."""


def _flock(file: int, how: int, wait: float | None) -> None:
    """Raises BusyError after so many seconds."""
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        if wait:
            signal.setitimer(signal.ITIMER_REAL, wait)
        fcntl.flock(file, how | (fcntl.LOCK_NB if wait == 0 else 0))
    except (_TimeUp, BlockingIOError):
        raise BusyError("somebody else has it locked; the command was not run; see: atefs lock --help") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ring(_number: int, _frame: FrameType | None) -> Any:
    raise _TimeUp


def _token(mountpoint: Path, names: list[str]) -> int:
    from atefs.mount import client

    token = int(client.ask(mountpoint, "token", path=names)["token"])
    if not token:
        raise _unreachable()
    return token


def _unreachable() -> UnreachableError:
    return UnreachableError(
        "the server cannot be reached, so that no other machine would know of the lock; the command was not run; for a "
        "lock on this machine only, see: man 1 flock"
    )
