"""The one tree of errors, and the one table of exit codes.

Every error says what happened, what was kept, and what to do next. ``errno`` is what a filesystem call
reports for it; ``exit_code`` is what a command ends with; ``code`` is what a server answers for it. `docs/guide.md`
lists the exit codes, `docs/protocol.md` the server's answers.
"""

from __future__ import annotations

import errno as _errno
from collections.abc import Callable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a command ends with. 2 is left to the command-line library (wrong usage)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    WRONG_SECRET = 3
    IN_USE = 4
    NOT_FOUND = 5
    DAMAGED = 6
    ROLLED_BACK = 7
    UNSUPPORTED = 8
    NO_SPACE = 9
    READ_ONLY = 10
    NO_FUSE = 11
    BUSY = 12
    EXISTS = 13
    IO = 14
    UNREACHABLE = 15
    REFUSED = 16


class AteError(Exception):
    """Root of the tree."""

    errno: int = _errno.EIO
    exit_code: ExitCode = ExitCode.FAILED
    code: str = "unavailable"


class WrongSecretError(AteError):
    """No key slot opened. The same words whatever the cause, so that nothing is learnt from them."""

    errno = _errno.EACCES
    exit_code = ExitCode.WRONG_SECRET


class InUseError(AteError):
    """Another process owns the chain."""

    errno = _errno.EBUSY
    exit_code = ExitCode.IN_USE
    code = "busy"


class StoreNotFoundError(AteError):
    """There is no store at the place named."""

    errno = _errno.ENOENT
    exit_code = ExitCode.NOT_FOUND
    code = "not-found"


class StoreExistsError(AteError):
    """A store would have been overwritten."""

    errno = _errno.EEXIST
    exit_code = ExitCode.EXISTS
    code = "exists"


class DamagedError(AteError):
    """Bytes that were written and acknowledged are no longer there, or no longer the same."""

    errno = _errno.EIO
    exit_code = ExitCode.DAMAGED


class RolledBackError(DamagedError):
    """The store is older than what this machine has seen of it."""

    exit_code = ExitCode.ROLLED_BACK


class ForkError(RolledBackError):
    """The server shows another history than it did before, or than it shows to others."""


class UnreachableError(AteError):
    """What is wanted is on the server only, and the server cannot be reached."""

    errno = _errno.EHOSTUNREACH
    exit_code = ExitCode.UNREACHABLE


class UnsupportedError(AteError):
    """A format version, cipher suite or feature that this program does not know."""

    errno = _errno.ENOTSUP
    exit_code = ExitCode.UNSUPPORTED
    code = "version"


class NoSpaceError(AteError):
    """The store's disk is full."""

    errno = _errno.ENOSPC
    exit_code = ExitCode.NO_SPACE


class ReadOnlyError(AteError):
    """The chain cannot be written: the disk, the mount or an earlier failure forbids it."""

    errno = _errno.EROFS
    exit_code = ExitCode.READ_ONLY


class StorageError(AteError):
    """The operating system failed to read or write the store."""

    errno = _errno.EIO
    exit_code = ExitCode.IO


class LimitError(AteError):
    """Something is larger than the format allows."""

    errno = _errno.EFBIG
    code = "limit"


class NotResident(AteError):
    """The bytes wanted are not in memory: run `fetch` in a thread, then try again.

    Raised only to callers that asked not to be blocked.
    """

    errno = _errno.EAGAIN

    def __init__(self, fetch: Callable[[], None]) -> None:
        super().__init__("not in memory yet")
        self.fetch = fetch


class Absent(NotResident):
    """The bytes wanted are on the server only. `fetch` asks it for them, and may raise UnreachableError."""


class StaleError(AteError):
    """Somebody else was first: `tail` (sequence, hash) is the newest batch, and not the one that was expected."""

    errno = _errno.EAGAIN
    code = "stale"

    def __init__(self, tail: tuple[int, bytes]) -> None:
        super().__init__(f"the chain's newest batch is {tail[0]}, another one was expected; nothing was added")
        self.tail = tail


class StaleDocumentError(AteError):
    """Somebody else has replaced the document meanwhile: read it again."""

    errno = _errno.EAGAIN
    code = "stale"


class FencedError(AteError):
    """Somebody took over: a newer fencing token has been handed out."""

    errno = _errno.ESTALE
    code = "fenced"


class InvalidError(AteError):
    """A request that no correct client makes: a forged, altered, misplaced or impossible batch, name or number."""

    errno = _errno.EINVAL
    code = "invalid"


class QuotaError(AteError):
    """The tenant's room on the server is used up."""

    errno = _errno.EDQUOT
    exit_code = ExitCode.NO_SPACE
    code = "quota"


class BusyError(AteError):
    """Somebody else holds what was asked for, or there is more to do than can be done now; it passes."""

    errno = _errno.EBUSY
    exit_code = ExitCode.BUSY
    code = "busy"


class ClosedError(AteError):
    """The chain was closed meanwhile."""
