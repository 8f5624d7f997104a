"""Memory that a driver holds and does not use."""

from __future__ import annotations

import gc

from atefs.mount.memory import Bound, resident

MIB = 1 << 20


class Process:
    """What it holds, and what of that is in use."""

    def __init__(self) -> None:
        self.held = self.used = 50 * MIB
        self.times = 0

    def give_back(self) -> None:
        self.held = self.used
        self.times += 1


def bound(process: Process) -> Bound:
    return Bound(lambda: process.held, process.give_back)


def test_what_lies_about_unused_is_given_back_before_it_is_much() -> None:
    process = Process()
    kept = bound(process)
    for _ in range(1000):
        process.held += 3 * MIB
        kept.keep()
        assert process.held < process.used + 132 * MIB
    assert process.times < 30


def test_what_is_in_use_is_not_given_back_again_and_again() -> None:
    process = Process()
    kept = bound(process)
    process.held = process.used = 400 * MIB
    for _ in range(1000):
        kept.keep()
    assert process.times == 1


def test_what_the_process_holds_is_seen() -> None:
    gc.collect()  # what other tests have left must not go meanwhile
    before = resident()
    block = bytearray(b"x" * (64 * MIB))
    assert 60 * MIB < resident() - before < 80 * MIB
    del block
