"""Who is mounted where, as the kernel lists it (man 5 proc, /proc/pid/mountinfo)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

FSTYPE = "fuse.atefs"
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line: where it is mounted, its type, the device number as "major:minor", its source and options."""

    mountpoint: Path
    fstype: str
    device: str
    source: str
    options: frozenset[str]

    @property
    def ours(self) -> bool:
        return self.fstype == FSTYPE

    @property
    def minor(self) -> int:
        """The number under which fusectl (/sys/fs/fuse/connections) knows the connection."""
        return int(self.device.partition(":")[2])


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), field)


def parse(text: bytes) -> list[Mount]:
    """The mounts of a mountinfo text, in the order in which they were made."""
    mounts = []
    for line in text.splitlines():
        head, _, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        mounts.append(
            Mount(
                mountpoint=Path(os.fsdecode(_unescaped(fields[4]))),
                fstype=rest[0].decode(),
                device=fields[2].decode(),
                source=os.fsdecode(_unescaped(rest[1])),
                options=frozenset(fields[5].decode().split(",")) | frozenset(rest[2].decode().split(",")),
            )
        )
    return mounts


def mounts() -> list[Mount]:
    """Everything mounted in this process's namespace."""
    return parse(Path("/proc/self/mountinfo").read_bytes())


def find(mountpoint: Path) -> Mount | None:
    """What is mounted at exactly this path, the topmost if several are."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == mountpoint), None)


def ours() -> list[Mount]:
    """Every vault mounted in this process's namespace."""
    return [mount for mount in mounts() if mount.ours]


def covering(path: Path) -> Mount | None:
    """The vault that the path lies in, if it does."""
    inside = [mount for mount in ours() if path == mount.mountpoint or mount.mountpoint in path.parents]
    return max(inside, key=lambda mount: len(mount.mountpoint.parts), default=None)
