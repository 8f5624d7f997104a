"""What it takes to have a large vault on another machine: time, and bytes on the wire. See docs/performance.md.

.venv/bin/python -m tests.bench.replica [FOLDER] [FILES] [MEBIBYTES]

Server and machines on this one, over loopback, their data in FOLDER. Bytes are what the kernel says that the new
machine's connection has received (ss, package iproute2).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.replicas import Replica
from tests.system.solo import Solo

MIB = 1 << 20
SMALL = 1000
FOLDERS = 100
LARGE = 128 * MIB


@contextmanager
def told(what: str, solo: Solo | None = None) -> Iterator[None]:
    """Say how long it took, and what came over the wire meanwhile."""
    before = received(solo) if solo else 0
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    wire = f", {(received(solo) - before) / MIB:.1f} MiB on the wire" if solo else ""
    print(f"{what}: {seconds:.1f} s{wire}", flush=True)


def received(solo: Solo) -> int:
    """Bytes that the connections to the server have received, of those that there are."""
    said = subprocess.run(
        ["ss", "-tinH", "state", "established", f"dport = :{solo.port}"], capture_output=True, text=True, check=True
    ).stdout
    return sum(map(int, re.findall(r"bytes_received:(\d+)", said)))


def fill(path: Path, files: int, mebibytes: int) -> None:
    """Small files in a few folders, and large ones that do not compress."""
    for number in range(files):
        folder = path / f"folder {number % FOLDERS}"
        if number < FOLDERS:
            folder.mkdir()
        (folder / f"file {number}").write_bytes(os.urandom(SMALL))
    for number in range(mebibytes * MIB // LARGE):
        with (path / f"large {number}").open("wb") as file:
            for _ in range(LARGE // MIB):
                file.write(os.urandom(MIB))


def read(path: Path) -> None:
    """All of the large files."""
    for large in path.glob("large *"):
        with large.open("rb", buffering=0) as file:
            while file.read(MIB):
                pass


def main() -> None:
    words = [*sys.argv[1:], "", "", ""]
    files, mebibytes = int(words[1] or 100_000), int(words[2] or 1024)
    with tempfile.TemporaryDirectory(dir=words[0] or None) as name:
        folder = Path(name)
        solo = Solo(folder)
        solo.start()
        first, second = Replica(folder, "first", solo), Replica(folder, "second", solo)
        try:
            first.mount()
            with told(f"{files} files of {SMALL} bytes and {mebibytes} MiB written"):
                fill(first.path, files, mebibytes)
            with told("on the server, and unmounted"):
                first.umount()
            with told("mounted on another machine"):
                second.mount()
            print(f"  for which {received(solo) / MIB:.1f} MiB came over the wire")
            with told("find, with all attributes", solo):
                subprocess.run(
                    ["find", second.path, "-printf", "%s %T@ %m %p\n"], stdout=subprocess.DEVNULL, check=True
                )
            with told(f"{mebibytes} MiB read for the first time", solo):
                read(second.path)
            second.umount()
        finally:
            for one in (first, second):
                one.clean_up()
            solo.clean_up()


if __name__ == "__main__":
    main()
