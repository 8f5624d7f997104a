"""What a chain costs that is open: a few pages, whatever LMDB asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHAINS = 40
PROGRAM = f"""
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from atedb.node.memory import return_large_memory
from tests.engine.frames import Author
from tests.node.chains import make_hosts


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


async def main():
    hosts = make_hosts(Path(sys.argv[1]))
    async with AsyncExitStack() as stack:
        before = resident()
        for number in range({CHAINS}):
            author = Author()
            host = await stack.enter_async_context(hosts.open(f"/t/{{number}}", create=author.files))
            await host.append("client", author.frames(3))
        print((resident() - before) // {CHAINS})
    await hosts.aclose()


if sys.argv[2] == "returned":
    return_large_memory()
trio.run(main)
"""


def kibibytes(folder: Path, how: str) -> int:
    """Resident memory for each chain, in KiB, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return int(ran.stdout)


def test_a_chain_that_is_open_costs_less_than_a_quarter_of_a_mebibyte(in_memory: Path) -> None:
    assert kibibytes(in_memory, "returned") < 256


def test_with_the_c_library_as_it_is_by_default_it_would_cost_megabytes(in_memory: Path) -> None:
    assert kibibytes(in_memory, "kept") > 1024
