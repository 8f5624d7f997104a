"""`kill -9` of the driver under load: what is found is a past state, and not older than the last fsync."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, atefs, until

pytestmark = pytest.mark.needs("fuse")

WRITER = Path(__file__).with_name("crash_writer.py")
STATES = 8
"""How many generations the writer goes round; see crash_writer.py."""


def kill_under_load(vault: Mounted, notes: Path, seconds: float) -> None:
    """Let the writer work for a while, and end the driver as a crash would."""
    with subprocess.Popen([sys.executable, WRITER, vault.path, notes], stderr=subprocess.DEVNULL) as writer:
        try:
            until(lambda: notes.exists() and notes.stat().st_size > 0, "the writer's first fsync")
            time.sleep(seconds)  # the load itself: there is no condition to wait for
            vault.kill()
        finally:
            writer.kill()


def noted(notes: Path) -> Iterator[dict[str, int]]:
    """What the writer had noted outside the mount; its last line may be torn."""
    for line in notes.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def check_past_state(vault: Mounted, notes: Path) -> None:
    """The tree is what the writer had made at one moment, and at least as new as its last fsync.

    The writer does step after step, and each step leaves a trace: file n exists from step n until step n + 8, with the
    content of its step, and `counter` holds the number of the last step that was finished.
    """
    synced = max((note["synced"] for note in noted(notes)), default=0)
    counter = int((vault / "counter").read_bytes() or b"0")
    numbers = sorted(int(name) for name in os.listdir(vault / "files"))
    newest = numbers[-1] if numbers else 0
    assert newest >= synced, f"step {synced} was synced, and {newest} is the newest there is"
    assert counter in (newest - 1, newest), "the counter is one step behind at most"
    first = max(1, newest - STATES + 1)
    assert numbers in (list(range(first, newest + 1)), list(range(first - 1, newest + 1))), "a step is missing"
    for number in numbers:
        content = (vault / f"files/{number}").read_bytes()
        whole = str(number).encode() * (number * 37 % 5000 + 1)
        # Only the newest can be cut short: it was being written.
        assert content == whole or (number == newest > synced and whole.startswith(content))


def rounds(vault: Mounted, tmp_path: Path, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        notes = tmp_path / f"notes{number}"
        kill_under_load(vault, notes, chance.uniform(0.0, 0.6))
        vault.mount()
        check_past_state(vault, notes)
    vault.umount()
    atefs("fsck", "--passphrase-file", vault.passphrase_file, vault.path)


def test_killed_under_load_five_times(vault: Mounted, tmp_path: Path) -> None:
    rounds(vault, tmp_path, 5, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_under_load_fifty_times(vault: Mounted, tmp_path: Path) -> None:
    rounds(vault, tmp_path, 50, seed=2)


def test_the_check_finds_a_state_older_than_the_last_sync(vault: Mounted, tmp_path: Path) -> None:
    """The negative twin: with a sync noted that never happened, the check fails."""
    notes = tmp_path / "notes"
    kill_under_load(vault, notes, 0.0)
    vault.mount()
    check_past_state(vault, notes)
    with notes.open("a") as file:
        file.write(json.dumps({"synced": 10**9}) + "\n")
    with pytest.raises(AssertionError, match="was synced"):
        check_past_state(vault, notes)


def test_the_check_finds_a_mixture_of_states(vault: Mounted, tmp_path: Path) -> None:
    """The negative twin: a file of the middle missing is no past state."""
    notes = tmp_path / "notes"
    kill_under_load(vault, notes, 0.2)
    vault.mount()
    names = sorted(os.listdir(vault / "files"), key=int)
    (vault / f"files/{names[len(names) // 2]}").unlink()
    with pytest.raises(AssertionError, match="a step is missing"):
        check_past_state(vault, notes)
