"""Links that are cut at any time, while several machines write: in the end all have the same, and nothing is lost."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from tests.system.links import Relay
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")


def writes(replica: Replica, stop: threading.Event, told: list[tuple[str, str]]) -> None:
    """Make, change, move and delete files of one's own and of a shared folder, until told to stop."""
    choose = random.Random(replica.name)
    turn = 0
    while not stop.is_set():
        turn += 1
        token = f"{replica.name}-{turn}"
        (replica / f"{replica.name}{turn}").write_text(token)
        told.append((f"{replica.name}{turn}", token))
        shared = replica / "shared" / str(choose.randrange(10))
        try:
            match choose.randrange(4):
                case 0 | 1:
                    shared.write_text(token * 100)
                case 2:
                    os.rename(shared, replica / "shared" / str(choose.randrange(10)))
                case _:
                    os.unlink(shared)
        except FileNotFoundError:
            pass
        time.sleep(0.01)


@pytest.mark.parametrize("number", [2, pytest.param(5, marks=pytest.mark.long)])
def test_links_may_be_cut_at_any_time(machines: Machines, solo: Solo, number: int) -> None:
    replicas, relays = [], []
    for place in range(number):
        relay = Relay(solo.port)
        replica = machines(f"m{place}")
        replica.mount(url=f"ws://127.0.0.1:{relay.port}/db/you@example.com/vault")
        relays.append(relay)
        replicas.append(replica)
    (replicas[0] / "shared").mkdir()
    alike(*replicas)
    stop = threading.Event()
    told: list[list[tuple[str, str]]] = [[] for _ in replicas]
    writers = [
        threading.Thread(target=writes, args=(replica, stop, mine))
        for replica, mine in zip(replicas, told, strict=True)
    ]
    choose = random.Random(number)
    for writer in writers:
        writer.start()
    try:
        for _ in range(6 * number):
            relay = choose.choice(relays)
            relay.cut()
            time.sleep(choose.random())
            relay.mend()
            time.sleep(choose.random() / 2)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    found = alike(*replicas)
    for mine in told:
        for name, token in mine:
            assert name in found
            assert (replicas[0] / name).read_text() == token
    for replica in replicas:
        replica.umount()
        assert replica.complaints() == []
        assert replica.atefs("fsck", replica.path, check=False).returncode == 0
    assert solo.complaints() == []
    for relay in relays:
        relay.close()
