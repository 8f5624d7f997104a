"""Real mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atefs.mount.options import DRIVERS
from tests.system.mounted import Mounted
from tests.system.replicas import Machines, Replica
from tests.system.solo import Solo


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """How the kernel is spoken to: every test runs both ways, unless its module says otherwise (`ONCE`)."""
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path, driver: str) -> Iterator[Mounted]:
    """A place for a vault, nothing mounted yet."""
    mounted = Mounted(tmp_path, driver)
    try:
        yield mounted
    finally:
        mounted.clean_up()


@pytest.fixture
def vault(place: Mounted) -> Iterator[Mounted]:
    """A new vault, mounted. Its driver must not complain while the test goes on."""
    place.mount()
    yield place
    assert not place.complaints()


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Solo]:
    """A server that takes anybody, on loopback."""
    solo = Solo(tmp_path)
    solo.start()
    yield solo
    solo.clean_up()


@pytest.fixture
def machines(tmp_path: Path, solo: Solo) -> Iterator[Machines]:
    """Makes machines that can mount what the server has."""
    made: list[Replica] = []

    def make(name: str) -> Replica:
        made.append(Replica(tmp_path, name, solo))
        return made[-1]

    yield make
    for replica in made:
        replica.clean_up()
