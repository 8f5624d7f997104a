"""Cables that are pulled: nobody is told, packets just do not arrive. Everybody goes on, and in the end all agree."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.mounted import ATEFS, until
from tests.system.networks import Cable, network
from tests.system.replicas import Replica, alike
from tests.system.solo import ATEDB, Solo

pytestmark = pytest.mark.needs("fuse", "root", "ip", "unshare", "nsenter")


@pytest.fixture
def cabled(tmp_path: Path) -> Iterator[list[tuple[Replica, Cable]]]:
    """Two machines with the same chain mounted, each with its cable; they are tenants, since the server listens."""
    with network(2) as (server, cables):
        solo = Solo(tmp_path)
        solo.command = [*server, *ATEDB]
        made: list[tuple[Replica, Cable]] = []
        try:
            for name, cable in zip("ab", cables, strict=True):
                replica = Replica(tmp_path, name, solo)
                replica.command = [*cable.inside, *ATEFS]
                made.append((replica, cable))
            keys = [replica.atefs("identity").stdout.strip() for replica, _ in made]
            solo.tenant("add", "you@example.com", *(f"--key={key}" for key in keys))
            solo.start("--listen=0.0.0.0")
            for replica, cable in made:
                replica.mount(url=str(solo.url(host=cable.server)))
            yield made
        finally:
            for replica, _ in made:
                replica.clean_up()
            solo.clean_up()


def work_apart(cabled: list[tuple[Replica, Cable]]) -> None:
    """While a cable is pulled, both go on at the speed of their disks, and write the same file."""
    (a, cable), (b, _) = cabled
    (a / "paper").write_text("as it was")
    alike(a, b)
    cable.pull()
    start = time.monotonic()
    for replica in (a, b):
        (replica / "paper").write_text(f"as {replica.name} has it")
        for turn in range(20):
            (replica / f"{replica.name}{turn}").write_text(replica.name)
        replica.sync()
        assert len(list(replica.path.iterdir())) >= 21
    assert time.monotonic() - start < 5


def meet_again(cabled: list[tuple[Replica, Cable]]) -> None:
    """Both have all of it, and both versions of what both have written, one of which is listed."""
    (a, cable), (b, _) = cabled
    cable.plug()
    found = alike(a, b)
    assert {f"{name}{turn}" for name in "ab" for turn in range(20)} <= found.keys()
    papers = sorted(path for path in found if path.startswith("paper"))
    assert {(a / path).read_text() for path in papers} == {"as a has it", "as b has it"}
    for replica in (a, b):
        (listed,) = json.loads(replica.atefs("conflicts", "list", replica.path, "--json").stdout)
        assert listed["path"] == papers[1]
        replica.umount()
        assert replica.complaints() == []
        assert replica.atefs("fsck", replica.path, check=False).returncode == 0


def test_a_cable_that_is_pulled_for_a_moment_loses_nothing(cabled: list[tuple[Replica, Cable]]) -> None:
    work_apart(cabled)
    meet_again(cabled)


@pytest.mark.long
def test_a_cable_that_is_pulled_for_long_is_noticed_and_loses_nothing(cabled: list[tuple[Replica, Cable]]) -> None:
    work_apart(cabled)
    a, _ = cabled[0]
    until(a.is_state("offline"), "the silence to be noticed")
    meet_again(cabled)
