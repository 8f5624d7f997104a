"""Names that another machine has changed a moment ago, of which the kernel was not told yet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.system.mounted import until
from tests.system.replicas import Machines, alike
from tests.system.storm import EXCHANGE, rename

pytestmark = pytest.mark.needs("fuse")


@pytest.mark.parametrize("driver", ["direct", "pyfuse3"])
def test_what_is_opened_is_what_has_the_name_and_not_what_it_has_replaced(
    machines: Machines, tmp_path: Path, driver: str
) -> None:
    """What is written to a file that has no name any more is gone with it."""
    a, b = machines("a"), machines("b")
    quiet = tmp_path / "quiet"
    b.command = [sys.executable, "-m", "tests.system.untold", os.fspath(quiet)]
    a.mount()
    b.mount("--driver", driver)
    (a / "log").write_text("old\n")
    alike(a, b)
    assert (b / "log").read_text() == "old\n"
    with (a / "log").open():  # so that it stays, without a name
        quiet.touch()
        (a / "new").write_text("new\n")
        os.rename(a / "new", a / "log")
        until(a.sent, "a to have sent all")
        newest = a.status()["durable"]
        until(lambda: b.status()["durable"] >= newest, "b to have it")
        with (b / "log").open("a") as log:
            log.write("appended\n")
        quiet.unlink()
        alike(a, b)
        assert (a / "log").read_text() == "new\nappended\n"
    for machine in (a, b):
        machine.umount()
        assert machine.complaints() == []


@pytest.mark.parametrize("driver", ["direct", "pyfuse3"])
def test_what_is_moved_or_removed_is_what_has_the_name_and_not_what_had_it(
    machines: Machines, tmp_path: Path, driver: str
) -> None:
    """A kernel that goes by what was would show another file under the new name, for as long as it remembers."""
    a, b = machines("a"), machines("b")
    quiet = tmp_path / "quiet"
    b.command = [sys.executable, "-m", "tests.system.untold", os.fspath(quiet)]
    a.mount()
    b.mount("--driver", driver)
    for number in range(6):
        (a / f"f{number}").write_text(f"{number}")
    alike(a, b)
    quiet.touch()
    for number in (0, 2, 4):
        rename(a / f"f{number}", a / f"f{number + 1}", EXCHANGE)
    until(a.sent, "a to have sent all")
    newest = a.status()["durable"]
    until(lambda: b.status()["durable"] >= newest, "b to have it")
    os.rename(b / "f0", b / "moved")
    assert (b / "moved").read_text() == "1"
    rename(b / "f2", b / "moved", EXCHANGE)
    assert ((b / "f2").read_text(), (b / "moved").read_text()) == ("1", "3")
    with (b / "f4").open() as file:  # as the kernel knows it: what was opened is what has been there
        assert file.read() == "4"
    os.unlink(b / "f4")
    quiet.unlink()
    found = alike(a, b)
    assert set(found) == {"f1", "f2", "f3", "f5", "moved"}
    assert [(b / name).read_text() for name in sorted(found)] == ["0", "1", "2", "4", "3"]
    for machine in (a, b):
        machine.umount()
        assert machine.complaints() == []
