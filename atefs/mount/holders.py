"""Who keeps a mount busy (man 5 proc): working folders, roots, open files, mapped files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Holder(NamedTuple):
    """One use of a mount by one process."""

    pid: int
    command: str
    use: str
    path: str

    def __str__(self) -> str:
        return f"{self.command} ({self.pid}): {self.use} {self.path}"


def holders(mountpoint: Path, device: str) -> list[Holder]:
    """Every process that we may look at and that uses the mount. device: "major:minor".

    Nothing is asked of the mount itself, which may hang.
    """
    found: list[Holder] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            found.extend(_uses(int(name), os.fspath(mountpoint), device))
    return found


def _uses(pid: int, mountpoint: str, device: str) -> Iterator[Holder]:
    base = f"/proc/{pid}"
    try:
        command = Path(base, "comm").read_text().strip()
        links = [("is in", f"{base}/cwd"), ("has its root in", f"{base}/root")]
        links += [("has open", f"{base}/fd/{fd}") for fd in os.listdir(f"{base}/fd")]
    except OSError:
        return
    seen = set()
    for use, link in links:
        try:
            path = os.readlink(link)
        except OSError:
            continue
        if _inside(path, mountpoint) and (use, path) not in seen:
            seen.add((use, path))
            yield Holder(pid, command, use, path)
    yield from _maps(pid, command, device, {path for _, path in seen})


def _maps(pid: int, command: str, device: str, known: set[str]) -> Iterator[Holder]:
    major, _, minor = device.partition(":")
    number = f"{int(major):02x}:{int(minor):02x}"
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if fields[3] == number and len(fields) == 6 and fields[5] not in known:
            known.add(fields[5])
            yield Holder(pid, command, "has mapped", fields[5])


def _inside(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/")
