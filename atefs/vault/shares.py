"""Who has a share in shared content: regions of files that are regions of it, and how many use each (plain values)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from atefs.vault.ranges import Ranges, cut

Users = list[tuple[int, int, int]]
"""Sorted, disjoint runs: first region, end, how many maps and bases use each of them. Others are used by nobody."""


class Base(NamedTuple):
    """`length` regions of a file from `first` on are those of the shared content `number` from `origin` on."""

    first: int
    length: int
    number: int
    origin: int

    @property
    def end(self) -> int:
        return self.first + self.length

    def part(self, start: int, end: int) -> Base:
        """The same for the file's regions from `start` up to `end` only."""
        return Base(start, end - start, self.number, self.origin + start - self.first)


def find(bases: list[Base], region: int) -> Base | None:
    """What stands for one region of the file."""
    at = bisect_right(bases, region, key=_first) - 1
    return bases[at].part(region, region + 1) if at >= 0 and region < bases[at].end else None


def between(bases: list[Base], first: int, end: int) -> list[Base]:
    """What stands for the file's regions from `first` up to `end`."""
    pieces = [base.part(max(base.first, first), min(base.end, end)) for base in bases]
    return [base for base in pieces if base.length > 0]


def take(bases: list[Base], first: int, end: int) -> list[Base]:
    """Cut the file's regions from `first` up to `end` out of the list; returns what was there."""
    taken = between(bases, first, end)
    if taken:
        bases[:] = sorted(between(bases, 0, first) + between(bases, end, bases[-1].end))
    return taken


def put(bases: list[Base], base: Base) -> None:
    """Put it where nothing is, one with its neighbours where they go on from each other."""
    joined: list[Base] = []
    for one in sorted([*bases, base]):
        last = joined[-1] if joined else None
        if last is not None and one == Base(last.end, one.length, last.number, last.origin + last.length):
            joined[-1] = last._replace(length=last.length + one.length)
        else:
            joined.append(one)
    bases[:] = joined


def counted(users: Users, first: int, end: int, step: int) -> Users:
    """`step` more users (or less) of the regions from `first` up to `end`."""
    return summed([*users, (first, end, step)])


def summed(users: Iterable[tuple[int, int, int]]) -> Users:
    """Runs of any order that may overlap, added up."""
    steps: dict[int, int] = defaultdict(int)
    for low, high, number in users:
        steps[low] += number
        steps[high] -= number
    runs: Users = []
    number = 0
    for low, high in pairwise(sorted(steps)):
        number += steps[low]
        if number <= 0:
            continue
        if runs and runs[-1][1:] == (low, number):
            runs[-1] = (runs[-1][0], high, number)
        else:
            runs.append((low, high, number))
    return runs


def unused(regions: Ranges, users: Users) -> Ranges:
    """Those of the regions that nobody uses."""
    left = list(regions)
    for low, high, _ in users:
        cut(left, low, high)
    return left


def _first(base: Base) -> int:
    return base.first
