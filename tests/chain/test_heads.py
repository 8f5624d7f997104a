"""What a machine remembers of a chain outside of its store."""

from __future__ import annotations

import threading
from pathlib import Path

from atedb.chain.disk import RealDisk
from atedb.chain.heads import Head, RememberedHeads

CHAIN = bytes(32)


class OneAtATime(RealDisk):
    """Notices when a file is replaced while it is being replaced."""

    def __init__(self) -> None:
        self.inside = 0
        self.met = False

    def replace(self, path: Path, data: bytes) -> None:
        self.inside += 1
        self.met = self.met or self.inside > 1
        super().replace(path, data)
        self.inside -= 1


def test_two_threads_that_remember_at_once_do_not_meet_and_the_newest_head_stays(tmp_path: Path) -> None:
    """The committer does so beside a checkpoint, which knows an older one."""
    disk = OneAtATime()
    heads = RememberedHeads(disk, tmp_path / "heads")
    failed: list[BaseException] = []

    def remember(numbers: range) -> None:
        try:
            for number in numbers:
                heads.remember(CHAIN, Head(number, f"{number:064x}"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=remember, args=(range(1 + first, 100, 2),)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not disk.met
    assert heads.recall(CHAIN) == Head(99, f"{99:064x}")


def test_an_older_head_does_not_replace_a_newer_one_unless_it_is_taken_back(tmp_path: Path) -> None:
    heads = RememberedHeads(RealDisk(), tmp_path / "heads")
    heads.remember(CHAIN, Head(7, "07"))
    heads.remember(CHAIN, Head(5, "05"))
    assert heads.recall(CHAIN) == Head(7, "07")
    heads.lower(CHAIN, Head(4, "04"))
    assert heads.recall(CHAIN) == Head(4, "04")
    heads.remember(CHAIN, Head(5, "15"))
    assert heads.recall(CHAIN) == Head(5, "15")
    heads.lower(CHAIN, Head(0, ""))
    assert heads.recall(CHAIN) is None
    heads.remember(CHAIN, Head(1, "01"))
    assert heads.recall(CHAIN) == Head(1, "01")


def test_another_process_may_remember_an_older_one_which_was_accepted(tmp_path: Path) -> None:
    RememberedHeads(RealDisk(), tmp_path / "heads").remember(CHAIN, Head(7, "07"))
    heads = RememberedHeads(RealDisk(), tmp_path / "heads")
    heads.remember(CHAIN, Head(5, "05"))
    assert heads.recall(CHAIN) == Head(5, "05")
