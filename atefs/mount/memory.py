"""How the driver's process handles its memory."""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_GC_THRESHOLD = (100_000, 50, 100)
_SPARE = 256 << 20

_libc = ctypes.CDLL(None)


def reuse_freed_memory() -> None:
    """Keep what was freed for the next request (man 3 mallopt).

    Requests and blocks are of 128 KiB to 1 MiB. By default each gets pages of its own from the kernel, zeroed, and
    gives them back: on a virtual machine that takes as long as encrypting them. `give_back` is for when the mount is
    idle. To be called before any thread is started.
    """
    for option, value in (
        (_TRIM_THRESHOLD, _SPARE),
        (_TOP_PAD, 16 << 20),
        (_MMAP_THRESHOLD, 32 << 20),
        (_ARENA_MAX, 1),
    ):
        _libc.mallopt(option, value)


def give_back() -> None:
    """Return to the system what is not in use (man 3 malloc_trim)."""
    _libc.malloc_trim(0)


def calm_collector() -> None:
    """What is there now lives as long as the mount: keep the collector from looking at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
