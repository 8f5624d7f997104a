"""The commands that look at a store, on the replica of a chain that lies on a server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.replicas import Machines, Replica, alike

pytestmark = pytest.mark.needs("fuse")


def look(machine: Replica, where: Path) -> None:
    """All of them, on a store or a mount point that is sound."""
    assert "The log is whole" in machine.atefs("verify", where).stdout
    assert "The log is whole" in machine.atefs("verify", "--data", where).stdout
    nodes = [json.loads(line) for line in machine.atefs("dump", "--json", where).stdout.splitlines()]
    events = [node for node in nodes if node["kind"] == "event"]
    assert events
    assert not [event for event in events if event["problem"]]
    assert {event["lane"] for event in events} == {"meta", "blob"}
    assert "in 1 segments" in machine.atefs("info", where).stdout


def written(machines: Machines) -> tuple[Replica, Replica]:
    """Two machines that have put their changes on top of each other's."""
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "large").write_bytes(os.urandom(1_000_000))
    for number in range(15):
        (a / f"a{number}").write_text("a")
        (b / f"b{number}").write_text("b")
    alike(a, b)
    return a, b


def test_a_replica_is_verified_checked_and_dumped_mounted_or_not(machines: Machines) -> None:
    for machine in written(machines):
        look(machine, machine.path)
        machine.umount()
        look(machine, machine.store)
        assert "Nothing is wrong." in machine.atefs("fsck", machine.store).stdout


def test_a_damaged_replica_is_named_and_the_server_has_it_all(machines: Machines) -> None:
    a, b = written(machines)
    b.umount()
    segment = b.store / "segments" / "00000001.seg"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    for command in (("verify", "--data"), ("fsck",)):
        assert b.atefs(*command, b.store, check=False).returncode == ExitCode.DAMAGED
    refused = b.atefs("fsck", "--repair", b.store, check=False)
    assert refused.returncode == ExitCode.UNSUPPORTED
    assert "move the folder away and mount the chain again, with --accept-rollback" in refused.stderr
    b.store.rename(b.home / "moved away")
    b.mount("--accept-rollback")
    alike(a, b)
    for machine in (a, b):
        machine.umount()
