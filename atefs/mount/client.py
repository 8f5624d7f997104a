"""Talking to the driver of a mounted vault, from the command line: blocking, and without an event loop."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atedb.errors import AteError, ExitCode
from atefs.mount import places

ANSWER_SECONDS = 30.0


class NoDriverError(AteError):
    """Nobody answers for the mount point."""

    exit_code = ExitCode.NOT_FOUND


class RefusedError(AteError):
    """The driver said no, in its own words."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def _connect(mountpoint: Path) -> socket.socket:
    name = places.socket_name(mountpoint)
    for folder in places.runtime_folders():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # For one whose queue is full; a time limit of Python's would not wait at all then (EAGAIN).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(ANSWER_SECONDS), 0))
        try:
            sock.connect(os.fspath(folder / name))
            return sock
        except OSError:
            sock.close()
    raise NoDriverError(f"no driver answers for {mountpoint}; is a vault mounted there? See: atefs status")


def ask(
    mountpoint: Path, operation: str, progress: Callable[[dict[str, Any]], None] = lambda _state: None,
    patience: float | None = ANSWER_SECONDS, **wanted: object,
) -> dict[str, Any]:  # fmt: skip
    """One request to the driver of the mount point, and its answer. wanted: what goes with the request.

    patience: seconds that the driver may be silent; None waits for ever. Raises NoDriverError, and RefusedError for
    what the driver refuses.
    """
    with _connect(mountpoint) as sock:
        if _killed(sock):
            raise NoDriverError(f"the driver of {mountpoint} was killed")
        sock.settimeout(patience)
        try:
            sock.sendall(json.dumps({"op": operation, **wanted}).encode() + b"\n")
            for line in sock.makefile("rb"):
                message = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                elif "error" in message:
                    raise RefusedError(message["error"], ExitCode(message["exit_code"]))
                else:
                    answer: dict[str, Any] = message["ok"]
                    return answer
        except TimeoutError:
            raise NoDriverError(
                f"the driver of {mountpoint} has not answered for {patience:.0f} s; it may be waiting for its disk"
            ) from None
        except OSError as error:
            raise NoDriverError(f"the driver of {mountpoint} hung up ({error.strerror})") from error
    raise NoDriverError(f"the driver of {mountpoint} ended without an answer; its log says why")


def killed_driver(mountpoint: Path) -> int | None:
    """The process id of a driver that was killed and cannot end; None for one that runs, or has ended, or is not found.

    One of its threads waits in the kernel, uninterruptibly, for somebody who waits for an answer of the driver. Its
    descriptors are open until that thread ends, so that the kernel does not notice either.
    """
    try:
        with _connect(mountpoint) as sock:
            return _killed(sock)
    except NoDriverError:
        return None


def _killed(sock: socket.socket) -> int | None:
    """Who listens at the other end, if its first thread has ended: nobody will answer then."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return pid if state == "Z" else None


class Watch:
    """A process, held by a descriptor so that its number cannot come to mean another one (man 2 pidfd_open)."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def ended(self, seconds: float) -> bool:
        """Wait at most so long. True: it has ended."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def close(self) -> None:
        os.close(self._fd)
