"""How a node's process handles its memory."""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_LARGE = 512 << 10


def return_large_memory() -> None:
    """Give what is large back to the system as soon as it is freed (man 3 mallopt). Before any thread is started.

    By default the C library begins to keep large pieces once one has been freed. LMDB takes 3 MiB for each index that
    is open and touches almost nothing of it; in pieces that were kept it all has to be zeroed, and is there for good.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    libc.mallopt(_ARENA_MAX, 2)
