"""Chance that is the same every time: whatever a program leaves to it follows from one number."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from trio._core import _run as scheduler


@contextmanager
def determined(seed: int) -> Iterator[random.Random]:
    """Inside, the order in which trio runs tasks that are ready, and random bytes for keys and nonces, follow from
    `seed`; and so does the generator that is given, which is for the test itself.

    Not for more than one event loop at a time. Keys that are made for a connection stay random: they change what is
    sent, not how much of it. Trio is told to be deterministic as its plugin for hypothesis tells it.
    """
    chance = random.Random(seed)
    with (
        mock.patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(scheduler, "_r", random.Random(chance.random())),
        mock.patch.object(secrets, "token_bytes", random.Random(chance.random()).randbytes),
    ):
        yield chance
