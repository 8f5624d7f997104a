"""The control socket of a mounted vault: one request a connection, JSON lines both ways.

Request: {"op": "status" | "sync" | "umount" | ..., and what the operation wants to know besides}. Answer: any number of
{"progress": {...}}, then {"ok": {...}} or {"error": "...", "exit_code": n}. The socket is its owner's alone (0600, and
the peer's user is checked).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from atedb.errors import AteError, ExitCode
from atefs.mount import places

log = logging.getLogger(__name__)

REQUEST_MAX = 4096
REQUEST_SECONDS = ANSWER_SECONDS = 5.0
CONNECTIONS_MAX = 16

Tell = Callable[[dict[str, object]], Awaitable[None]]
Operation = Callable[[Tell, dict[str, Any]], Awaitable[dict[str, object]]]
"""Tells how far it is, is given the request, and returns the answer."""


class ControlServer:
    """Answers on the socket of one mount point. operations: what can be asked for."""

    def __init__(self, mountpoint: Path, operations: dict[str, Operation]) -> None:
        self._operations = operations
        self._limit = trio.CapacityLimiter(CONNECTIONS_MAX)
        self._asked = 0
        self._answered = trio.Event()
        self._listener, self.path = _listen(places.socket_name(mountpoint))

    async def serve(self) -> None:
        """Answer for ever. A connection that goes wrong costs only itself."""
        await trio.serve_listeners(self._answer, [trio.SocketListener(self._listener)])

    async def drain(self) -> None:
        """Return when every request that is being carried out has got its answer; within ANSWER_SECONDS."""
        with trio.move_on_after(ANSWER_SECONDS):
            while self._asked:
                self._answered = trio.Event()
                await self._answered.wait()

    def close(self) -> None:
        """Take the socket away."""
        self.path.unlink(missing_ok=True)
        self._listener.close()

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                if _peer(stream.socket) not in (0, os.getuid()):
                    return
                async with self._limit:
                    with trio.move_on_after(REQUEST_SECONDS) as patience:
                        request = await _line(stream)
                        patience.deadline = float("inf")
                        self._asked += 1
                        try:
                            await self._perform(stream, request)
                        finally:
                            self._asked -= 1
                            self._answered.set()
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                log.debug("a control connection was dropped by its peer")
            except Exception:
                log.exception("a control request failed")

    async def _perform(self, stream: trio.SocketStream, request: bytes) -> None:
        async def tell(message: dict[str, object]) -> None:
            await stream.send_all(json.dumps(message).encode() + b"\n")

        async def progress(state: dict[str, object]) -> None:
            await tell({"progress": state})

        try:
            operation, wanted = self._operation(request)
            await tell({"ok": await operation(progress, wanted)})
        except AteError as error:
            await tell({"error": str(error), "exit_code": int(error.exit_code)})

    def _operation(self, request: bytes) -> tuple[Operation, dict[str, Any]]:
        try:
            wanted = json.loads(request)
            return self._operations[wanted["op"]], wanted
        except (ValueError, TypeError, KeyError):
            known = ", ".join(sorted(self._operations))
            raise ControlError(f"the request was not understood; it is one of: {known}") from None


class ControlError(AteError):
    """A control request that makes no sense, or a driver that does not answer."""

    exit_code = ExitCode.FAILED


def _listen(name: str) -> tuple[trio.socket.SocketType, Path]:
    """A listening socket in the first runtime folder that can have one. Raises OSError."""
    failure: OSError | None = None
    for folder in places.runtime_folders():
        path = folder / name
        try:
            places.private_folder(folder)
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            before = os.umask(0o177)
            try:
                sock.bind(os.fspath(path))
            finally:
                os.umask(before)
            sock.listen(CONNECTIONS_MAX)
            return trio.socket.from_stdlib_socket(sock), path
        except OSError as error:
            failure = error
    raise failure or OSError("there is no folder for a control socket")


def _peer(sock: trio.socket.SocketType) -> int:
    """The user at the other end (man 7 unix, SO_PEERCRED)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


async def _line(stream: trio.SocketStream) -> bytes:
    """One bounded line."""
    got = b""
    while b"\n" not in got and len(got) < REQUEST_MAX:
        part = await stream.receive_some(REQUEST_MAX - len(got))
        if not part:
            break
        got += part
    return got
