"""What a program sees while its kernel goes by what was true before another machine changed it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.mounted import ONCE, until
from tests.system.replicas import Machines, Replica

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    """While this file is there, b's kernel is told nothing."""
    return tmp_path / "quiet"


@pytest.fixture
def pair(machines: Machines, quiet: Path, driver: str) -> tuple[Replica, Replica]:
    """Two machines with the same chain mounted."""
    a, b = machines("a"), machines("b")
    b.command = [sys.executable, "-m", "tests.system.untold", os.fspath(quiet)]
    a.mount()
    b.mount("--driver", driver, "--allow-other")
    return a, b


def behind(a: Replica, b: Replica) -> None:
    """Return when b has all that a has, which b's kernel need not know."""
    until(a.sent, "a to have sent all")
    newest = a.status()["durable"]
    until(lambda: int(b.status()["durable"]) >= newest, "b to have it")


def shell(folder: Path, command: str, *before: str) -> int:
    """What a shell ends with that does this in a folder. before: words to run it with."""
    return subprocess.run([*before, "sh", "-c", command], cwd=folder, capture_output=True, check=False).returncode


@pytest.mark.needs("root")
def test_a_name_that_another_machine_has_just_made_is_opened_as_what_it_is(
    pair: tuple[Replica, Replica], quiet: Path
) -> None:
    a, b = pair
    theirs, ours = a / "folder", b / "folder"
    theirs.mkdir()
    theirs.chmod(0o777)
    until(ours.exists, "the folder")
    for name in ("cut", "longer", "secret", "below", "link", "taken", "new"):
        assert not (ours / name).exists()  # as b's kernel remembers from now on
    quiet.touch()
    for name in ("cut", "longer", "secret", "taken"):
        (theirs / name).write_text("what the other machine has written")
    (theirs / "secret").chmod(0o600)
    (theirs / "below").mkdir()
    (theirs / "link").symlink_to("cut")
    behind(a, b)
    with pytest.raises(FileNotFoundError):
        (ours / "taken").stat()  # or what follows would prove nothing
    stranger = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert shell(ours, "echo x > new", *stranger) == 0
    assert shell(ours, "echo x > cut") == 0
    assert (ours / "cut").read_text() == "x\n"
    assert shell(ours, "echo x >> longer") == 0
    assert (ours / "longer").read_text() == "what the other machine has writtenx\n"
    assert shell(ours, "echo x >> secret", *stranger) != 0
    assert (ours / "secret").read_text() == "what the other machine has written"
    with pytest.raises(IsADirectoryError):
        os.open(ours / "below", os.O_CREAT | os.O_WRONLY)
    assert shell(ours, "echo y > link") == 0
    assert (ours / "cut").read_text() == "y\n"
    with pytest.raises(FileExistsError):
        os.open(ours / "taken", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@ONCE  # through pyfuse3, which does not say how a file was opened, the end that counts is the kernel's
def test_what_is_appended_after_another_machine_has_cut_the_file_begins_where_that_ends(
    pair: tuple[Replica, Replica], quiet: Path
) -> None:
    """As when logs are rotated by copying and cutting them."""
    a, b = pair
    (a / "log").write_bytes(b"old\n" * 3000)
    until((b / "log").exists, "the file")
    with (b / "log").open("a+b", buffering=0) as log:
        log.write(b"last\n")
        assert (b / "log").read_bytes() == b"old\n" * 3000 + b"last\n"  # b's kernel has all of it in its cache
        behind(b, a)
        quiet.touch()
        os.truncate(a / "log", 0)
        behind(a, b)
        for line in (b"new\n", b"newer\n" * 1000):
            assert log.write(line) == len(line)
        assert (b / "log").read_bytes() == b"new\n" + b"newer\n" * 1000
        behind(b, a)
        assert (a / "log").read_bytes() == b"new\n" + b"newer\n" * 1000
        os.truncate(a / "log", 4)
        behind(a, b)
        log.write(b"more\n")
        until(lambda: os.pread(log.fileno(), 100, 0) == b"new\nmore\n", "what was appended, where it is")
        assert (b / "log").read_bytes() == b"new\nmore\n"
