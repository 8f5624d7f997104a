"""A vault mounted for a test, through the command line, as its owner would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from atefs.mount import mountinfo
from atefs.mount.options import DRIVERS

PASSPHRASE = "correct horse battery staple"
ATEFS = [sys.executable, "-m", "atefs.cli"]
PATIENCE = 60.0
ONCE = pytest.mark.parametrize("driver", [DRIVERS[0]], indirect=True)
"""For tests that do not depend on how the kernel is spoken to."""


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition, for so long at most."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.01)


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """A real program; when it fails, what it said."""
    done = subprocess.run(
        [os.fspath(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="surrogateescape", timeout=150, check=False, **options,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def atefs(*arguments: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """`atefs …` in a process of its own."""
    return run(*ATEFS, *arguments, check=check, **options)


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Mounted:
    """A mount point, its vault, and the passphrase in a file. command: how `atefs …` is run."""

    command: Sequence[str] = ATEFS

    def __init__(self, folder: Path, driver: str) -> None:
        self.folder = folder
        self.driver = driver
        self.path = folder / "vault"
        self.passphrase_file = folder / "passphrase"
        self.passphrase_file.touch(mode=0o600)
        self.passphrase_file.write_text(PASSPHRASE + "\n")
        self.pid = 0
        self.said = ""

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def store(self) -> Path:
        """Where the local vault lives."""
        return Path(os.environ["ATE_HOME"]) / str(self.path).strip("/").replace("-", "\\x2d").replace("/", "-")

    @property
    def log(self) -> Path:
        """The driver's log."""
        return Path(os.environ["XDG_STATE_HOME"]) / "ate" / "log" / f"{self.store.name}.log"

    def atefs(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`atefs …`, run as everything about this vault is."""
        return run(*self.command, *arguments, check=check)

    def mount(self, *arguments: str | Path) -> None:
        """Mount, and note the driver's process."""
        options = ("--driver", self.driver, "--passphrase-file", self.passphrase_file)
        self.said = self.atefs("mount", *options, *arguments, self.path).stdout
        self.pid = self.status()["pid"]

    def status(self) -> dict[str, Any]:
        """What `atefs status --json` says."""
        answer: dict[str, Any] = json.loads(self.atefs("status", self.path, "--json").stdout)
        return answer

    def umount(self) -> None:
        """Unmount in order; the driver has ended then."""
        self.atefs("umount", self.path)
        assert not running(self.pid)
        assert mountinfo.find(self.path) is None

    def remount(self) -> None:
        """Unmount and mount again: what is seen then comes from the store."""
        self.umount()
        self.mount()

    def write_synced(self, name: str, content: bytes) -> None:
        """A file that is on stable storage when this returns."""
        with (self / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def kill(self) -> None:
        """End the driver as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: not running(self.pid), "the driver to die")

    def clean_up(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        for mount in mountinfo.ours():
            if mount.mountpoint == self.path or self.folder in mount.mountpoint.parents:
                subprocess.run(["umount", "-l", mount.mountpoint], check=False, capture_output=True)
        if self.pid and running(self.pid):
            try:
                until(lambda: not running(self.pid), "the driver to end", 20)
            except AssertionError:
                os.kill(self.pid, signal.SIGKILL)

    def complaints(self) -> Sequence[str]:
        """Lines of warning and above in the driver's log."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(level in line for level in (" WARNING ", " ERROR ", "Traceback"))]
