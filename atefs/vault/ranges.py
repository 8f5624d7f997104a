"""Sets of integers as sorted, disjoint, non-adjacent half-open ranges."""

from __future__ import annotations

from bisect import bisect_right

Ranges = list[tuple[int, int]]
_TOP = 2**64


def contains(ranges: Ranges, number: int) -> bool:
    """Is `number` in the set?"""
    at = bisect_right(ranges, (number, _TOP)) - 1
    return at >= 0 and number < ranges[at][1]


def add(ranges: Ranges, start: int, end: int) -> None:
    """Put [start, end) into the set."""
    first = bisect_right(ranges, (start, -1))
    if first and ranges[first - 1][1] >= start:
        first -= 1
    last = first
    while last < len(ranges) and ranges[last][0] <= end:
        start, end = min(start, ranges[last][0]), max(end, ranges[last][1])
        last += 1
    ranges[first:last] = [(start, end)]


def cut(ranges: Ranges, start: int, end: int) -> Ranges:
    """Take [start, end) out of the set; returns what was there of it."""
    taken: Ranges = []
    kept: Ranges = []
    for low, high in ranges:
        inner = max(low, start), min(high, end)
        if inner[0] >= inner[1]:
            kept.append((low, high))
            continue
        taken.append(inner)
        if low < start:
            kept.append((low, start))
        if end < high:
            kept.append((end, high))
    ranges[:] = kept
    return taken
