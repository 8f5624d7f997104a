"""One process owns a chain: an advisory lock on the file `lock`, which names its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from atedb.chain.disk import translated
from atedb.errors import InUseError

NAME = "lock"


def holder(store: Path) -> str | None:
    """Who has the chain open for writing, in words; None when nobody has. Takes nothing and waits for nothing."""
    try:
        fd = os.open(store / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translated(error, f"opening {store / NAME}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _holder(fd)
    finally:
        os.close(fd)
    return None


def _holder(fd: int) -> str:
    return os.pread(fd, 256, 0).decode("utf-8", "replace").strip() or "an unknown process"


class ChainLock:
    """Held from construction to `release`, or to the end of the process.

    shared: for readers of a read-only chain, which exclude writers only.
    """

    def __init__(self, store: Path, *, shared: bool = False) -> None:
        path = store / NAME
        if shared and not path.exists():
            path = store / "chain"  # nobody holds a lock that is not there; readers change nothing, and make none
        try:
            self._fd = os.open(path, (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT) | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise translated(error, f"opening {path}") from error
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            who = _holder(self._fd)
            os.close(self._fd)
            raise InUseError(f"{store} is in use by {who}; nothing was changed; see: atefs status") from None
        if not shared:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)
