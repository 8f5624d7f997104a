"""What can go wrong between a client and a node, beside what the node's chains raise."""

from __future__ import annotations

import errno as _errno

from atedb.errors import AteError, BusyError, ExitCode


class ProtocolError(AteError):
    """The other end sent what no correct program sends. The connection is of no use any more."""

    code = "invalid"


class ConnectionLostError(AteError):
    """The connection ended, or the other end was silent for too long. What was not answered may have been done."""

    exit_code = ExitCode.UNREACHABLE


class WrongServerError(AteError):
    """The server's key is not the one expected. found: the fingerprint of the key that it has."""

    errno = _errno.EACCES
    exit_code = ExitCode.REFUSED
    code = "refused"

    def __init__(self, expected: bytes, found: bytes) -> None:
        super().__init__(
            f"the server's key has the fingerprint {found.hex()}, but the one known for it is {expected.hex()}; "
            "somebody may stand between you and the server, or it was set up anew; nothing was sent; ask whoever runs "
            "it which of the two is right"
        )
        self.expected = expected
        self.found = found


class RefusedError(AteError):
    """The server does not let this identity do that. The same words whether a chain is missing or somebody else's."""

    errno = _errno.EACCES
    exit_code = ExitCode.REFUSED
    code = "refused"


class RateError(AteError):
    """The tenant asks for more than its rate allows; it passes."""

    errno = _errno.EAGAIN
    exit_code = ExitCode.BUSY
    code = "rate"


class UnavailableError(AteError):
    """The server cannot do it now, for reasons of its own: its disk, or it is stopping. It says no more."""

    exit_code = ExitCode.UNREACHABLE
    code = "unavailable"


class HeldError(BusyError):
    """Somebody else has what was to be locked. start, end, exclusive: of the lock that is in the way."""

    errno = _errno.EAGAIN

    def __init__(self, start: int, end: int, exclusive: bool) -> None:
        super().__init__("somebody else has locked it")
        self.start = start
        self.end = end
        self.exclusive = exclusive


class DeadlockError(AteError):
    """To wait for this lock would be to wait for oneself."""

    errno = _errno.EDEADLK
    code = "deadlock"


class NoLocksError(AteError):
    """Too many locks are held or waited for."""

    errno = _errno.ENOLCK
    code = "no-locks"
