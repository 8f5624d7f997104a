"""One request of the kernel, and what a handler may raise instead of answering."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from atefs.mount.direct.protocol import BODY, IN_HEADER


class Request:
    """A request as it was read. data: all of it, the header included. node: the inode it is about, mostly.

    known: inodes that the answer tells the kernel of, once each; taken back if the answer does not arrive.
    """

    __slots__ = ("data", "gid", "known", "node", "opcode", "pid", "uid", "unique")

    def __init__(self, data: bytes) -> None:
        self.data = data
        _, self.opcode, self.unique, self.node, self.uid, self.gid, self.pid, _, _ = IN_HEADER.unpack_from(data)
        self.known: tuple[int, ...] | list[int] = ()

    def names(self, at: int = BODY) -> list[bytes]:
        """The names from offset `at` to the end, each of which ends in NUL. Raises ValueError when one does not."""
        data = self.data
        if data[-1] or len(data) <= at:
            raise ValueError("a name does not end")
        return data[at:-1].split(b"\0")

    def name(self, at: int = BODY) -> bytes:
        """The one name at offset `at`. Raises ValueError."""
        data = self.data
        end = data.find(b"\0", at)
        if end < 0:
            raise ValueError("a name does not end")
        return data[at:end]


Handler: TypeAlias = Callable[[Request], "bytes | None"]
"""Answers a request with what follows the answer's header; None: such requests get no answer. Raises what the vault
raises, NotResident included: then what it needs is fetched and the handler runs again from its start."""


class Later(Exception):
    """Raised by a handler: the request has to wait. done: its answer afterwards; None: the handler runs again.

    endless: it may take for ever, so that it must not count among those that others wait for.
    """

    def __init__(
        self, wait: Callable[[], Awaitable[None]], done: bytes | None = None, *, endless: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.wait = wait
        self.done = done
        self.endless = endless
