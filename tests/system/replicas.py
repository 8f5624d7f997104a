"""Several machines with mounts of one chain: each has a home of its own, as it would elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from atefs.mount import mountinfo
from atefs.mount.places import escape
from tests.system.mounted import ATEFS, PASSPHRASE, run, running, until
from tests.system.solo import Solo

_FOLDERS = {"HOME": ".", "ATE_HOME": "ate", "ATE_CONFIG": "config", "XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": "run"}


class Replica:
    """One machine: its home, and the mount of a server's chain there. command: how `atefs …` is run."""

    command: Sequence[str] = ATEFS

    def __init__(self, folder: Path, name: str, solo: Solo) -> None:
        self.home = folder / name
        self.name = name
        self.solo = solo
        self.path = self.home / "vault"
        self.pid = 0
        self.said = ""
        self.home.mkdir()
        self.env = dict(os.environ)
        for variable, below in _FOLDERS.items():
            self.env[variable] = os.fspath(self.home / below)
            (self.home / below).mkdir(mode=0o700, exist_ok=True)
        secret = self.home / "passphrase"
        secret.touch(mode=0o600)
        secret.write_text(PASSPHRASE + "\n")
        self.env["ATE_PASSPHRASE_FILE"] = os.fspath(secret)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def store(self) -> Path:
        """Where the replica lies."""
        return self.home / "ate" / escape(self.path)

    @property
    def log(self) -> Path:
        """The driver's log."""
        return self.home / "state" / "ate" / "log" / f"{escape(self.path)}.log"

    def atefs(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`atefs …` on this machine."""
        return run(*self.command, *arguments, check=check, env=self.env)

    def mount(self, *arguments: str | Path, url: str | None = None) -> None:
        """Mount the server's chain."""
        self.said = self.atefs("mount", *arguments, self.path, url or str(self.solo.url())).stdout
        self.pid = self.status()["pid"]

    def status(self) -> dict[str, Any]:
        """What `atefs status --json` says."""
        answer: dict[str, Any] = json.loads(self.atefs("status", self.path, "--json").stdout)
        return answer

    def server(self) -> dict[str, Any]:
        """What it says of the server."""
        answer: dict[str, Any] = self.status()["server"]
        return answer

    def umount(self, *arguments: str) -> None:
        """Unmount in order; the driver has ended then."""
        self.atefs("umount", *arguments, self.path)
        assert not running(self.pid)

    def sync(self) -> None:
        """All that was done is on stable storage here."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sent(self) -> bool:
        """Whether the server has all that was done here."""
        self.sync()
        return int(self.server()["pending_batches"]) == 0

    def is_state(self, state: str) -> Callable[[], bool]:
        """For `until`: the link's state."""
        return lambda: bool(self.server()["state"] == state)

    def kill(self) -> None:
        """End the driver as a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: not running(self.pid), "the driver to die")

    def clean_up(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        if mountinfo.find(self.path) is not None:
            subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)
        if self.pid and running(self.pid):
            os.kill(self.pid, signal.SIGKILL)

    def complaints(self) -> list[str]:
        """Lines of warning and above in the driver's log."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(level in line for level in (" WARNING ", " ERROR ", "Traceback"))]


Machines = Callable[[str], Replica]
"""Makes machines, by name, with nothing mounted yet."""


def tree(top: Path) -> dict[str, str]:
    """Every path below a folder, with what it is: a folder, a link's target, or a hash of a file's content."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            key = os.fspath(path.relative_to(top))
            if path.is_symlink():
                found[key] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                found[key] = "folder"
            else:
                found[key] = hashlib.blake2b(path.read_bytes()).hexdigest()[:16]
    return found


def alike(*replicas: Replica) -> dict[str, str]:
    """Wait until all machines show the same tree; that tree."""

    def same() -> bool:
        trees = [tree(replica.path) for replica in replicas]
        return all(other == trees[0] for other in trees)

    for replica in replicas:
        until(replica.sent, f"{replica.name} to have sent all", 30)
    until(same, "all machines to show one tree", 30)
    return tree(replicas[0].path)
