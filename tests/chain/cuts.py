"""A program that is run again and again, each time with the power cut one step later."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from atedb.testing.disk import FaultyDisk


class Left(NamedTuple):
    """What a program has left. judge: what is wrong with a folder in which the disk's may come back; "" if nothing."""

    disk: FaultyDisk
    judge: Callable[[Path], str]


def cut_at_every_step(
    folder: Path, run: Callable[[Path, int], Left | None], *, least: int, seeds: int = 2, first: bool = False
) -> list[str]:
    """Cut at every step in turn, until the program ends before the cut; what was found wrong.

    run: runs the program in a new folder, with the power cut at a step; None when it has ended and that is not to be
    judged. least: it must take more steps than this. seeds: of how many ways in which the folder may come back. first:
    one finding is enough.
    """
    wrong = []
    for step in itertools.count(1):
        place = folder / f"cut{step}"
        place.mkdir()
        left = run(place, step)
        if left is None:
            shutil.rmtree(place)
            break
        for seed in range(seeds):
            found = place / f"found{seed}"
            found.mkdir()
            left.disk.survivors(found, random.Random(seed))
            if problem := left.judge(found):
                wrong.append(f"step {step} ({left.disk.trace[-1]}), seed {seed}: {problem}")
        shutil.rmtree(place)
        if first and wrong:
            return wrong
        if not left.disk.dead:
            break
    assert step > least
    return wrong
