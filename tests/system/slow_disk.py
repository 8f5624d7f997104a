"""`atefs …` on a disk that is slow, and that stops while the file $ATE_TEST_STUCK is there.

Whoever waits for the disk then makes the file "<that>.barrier" or "<that>.read". Run as a program, with the arguments
of atefs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

SLOW = 0.02
"""Seconds that a barrier takes at least: so long that none is done where requests are answered."""
_STUCK = Path(os.environ["ATE_TEST_STUCK"])
_fdatasync, _preadv, _pwritev = os.fdatasync, os.preadv, os.pwritev


def _wait(what: str) -> None:
    while _STUCK.exists():
        _STUCK.with_name(f"{_STUCK.name}.{what}").touch()
        time.sleep(0.01)


def fdatasync(fd: int) -> None:
    """A barrier."""
    time.sleep(SLOW)
    _wait("barrier")
    _fdatasync(fd)


def preadv(fd: int, buffers: Sequence[bytearray | memoryview], offset: int, flags: int = 0) -> int:
    """A read, which waits unless it is of what is in memory already."""
    if not flags & os.RWF_NOWAIT:
        _wait("read")
    return _preadv(fd, buffers, offset, flags)


def pwritev(fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int, flags: int = 0) -> int:
    """A write, which is a barrier as well where it goes through to the device."""
    if flags & os.RWF_DSYNC:
        time.sleep(SLOW)
        _wait("barrier")
    return _pwritev(fd, buffers, offset, flags)


if __name__ == "__main__":
    from atefs.cli.main import main

    vars(os).update(fdatasync=fdatasync, preadv=preadv, pwritev=pwritev)
    main()
