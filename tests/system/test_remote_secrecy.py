"""A canary in everything that people choose: it is in no file, frame, log line, metric, page or process of the server.

Names, contents, attributes, link targets, the path of the mount point. The twins show that the search would find it.
"""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.links import Relay
from tests.system.mounted import PASSPHRASE, until
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")

CANARY = b"CaNaRy-5b1e77"
PAGES = ("/", "/health", "/metrics", "/openapi.json", "/nothing")


def needles(word: bytes) -> list[bytes]:
    """The ways in which it might be written."""
    shifted = [base64.b64encode(bytes(shift) + word)[4:-4] for shift in range(3)]
    text = word.decode()
    return [
        word, word.lower(), word.hex().encode(), word.hex().upper().encode(), text.encode("utf-16-le"),
        urllib.parse.quote(text).encode(), text.replace("-", "\\x2d").encode(), *shifted,
    ]  # fmt: skip


def traces(found: dict[str, bytes], words: Sequence[bytes]) -> list[str]:
    """Where one of the words is."""
    wanted = [needle for word in words for needle in needles(word)]
    return [where for where, content in found.items() if any(needle in content for needle in wanted)]


def files_below(*folders: Path) -> dict[str, bytes]:
    """Everything that lies there, with its name."""
    return {
        os.fspath(path): os.fsencode(path.relative_to(folder)) + (path.read_bytes() if path.is_file() else b"")
        for folder in folders
        for path in folder.rglob("*")
        if not path.is_socket()
    }


def process(pid: int) -> dict[str, bytes]:
    """What others of this machine can see of a process."""
    return {f"/proc/{pid}/{name}": Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline")}


def plant(replica: Replica) -> None:
    """Everything that can be named, with the canary as its name and content."""
    name = CANARY.decode()
    folder = replica / f"folder-{name}"
    folder.mkdir()
    (folder / name).write_bytes(CANARY * 3)
    (replica / "large").write_bytes((CANARY + bytes(50)) * 40_000)
    os.setxattr(folder / name, f"user.{name}", CANARY)
    (replica / f"link-{name}").symlink_to(f"/nowhere/{name}")
    os.rename(folder / name, replica / f"renamed-{name}")
    (replica / f"gone-{name}").write_bytes(CANARY)
    replica.sync()
    (replica / f"gone-{name}").unlink()


@pytest.fixture
def planted(machines: Machines, solo: Solo) -> tuple[Replica, Replica, dict[str, bytes]]:
    """Two machines that have the canary, one of them at a mount point that has it in its path, and all that the server
    has, says and shows; what went over the wire is among it."""
    relay = Relay(solo.port, keep=True)
    url = f"ws://127.0.0.1:{relay.port}/db/you@example.com/vault"
    a, b = machines("a"), machines("b")
    b.path = b.home / f"at-{CANARY.decode()}" / "vault"
    b.path.parent.mkdir()
    a.mount(url=url)
    b.mount(url=url)
    plant(a)
    alike(a, b)
    (b / f"of-b-{CANARY.decode()}").write_bytes(CANARY)
    for machine in (a, b):
        assert (machine / f"renamed-{CANARY.decode()}").read_bytes() == CANARY * 3
        assert (machine / "large").read_bytes() == (CANARY + bytes(50)) * 40_000
    until(lambda: b.sent() and a.sent(), "all to be sent")
    found = {page: solo.page(page)[1].encode() for page in PAGES}
    found |= {f"server {where}": content for where, content in process(solo.pid).items()}
    found |= {f"driver {where}": content for machine in (a, b) for where, content in process(machine.pid).items()}
    found |= {f"wire {number}": data for number, data in enumerate(relay.passed)}
    relay.close()
    solo.stop()
    found |= files_below(solo.data) | {os.fspath(log): log.read_bytes() for log in (solo.log, solo.out)}
    return a, b, found


def test_the_server_has_no_trace_of_what_people_choose(planted: tuple[Replica, Replica, dict[str, bytes]]) -> None:
    a, _, found = planted
    drivers = {where for where in found if where.startswith("driver ")}
    seen_by_server = {where: content for where, content in found.items() if where not in drivers}
    assert any("segments" in where or where.endswith(".seg") for where in seen_by_server)
    assert any("index" in where for where in seen_by_server)
    assert sum(len(content) for where, content in found.items() if where.startswith("wire ")) > 10_000
    assert traces(seen_by_server, [CANARY, PASSPHRASE.encode()]) == []
    assert traces({where: found[where] for where in drivers}, [PASSPHRASE.encode()]) == []
    own = {where: content for where, content in found.items() if where.startswith(f"driver /proc/{a.pid}/")}
    assert traces(own, [CANARY]) == []  # b's mount point is among b's arguments, and on its own machine only
    assert traces(files_below(a.store), [CANARY, PASSPHRASE.encode()]) == []
    assert traces({os.fspath(a.log): a.log.read_bytes()}, [CANARY, PASSPHRASE.encode()]) == []


def test_the_search_finds_it_wherever_it_is(planted: tuple[Replica, Replica, dict[str, bytes]]) -> None:
    """The negative twin: on the machine itself it is seen, and in whatever it is put into."""
    _, b, found = planted
    assert traces(found, [CANARY]) == [f"driver /proc/{b.pid}/cmdline"]
    for needle in needles(CANARY):
        leaky = {where: content + needle for where, content in found.items()}
        assert len(traces(leaky, [CANARY])) == len(leaky)


def test_without_sealing_records_the_wire_would_show_it(machines: Machines, solo: Solo) -> None:
    """The negative twin for the wire: what is said in clear is found in what the relay has seen."""
    relay = Relay(solo.port, keep=True)
    a = machines("a")
    a.mount(url=f"ws://127.0.0.1:{relay.port}/db/you@example.com/vault")
    until(a.sent, "all to be sent")
    relay.close()
    assert traces({"wire": b"".join(relay.passed)}, [b"Sec-WebSocket"]) == ["wire"]
    assert traces({"wire": b"".join(relay.passed)}, [b"you@example.com"]) == []
