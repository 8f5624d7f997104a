"""Programs cannot tell the mount from tmpfs: random operations on both, and what such runs have found."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.system.mounted import Mounted, atefs, run
from tests.system.two_roots import USER, TwoRoots
from tests.system.two_roots_machine import TwoRootsMachine

pytestmark = pytest.mark.needs("fuse", "root")

ALONE = ("-o", "noatime")
SHARED = ("--allow-other", "-o", "noatime")
"""Who is let in decides who checks permissions, see docs/posix.md. Reading leaves atime alone, here as in the tmpfs."""


@contextmanager
def two_roots(place: Mounted, options: tuple[str, ...]) -> Iterator[TwoRoots]:
    reference = place.folder / "reference"
    reference.mkdir()
    run("mount", "-t", "tmpfs", "-o", "noatime,nosuid,nodev", "reference", reference)
    try:
        place.mount(*options)
        roots = TwoRoots(reference, place, options, USER if options is SHARED else 0)
        try:
            yield roots
        finally:
            roots.end()
    finally:
        subprocess.run(["umount", "-l", reference], check=False)
    assert not place.complaints()
    place.umount()
    atefs("fsck", "--passphrase-file", place.passphrase_file, place.path)


def explore(
    place: Mounted, options: tuple[str, ...], *, examples: int, steps: int, mounts: int, **more: Any
) -> None:  # fmt: skip
    """mounts: how often each example may mount anew."""
    with two_roots(place, options) as roots:
        machine = type("Machine", (TwoRootsMachine,), {"roots": roots, "mounts": mounts})
        chosen = settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), **more,
        )  # fmt: skip
        run_state_machine_as_test(machine, settings=chosen)


@pytest.fixture
def roots(place: Mounted) -> Iterator[TwoRoots]:
    """Both roots for one round, by root and a user."""
    with two_roots(place, SHARED) as found:
        found.begin()
        yield found
        found.finish()


@pytest.mark.parametrize("options", [ALONE, SHARED], ids=["by root", "by root and a user"])
def test_random_operations(place: Mounted, options: tuple[str, ...]) -> None:
    """What it finds it shows as it is: to make an example small takes minutes."""
    explore(place, options, examples=15, steps=50, mounts=1, derandomize=True, phases=[Phase.generate])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [ALONE, SHARED], ids=["by root", "by root and a user"])
def test_many_random_operations(place: Mounted, options: tuple[str, ...]) -> None:
    explore(place, options, examples=300, steps=100, mounts=2, derandomize=False)


# What such runs have found


def test_writes_within_one_tick_of_the_kernels_clock_leave_the_times_it_has_shown(roots: TwoRoots) -> None:
    """The kernel stamps a file when a program writes, by a coarse clock, and tells us of stamps that are new."""
    for name in ("a", "b", "c"):
        roots.both(0, "open", 0, name, os.O_RDWR | os.O_CREAT, 0o644)
        for page in range(10):
            roots.both(0, "pwrite", 0, b"x" * 100, page * 4096)
            roots.both(0, "fsync", 0, False)
        roots.both(0, "close", 0)
    roots.remount()


# The negative twins: what the comparison has to find


def test_the_comparison_finds_an_operation_that_one_root_alone_has_seen(roots: TwoRoots) -> None:
    changes: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = [
        ("chmod", ("a", 0o600), ("a", 0o644)),
        ("chown", ("a", USER, -1, True), ("a", 0, -1, True)),
        ("utimens", ("a", (5, 6), True), ("a", (1, 2), True)),
        ("truncate", ("a", 7), ("a", 0)),
        ("setxattr", ("a", "user.a", b"", 0, True), ("a", "user.a", b"v", 0, True)),
        ("link", ("a", "b"), ("a", "c")),
    ]
    roots.both(0, "open", 0, "a", os.O_RDWR | os.O_CREAT, 0o644)
    for operation, one, other in changes:
        roots.apart(operation, one, other)
        with pytest.raises(AssertionError, match=r"there, .* here"):
            roots.compare()
        if operation == "link":
            roots.apart("unlink", ("b",), ("c",))
        else:
            roots.both(0, operation, *one)
        if operation in ("truncate", "setxattr"):
            roots.both(0, "utimens", "a", (5, 6), True)
        roots.compare()


def test_the_comparison_finds_content_that_a_kill_has_taken(roots: TwoRoots, monkeypatch: pytest.MonkeyPatch) -> None:
    roots.both(0, "open", 0, "a", os.O_RDWR | os.O_CREAT, 0o644)
    roots.both(0, "fsync", 0, False)
    roots.both(0, "pwrite", 0, b"lost", 0)
    monkeypatch.setattr(roots, "settle", lambda kernel: None)
    with pytest.raises(AssertionError, match=r"there, .* here"):
        roots.kill(kernel=True)
    roots.both(0, "unlink", "a")
