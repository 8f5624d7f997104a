"""The one table from what an operation raised to the errno that the kernel is told."""

from __future__ import annotations

import errno
import logging

from atedb.errors import AteError

log = logging.getLogger(__name__)


def errno_of(error: BaseException) -> int | None:
    """The errno that the error stands for; None where it is a defect of ours, to be logged and answered EIO."""
    if isinstance(error, AteError):
        return error.errno
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return None


def answer(error: BaseException) -> int:
    """The errno for the kernel. A defect is logged with its traceback: it costs the caller EIO, never the mount."""
    known = errno_of(error)
    if known is None:
        log.error("a request failed with %s", type(error).__name__, exc_info=error)
        return errno.EIO
    return known
