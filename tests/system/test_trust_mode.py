"""Real mounts of a server that has devices prove their keys, and does not verify their signatures."""

from __future__ import annotations

import pytest

from tests.system.replicas import Machines, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")


def test_mounts_of_a_server_that_believes_devices_are_alike(machines: Machines, solo: Solo) -> None:
    solo.stop()
    solo.start("--trust=centralized")
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "from a").write_text("1")
    (b / "from b").write_text("2")
    alike(a, b)
    solo.kill()
    solo.start("--trust=distributed")
    (a / "more").write_text("3")
    alike(a, b)
    for machine in (a, b):
        machine.umount()
        assert machine.complaints() == []
    assert solo.complaints() == []
