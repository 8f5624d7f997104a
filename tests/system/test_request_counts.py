"""How many requests of the kernel an operation costs: speed, as far as it does not depend on the machine.

Counted over many files, so that what the kernel asks once in a while does not matter. The figures are those of
Linux 6.18; a newer kernel may ask less.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atefs.mount.options import DRIVERS
from tests.system.mounted import Mounted

pytestmark = pytest.mark.needs("fuse", "root")

FILES = 400
ALLOWED = 0.3
"""Requests per file beyond the figure: listings, attributes of the folder, the counting itself."""


def make(path: Path) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, b"x" * 4096)
    os.close(fd)


def read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, 8192)
    os.close(fd)


def overwrite(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"y" * 4096)
    os.close(fd)


OPERATIONS: list[tuple[str, Callable[[Path], object], int, int]] = [
    # LOOKUP, CREATE, GETXATTR of security.capability, WRITE, FLUSH, RELEASE; SETATTR (times) where the clock moved on
    ("make", make, 7, 7),
    # GETATTR: only after a file was written and closed, since its blocks have changed
    ("stat", os.stat, 1, 1),
    # OPEN, FLUSH, RELEASE (the content is in the kernel's cache); the first time, GETATTR for the new access time
    ("read", read, 5, 5),
    # OPEN, GETXATTR, SETATTR (the size), GETXATTR, WRITE, FLUSH, RELEASE
    ("overwrite", overwrite, 7, 8),
    # LOOKUP of the new name, RENAME, SETATTR (ctime), and GETATTR
    ("rename", lambda path: path.rename(path.with_suffix(".new")), 4, 4),
    # UNLINK, SETATTR (ctime), FORGET; GETATTR
    ("unlink", lambda path: path.with_suffix(".new").unlink(), 4, 4),
]


def test_no_operation_costs_more_requests_than_it_has_to(place: Mounted) -> None:
    place.mount()
    column = DRIVERS.index(place.driver)
    folder = place / "folder"
    folder.mkdir()
    found = {}
    for name, operation, *most in OPERATIONS:
        before = place.status()["requests"]
        for number in range(FILES):
            operation(folder / f"{number}")
        found[name] = (place.status()["requests"] - before) / FILES, most[column]
    assert all(cost <= most + ALLOWED for cost, most in found.values()), found
