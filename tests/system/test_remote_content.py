"""Content that is on the server only: fetched when it is read, brought here before, kept here."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import until
from tests.system.replicas import Machines, Replica, alike
from tests.system.solo import Solo

pytestmark = pytest.mark.needs("fuse")

MIB = 1 << 20


@pytest.fixture
def filled(machines: Machines) -> tuple[Replica, Replica, bytes]:
    """A vault with content, which one machine has written and another one has mounted; the content."""
    a, b = machines("a"), machines("b")
    a.mount()
    content = os.urandom(4 * MIB)
    (a / "folder").mkdir()
    for name in "12":
        (a / "folder" / name).write_bytes(content)
    (a / "small").write_text("small files travel with their names")
    until(a.sent, "all to be sent")
    b.mount()
    return a, b, content


def unplug(replica: Replica, solo: Solo) -> None:
    solo.stop()
    until(replica.is_state("offline"), "the link to notice")


def stored(replica: Replica) -> int:
    return sum(path.stat().st_size for path in replica.store.rglob("*") if path.is_file() and path.name != "view.mdb")


def test_a_fresh_replica_knows_all_names_before_it_has_any_content(
    filled: tuple[Replica, Replica, bytes], solo: Solo
) -> None:
    _, b, content = filled
    held = sum(path.stat().st_blocks * 512 for path in (b.store / "blobs").rglob("*") if path.is_file())
    assert held < MIB
    unplug(b, solo)
    assert sorted(os.listdir(b / "folder")) == ["1", "2"]
    assert (b / "folder" / "1").stat().st_size == len(content)
    assert (b / "small").read_text() == "small files travel with their names"
    with pytest.raises(OSError, match="No route") as failed:
        (b / "folder" / "1").read_bytes()
    assert failed.value.errno == errno.EHOSTUNREACH
    solo.start()
    until(b.is_state("online"), "the link to be back")
    assert (b / "folder" / "1").read_bytes() == content


@pytest.mark.parametrize("how", ["prefetch", "pin"])
def test_what_was_brought_here_is_read_without_the_server(
    filled: tuple[Replica, Replica, bytes], solo: Solo, how: str
) -> None:
    _, b, content = filled
    said = b.atefs(how, b / "folder").stdout
    assert "2 files" in said
    unplug(b, solo)
    b.umount()
    b.mount()
    for name in "12":
        assert (b / "folder" / name).read_bytes() == content
    if how == "pin":
        assert "2 files" in b.atefs("unpin", b / "folder").stdout


def test_a_file_of_the_others_can_be_changed_in_part_without_its_content(
    filled: tuple[Replica, Replica, bytes], solo: Solo
) -> None:
    a, b, content = filled
    unplug(b, solo)
    with (b / "folder" / "1").open("r+b") as file:
        file.seek(128 * 1024)
        file.write(b"x" * 128 * 1024)  # a block as a whole
    b.sync()
    solo.start()
    alike(a, b)
    assert (a / "folder" / "1").read_bytes() == content[: 1 << 17] + b"x" * (1 << 17) + content[1 << 18 :]


def test_what_a_merge_keeps_beside_is_whole_though_its_content_was_never_here(
    filled: tuple[Replica, Replica, bytes], solo: Solo
) -> None:
    a, b, content = filled
    unplug(b, solo)
    for replica, at in ((a, 0), (b, 1 << 17)):
        with (replica / "folder" / "1").open("r+b") as file:
            file.seek(at)
            file.write(replica.name.encode() * (1 << 17))
        replica.sync()
    solo.start()
    found = alike(a, b)
    versions = [path for path in found if path.startswith("folder/1")]
    assert len(versions) == 2
    first, second = b"a" * (1 << 17) + content[1 << 17 :], content[: 1 << 17] + b"b" * (1 << 17) + content[1 << 18 :]
    assert {(a / path).read_bytes() for path in versions} == {first, second}
    assert {(b / path).read_bytes() for path in versions} == {first, second}


def test_conflicts_are_listed_kept_and_dropped(machines: Machines, solo: Solo) -> None:
    a, b = machines("a"), machines("b")
    a.mount()
    b.mount()
    (a / "folder").mkdir()
    for name in ("one", "two"):
        (a / "folder" / name).write_text("as it was")
    alike(a, b)
    unplug(a, solo)
    until(b.is_state("offline"), "the link to notice")
    for machine in (a, b):
        for name in ("one", "two"):
            (machine / "folder" / name).write_text(f"as {machine.name} has it")
        machine.sync()
    solo.start()
    alike(a, b)
    found = json.loads(a.atefs("conflicts", "list", a.path, "--json").stdout)
    assert sorted(c["instead_of"] for c in found) == ["folder/one", "folder/two"]
    kept, dropped = sorted(found, key=lambda c: c["instead_of"])
    beside = (a / kept["path"]).read_text()
    stays = (a / "folder/two").read_text()
    assert "folder/one" in a.atefs("conflicts", "list", a.path).stdout
    a.atefs("conflicts", "keep", a / kept["path"])
    a.atefs("conflicts", "drop", a / dropped["path"])
    assert set(alike(a, b)) == {"folder", "folder/one", "folder/two"}
    for machine in (a, b):
        assert ((machine / "folder/one").read_text(), (machine / "folder/two").read_text()) == (beside, stays)
        assert "nothing to decide" in machine.atefs("conflicts", "list", machine.path).stdout
    assert a.atefs("conflicts", "keep", a / "folder/one", check=False).returncode == ExitCode.NOT_FOUND


def test_content_that_the_server_alters_is_not_believed(filled: tuple[Replica, Replica, bytes], solo: Solo) -> None:
    _, b, content = filled
    b.umount()
    solo.stop()
    altered = 0
    for path in Path(solo.data).rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            at = len(data) // 2
            if len(data) > MIB and any(data[at : at + 64]):
                data[at] ^= 1
                path.write_bytes(data)
                altered += 1
    assert altered
    solo.start()
    b.mount()
    until(b.is_state("online"), "the link to be back")
    wrong = 0
    for name in "12":
        try:
            assert (b / "folder" / name).read_bytes() == content
        except OSError:
            wrong += 1
    assert wrong
