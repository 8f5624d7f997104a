"""Opens the chain in a folder, in a process of its own, and says as JSON what that took.

sequence: the newest batch. resident, used: KiB of memory that the process holds once the chain is open, and after some
objects were read. frames: read from the log. view_reads, opens: rows that opening asked of LMDB, and bodies it opened.
seconds: how long opening took.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from atedb.chain import recovery
from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.chain.frame import Frame, Read, read_frame
from tests.chain.conftest import ROOT

SAMPLES = 100


def name(number: int) -> bytes:
    """Of the object with this number."""
    return number.to_bytes(8, "big")


def main(store: Path) -> dict[str, float]:
    """Open it, read a hundred objects, close it.""" ""
    frames = 0

    def counted(read: Read, offset: int, *, bodies: bool) -> Frame:
        nonlocal frames
        frames += 1
        return read_frame(read, offset, bodies=bodies)

    vars(recovery)["read_frame"] = counted
    began = time.perf_counter()
    chain = Chain.open(store, ROOT)
    seconds = time.perf_counter() - began
    counters = chain.counters
    found = {
        "sequence": chain.head.sequence,
        "frames": frames,
        "view_reads": counters.view_reads,
        "opens": counters.opens,
        "seconds": seconds,
        "resident": resident(),
    }
    count = chain.object_count(Lane.META)
    for number in range(0, count, count // SAMPLES):
        assert chain.load(chain.object_key(b"T", name(number))) == name(number)
    found["used"] = resident()
    chain.close()
    return found


def resident() -> int:
    """KiB of this process that are in memory now (man 5 proc, VmRSS)."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
