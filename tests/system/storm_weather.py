"""What fails in a storm, and what has to hold after it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.system.links import Relay
from tests.system.mounted import until
from tests.system.replicas import Machines, Replica
from tests.system.solo import Solo
from tests.system.storm import TOKEN, SharedWork, Station
from tests.system.storm_programs import Programs, make_seed

PATIENCE = 90.0
"""Seconds that all may take, after the storm, to have everything."""


def attributes(top: Path) -> dict[str, tuple[object, ...]]:
    """What everybody has to see of each path, but its content and when it was read."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            about = path.lstat()
            extended = {key: os.getxattr(path, key, follow_symlinks=False)
                        for key in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
            found[os.fspath(path.relative_to(top))] = (
                about.st_mode, about.st_ino, about.st_nlink, about.st_uid, about.st_gid, about.st_size,
                about.st_blocks, about.st_mtime_ns, about.st_ctime_ns, sorted(extended.items()),
            )  # fmt: skip
    return found


def tokens(top: Path) -> set[str]:
    """All that stand in files."""
    return {
        found.decode()
        for folder, _, files in os.walk(top)
        for name in files
        if not (path := Path(folder, name)).is_symlink()
        for found in TOKEN.findall(path.read_bytes())
    }


class Storm:
    """`number` machines, under what the seed says. modes: the recovery mode of each."""

    def __init__(self, folder: Path, machines: Machines, solo: Solo, seed: str, modes: Sequence[str]) -> None:
        self.solo = solo
        self.seed = seed
        self.folder = folder
        self.machines = machines
        self.chance = random.Random(f"{seed}/weather")
        self.destroyed: set[str] = set()
        self.log: list[str] = []
        archive = make_seed(folder)
        self.stations = [
            Station(machines(f"m{place}"), Relay(solo.port), self.destroyed, "--recovery-mode", mode)
            for place, mode in enumerate(modes)
        ]
        self.shared = [SharedWork(station, seed) for station in self.stations]
        self.programs = [Programs(station, seed, archive) for station in self.stations]
        self.works: list[SharedWork | Programs] = [*self.shared, *self.programs]
        print(f"the seed of this storm: {seed}")

    def blow(self, seconds: float) -> None:
        """Let it storm for so long, then wait until everybody is up and in step."""
        for station in self.stations:
            station.mount()
        first = self.stations[0].replica
        for name in ("shared", "bin"):
            (first / name).mkdir()
        for station in self.stations:
            until(lambda station=station: (station.replica / "bin").exists(), "the folders")  # type: ignore[misc]
        threads = [threading.Thread(target=work.run) for work in self.works]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not self.troubles():
                self.next_failure()
                time.sleep(self.chance.random() * 0.7)
        finally:
            for station in self.stations:
                station.stop.set()
            for thread in threads:
                thread.join()

    def next_failure(self) -> None:
        """One thing that fails, chosen by the seed, and its end."""
        kind = self.chance.choices(["cut", "kill", "umount", "server", "stop"], [12, 4, 2, 2, 1])[0]
        station = self.chance.choice(self.stations)
        seconds = self.chance.random() * 1.5
        self.log.append(f"{kind} {station.name} {seconds:.1f}")
        match kind:
            case "cut":
                with station.link:
                    station.relay.cut()
                    time.sleep(seconds)
                    station.relay.mend()
            case "kill":
                station.kill()
                station.mount()
            case "umount":
                station.umount()
                station.mount()
            case "server":
                self.solo.kill()
                time.sleep(seconds)
                self.solo.start()
            case _:
                os.kill(self.solo.pid, signal.SIGSTOP)
                time.sleep(seconds)
                os.kill(self.solo.pid, signal.SIGCONT)

    def troubles(self) -> list[str]:
        """What went wrong, and was not the storm's doing."""
        return [trouble for station in self.stations for trouble in station.troubles]

    # -- afterwards

    def calm(self, survivors: Sequence[Replica]) -> None:
        """Wait until all have the same, and see that it is all there."""
        assert self.troubles() == [], "\n".join(self.troubles())
        for replica in survivors:
            until(replica.is_state("online"), f"{replica.name} to be online", PATIENCE)
            until(replica.sent, f"{replica.name} to have sent all", PATIENCE)
        same = [attributes(replica.path) for replica in survivors]
        until(lambda: self._alike(survivors, same), "all machines to show the same", PATIENCE)
        first = survivors[0].path
        for other in survivors[1:]:
            subprocess.run(["diff", "-r", "--no-dereference", first, other.path], check=True)
        self.nothing_is_lost(first)
        for replica in survivors:
            self.conflicts_are_listed(replica)

    def _alike(self, survivors: Sequence[Replica], found: list[dict[str, tuple[object, ...]]]) -> bool:
        found[:] = [attributes(replica.path) for replica in survivors]
        return all(one == found[0] for one in found)

    def nothing_is_lost(self, top: Path) -> None:
        """Everything that was done in a life that ended well is there, and everything that was synced."""
        found = tokens(top)
        for work in self.programs:
            found |= work.found(top)
        lost = [
            f"{work.journal.name}: {what}"
            for work in self.works
            for what in work.journal.lost(found, self.destroyed, work.station.killed)
        ]
        for one in self.works:
            print(f"{one.journal.name}: {one.journal}")
        assert lost == [], "\n".join(lost)

    def conflicts_are_listed(self, replica: Replica) -> None:
        """All that merges kept beside, and nothing else."""
        listed = json.loads(replica.atefs("conflicts", "list", replica.path, "--json").stdout)
        names = {path for path in attributes(replica.path) if ".conflict-" in os.path.basename(path)}
        assert {conflict["path"] for conflict in listed} == names
