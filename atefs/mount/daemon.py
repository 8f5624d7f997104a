"""Serving in the background: the parent stays until the child is ready, or has failed, and ends accordingly."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from atedb.errors import AteError, ExitCode

log = logging.getLogger(__name__)


class Report(Protocol):
    """How the child tells the parent how far it is."""

    def progress(self, done: int, total: int) -> None:
        """A long opening goes on: bytes done, bytes in all."""

    def ready(self) -> None:
        """Mounted."""


class DriverFailedError(AteError):
    """The driver ended before it was ready, in the words and with the exit code that it gave."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class _Pipe:
    """The child's end: one JSON object a line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def _send(self, **message: object) -> None:
        try:
            os.write(self._fd, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            pass

    def progress(self, done: int, total: int) -> None:
        self._send(progress=[done, total])

    def ready(self) -> None:
        self._send(ready=os.getpid())
        os.close(self._fd)
        self._fd = -1

    def error(self, message: str, code: int) -> None:
        """What ended the driver: to the parent, or to the log once the parent has gone."""
        if self._fd < 0:
            log.error("%s", message)
        else:
            self._send(error=message, exit_code=code)


def in_background(
    serve: Callable[[Report], ExitCode], log: Path, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> int:
    """Run `serve` in a child of its own session; its process id, once it is ready.

    Nothing may be open that does not survive a fork. log: where the child's own output goes. Raises DriverFailedError.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _child(serve, theirs, log)
    os.close(theirs)
    try:
        return _await_ready(ours, pid, log, progress)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        raise
    finally:
        os.close(ours)


def _await_ready(fd: int, pid: int, log: Path, progress: Callable[[int, int], None]) -> int:
    with os.fdopen(fd, "rb", closefd=False) as lines:
        for line in lines:
            message = json.loads(line)
            if "ready" in message:
                return pid
            if "progress" in message:
                progress(*message["progress"])
            else:
                os.waitpid(pid, 0)
                raise DriverFailedError(message["error"], ExitCode(message["exit_code"]))
    os.waitpid(pid, 0)
    raise DriverFailedError(
        f"the driver ended before it was ready; the vault is as it was; the reason is in {log}", ExitCode.FAILED
    )


def _child(serve: Callable[[Report], ExitCode], fd: int, log: Path) -> None:
    """Never returns."""
    code = int(ExitCode.FAILED)
    pipe = _Pipe(fd)
    try:
        _detach(log)
        code = int(serve(pipe))
    except AteError as error:
        code = int(error.exit_code)
        pipe.error(str(error), code)
    except BaseException as error:
        os.write(2, traceback.format_exc().encode())
        pipe.error(f"the driver failed: {error!r}; the vault is as it was; the whole story is in {log}", code)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _detach(log: Path) -> None:
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    for fd in (null, out):
        if fd > 2:
            os.close(fd)
