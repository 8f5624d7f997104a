"""A machine for ordinary users: a mount namespace in which they find all that a vault takes, whatever the real one has.

Python, this repository and its packages lie where everybody can walk to, /dev/fuse is open to all, as it is where udev
has made it, /etc/passwd has two users more, and /etc/fuse.conf says what the test wants. Nothing outside is changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.system.mounted import run

REPOSITORY = Path(__file__).resolve().parents[2]
USER, OTHER = 61_001, 61_002
"""Its two ordinary users."""


@contextmanager
def held(*command: str) -> Iterator[int]:
    """The process id of a program that ends its preparations with `echo` and then waits for the end of its input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == b"\n", "the namespace could not be made"
            yield process.pid
        finally:
            process.stdin.close()


class Machine:
    """folder: one that everybody can walk to. pid: a process that lives there."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._enter = ["nsenter", f"--target={pid}", "--mount", "--"]
        base = folder / "base"
        python = base / os.path.relpath(os.path.realpath(sys.executable), sys.base_prefix)
        self._atefs = [
            "env", f"PYTHONHOME={base}", f"PYTHONPATH={folder / 'repository'}:{folder / 'packages'}",
            f"LD_LIBRARY_PATH={base / 'lib'}", os.fspath(python), "-m", "atefs.cli",
        ]  # fmt: skip

    def user(self, uid: int) -> list[str]:
        """What a command begins with that a user runs there."""
        return [*self._enter, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]

    def atefs(self, before: Sequence[str]) -> list[str]:
        """`atefs` for whoever runs commands that begin so."""
        return [*before, *self._atefs]

    @contextmanager
    def user_namespace(self, uid: int) -> Iterator[list[str]]:
        """What a command begins with that root runs in a user namespace in which nobody is but this user, as root."""
        unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo && exec cat"]
        with held(*self.user(uid), *unshare) as pid:
            yield ["nsenter", f"--target={pid}", "--user", "--mount", "--"]


@contextmanager
def machine(folder: Path, fuse_conf: str) -> Iterator[Machine]:
    """A machine that lasts as long as the context, or a driver in it."""
    bound = {"base": sys.base_prefix, "repository": REPOSITORY, "packages": sysconfig.get_path("purelib")}
    for name in (*bound, "dev"):
        (folder / name).mkdir()
    users = "".join(f"ate{uid}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for uid in (USER, OTHER))
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + users)
    (folder / "fuse.conf").write_text(fuse_conf)
    lines = [f"mount --bind {source} {folder / name}" for name, source in bound.items()]
    lines += [f"mount --bind {folder / name} /etc/{name}" for name in ("passwd", "fuse.conf")]
    lines += [
        f"mount -t tmpfs none {folder / 'dev'}",
        f"mknod -m 666 {folder / 'dev/fuse'} c 10 229",
        f"mount --bind {folder / 'dev/fuse'} /dev/fuse",
        "echo && exec cat",
    ]
    with held("unshare", "--mount", "sh", "-c", " && ".join(lines)) as pid:
        yield Machine(folder, pid)


def can(before: Sequence[str], *command: str | Path) -> bool:
    """Whether a command that begins so succeeds."""
    return run(*before, *command, check=False).returncode == 0
