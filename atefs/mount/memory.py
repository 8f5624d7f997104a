"""How the driver's process handles its memory."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_GC_THRESHOLD = (100_000, 50, 100)
_SPARE = 128 << 20
"""Bytes of memory that may lie about unused. Small things that live long split what large ones left, so that without
a bound it would grow with what was ever written."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

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


def resident() -> int:
    """Bytes of memory that this process has of the system (man 5 proc, statm), without what is mapped from files."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        _, pages, shared, *_ = file.read().split()
    return (int(pages) - int(shared)) * _PAGE


class Bound:
    """Gives memory back once much more of it is held than was in use when it was given back last."""

    def __init__(self, held: Callable[[], int] = resident, give_back: Callable[[], None] = give_back) -> None:
        self._held = held
        self._give_back = give_back
        self._limit = held() + _SPARE

    def keep(self) -> None:
        """Look, which takes some microseconds, and give back what is over the bound."""
        if self._held() > self._limit:
            self.lower()

    def lower(self) -> None:
        """Give back all that is not in use."""
        self._give_back()
        self._limit = self._held() + _SPARE


def calm_collector() -> None:
    """What is there now lives as long as the mount: keep the collector from looking at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)
