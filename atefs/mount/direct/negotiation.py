"""FUSE_INIT: what the kernel offers and what we take of it."""

from __future__ import annotations

import logging

from atedb.errors import UnsupportedError
from atefs.mount.direct.protocol import BODY, INIT_IN, INIT_OUT, MAJOR, MINOR, MINOR_MIN, Init

log = logging.getLogger(__name__)

MAX_WRITE = 1 << 20
MAX_BACKGROUND = 64
PAGE = 4096
WANTED = (
    Init.ASYNC_READ | Init.EXPORT_SUPPORT | Init.BIG_WRITES | Init.DO_READDIRPLUS
    | Init.READDIRPLUS_AUTO | Init.ASYNC_DIO | Init.WRITEBACK_CACHE | Init.PARALLEL_DIROPS | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS | Init.EXPLICIT_INVAL_DATA | Init.HANDLE_KILLPRIV_V2 | Init.SETXATTR_EXT | Init.DONT_MASK
)  # fmt: skip
"""In any case. Without ATOMIC_O_TRUNC the kernel cuts a file by SETATTR, whose answer saves it a GETATTR. DONT_MASK: a
directory's default access control list takes the place of the umask, so that the vault has to know the mode as it was
asked for."""


NOTHING = Init(0)


class KernelTooOldError(UnsupportedError):
    """The kernel speaks an older protocol than the adapter."""


def negotiate(data: bytes, more: Init, less: Init = NOTHING) -> tuple[bytes, Init]:
    """The answer to an INIT request, and what is agreed on from then on. more, less: what is wanted beside WANTED, and
    what of it is not.

    A kernel with a newer major version is told ours and asks again. Raises KernelTooOldError.
    """
    major, minor, read_ahead, offered = INIT_IN.unpack_from(data, BODY)
    if major > MAJOR:
        return INIT_OUT.pack(MAJOR, MINOR, *[0] * 10), Init(0)
    if (major, minor) < (MAJOR, MINOR_MIN):
        raise KernelTooOldError(
            f"the kernel speaks FUSE {major}.{minor}, and {MAJOR}.{MINOR_MIN} is needed (Linux 5.4); nothing was "
            "changed; mount with: --driver pyfuse3"
        )
    agreed = (WANTED | more) & ~less & Init(offered)
    log.debug("kernel protocol %d.%d, agreed on %s", major, minor, agreed)
    answer = INIT_OUT.pack(
        MAJOR, min(minor, MINOR), read_ahead, agreed, MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4, MAX_WRITE, 1,
        MAX_WRITE // PAGE, 0, 0, 0,
    )  # fmt: skip
    return answer, agreed
