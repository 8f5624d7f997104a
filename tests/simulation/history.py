"""What happens in one history: who does what when, on which machines, and what goes wrong meanwhile."""

from __future__ import annotations

import random
from enum import Enum
from typing import NamedTuple

from hypothesis import strategies as st

from atefs.mount.options import RecoveryMode
from tests.simulation.programs import PROGRAMS

GAPS = (0.0, 0.0, 0.004, 0.01, 0.02, 0.03, 0.06, 0.1, 0.3, 1.0, 4.0, 15.0)
"""Seconds from one step to the next."""
MOST_MACHINES = 5
HOUR = 3600


class Fate(Enum):
    """What goes wrong. Of machine `who`, but for those of the server."""

    CUT = "the link is cut after some messages"
    SILENCE = "the network carries nothing any more, and does not say so"
    OFFLINE = "the network is down"
    MEND = "the network is as it should be"
    POWER = "the power goes, after some steps of the disk"
    KILL = "the driver is killed, after some steps of the disk"
    UNMOUNT = "the vault is unmounted, and mounted again"
    BURN = "the machine's disk is lost, and it joins anew"
    SERVER_POWER = "the server's power goes, after some steps of its disk"
    SERVER_KILL = "the server is killed, after some steps of its disk"
    SERVER_STOP = "the server is stopped in order"


FATES = list(Fate)
EVERYTHING = len(PROGRAMS) + len(FATES)


class Step(NamedTuple):
    """gap: index into GAPS. what: a program, by number; the fates come after these. first, second: what it makes of
    them."""

    who: int
    gap: int
    what: int
    first: int
    second: int


class Machine(NamedTuple):
    """mode: of recovery. skew: seconds by which its clock is wrong. slow: its disk takes a while for a barrier."""

    mode: RecoveryMode
    skew: int
    slow: bool


class History(NamedTuple):
    """seed: of the order of tasks, delays, keys, and what a power cut leaves."""

    seed: int
    machines: list[Machine]
    steps: list[Step]


def history_of(seed: int) -> History:
    """The history that follows from one number."""
    chance = random.Random(seed)
    modes, most = list(RecoveryMode), MOST_MACHINES if chance.random() < 0.2 else 3
    machines = [
        Machine(chance.choice(modes), chance.randint(-HOUR, HOUR), chance.random() < 0.3)
        for _ in range(chance.randint(2, most))
    ]
    trouble = chance.choice((0.05, 0.15, 0.3))
    steps = [_step(chance, len(machines), trouble) for _ in range(chance.randint(8, 40))]
    return History(chance.getrandbits(32), machines, steps)


def _step(chance: random.Random, machines: int, trouble: float) -> Step:
    fated = chance.random() < trouble
    what = chance.randrange(len(PROGRAMS), EVERYTHING) if fated else chance.randrange(len(PROGRAMS))
    return Step(chance.randrange(machines), chance.randrange(len(GAPS)), what, *chance.choices(range(61), k=2))


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any; from most of them a step or two are left out, so that those that fail can be shortened."""
    history = history_of(int.from_bytes(draw(st.binary(min_size=8, max_size=8))))
    kept = draw(st.lists(st.integers(0, 31), min_size=len(history.steps), max_size=len(history.steps)))
    return history._replace(steps=[step for step, keep in zip(history.steps, kept, strict=True) if keep])
