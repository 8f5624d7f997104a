"""What a server takes: idle and busy clients, appends beside the disk's own barriers. See docs/performance.md.

.venv/bin/python -m tests.bench.server [FOLDER]

The server keeps its data in FOLDER, which should be on the disk in question. Clients are real, in two processes of
their own on the same machine, over loopback.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import trio

from atedb.crypto.signing import SigningKey
from atedb.net.client import connect
from atedb.net.url import ServerUrl
from tests.engine.frames import Author
from tests.system.solo import Solo

IDLE, BUSY = 1000, 50
SECONDS = 10.0
BATCH = 4096
MIB = 1 << 20


class Place(NamedTuple):
    """Where clients connect to."""

    url: ServerUrl
    fingerprint: bytes


class Load(NamedTuple):
    """What clients met: the latency of each append in seconds, and how long all of it took."""

    latencies: list[float]
    seconds: float

    def __str__(self) -> str:
        late = quantiles(self.latencies, n=100)[98] * 1e3
        rate = len(self.latencies) / self.seconds
        return f"{rate:,.0f} appends/s, {median(self.latencies) * 1e3:.2f} ms in the median, {late:.1f} ms at p99"


def key_of(number: int) -> SigningKey:
    """A client's identity."""
    return SigningKey(number.to_bytes(32, "big"))


def wait_connected(place: Place, first: int, count: int, ready: Event, leave: Event) -> None:
    """A process of clients that do nothing."""

    async def one(number: int, there: trio.MemorySendChannel[None], end: trio.Event) -> None:
        async with connect(place.url, key_of(number), place.fingerprint, timeout=120):
            await there.send(None)
            await end.wait()

    async def main() -> None:
        end = trio.Event()
        told, heard = trio.open_memory_channel[None](count)
        async with trio.open_nursery() as nursery:
            for number in range(first, first + count):
                nursery.start_soon(one, number, told, end)
                await trio.sleep(0.005)
            for _ in range(count):
                await heard.receive()
            ready.set()
            await trio.to_thread.run_sync(leave.wait)
            end.set()

    trio.run(main)


def append(place: Place, clients: int, together: int, found: Queue[Load]) -> None:
    """A process of clients that append batches of 4 KiB, each to a chain of its own, so many under way at a time."""

    async def one(number: int, latencies: list[float]) -> None:
        author = Author(seed=number % 255 + 1, root=bytes([number % 255 + 1]) * 32)
        async with connect(place.url, key_of(number), place.fingerprint, timeout=120) as connection:
            await connection.open(f"/bench/{clients}-{together}-{number}", create=author.files)
            end = time.monotonic() + SECONDS

            async def lane() -> None:
                while time.monotonic() < end:
                    frame = author.frame(author.meta("object", os.urandom(BATCH)))
                    start = time.monotonic()
                    await connection.append([frame])
                    latencies.append(time.monotonic() - start)

            async with trio.open_nursery() as nursery:
                for _ in range(together):
                    nursery.start_soon(lane)

    async def main() -> None:
        latencies: list[float] = []
        start = time.monotonic()
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(one, number + 1, latencies)
        found.put(Load(latencies, time.monotonic() - start))

    trio.run(main)


def load(place: Place, clients: int, together: int = 1) -> Load:
    """Have so many clients append for a while."""
    found: Queue[Load] = mp.Queue()
    process = mp.Process(target=append, args=(place, clients, together, found))
    process.start()
    met = found.get()
    process.join()
    return met


def barriers(folder: Path) -> float:
    """How often in a second the disk takes 4 KiB and a barrier, in a file that is there already."""
    path = folder / "barriers"
    data = os.urandom(BATCH)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(MIB), 0)
        os.fsync(fd)
        start = time.monotonic()
        for i in range(1000):
            os.pwrite(fd, data, i % 256 * BATCH)
            os.fdatasync(fd)
        return 1000 / (time.monotonic() - start)
    finally:
        os.close(fd)
        path.unlink()


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        solo = Solo(folder)
        solo.start()
        try:
            place = Place(solo.url(), solo.fingerprint)
            print(f"the disk: {barriers(folder):,.0f} barriers/s")
            print(f"1 client, one append at a time: {load(place, 1)}")
            print(f"1 client, 32 at a time: {load(place, 1, 32)}")
            before = solo.number("resident_memory_bytes")
            ready, leave = [mp.Event(), mp.Event()], mp.Event()
            half = IDLE // 2
            idle = [
                mp.Process(target=wait_connected, args=(place, 1000 + i * half, half, event, leave))
                for i, event in enumerate(ready)
            ]
            for process in idle:
                process.start()
            for event in ready:
                event.wait()
            print(f"{IDLE} idle clients: {(solo.number('resident_memory_bytes') - before) / MIB:.0f} MiB")
            print(f"{BUSY} busy clients beside them: {load(place, BUSY)}")
            print(f"resident then: {solo.number('resident_memory_bytes') / MIB:.0f} MiB")
            leave.set()
            for process in idle:
                process.join()
        finally:
            solo.clean_up()


if __name__ == "__main__":
    main()
