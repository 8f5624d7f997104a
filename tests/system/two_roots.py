"""The same operations on a reference filesystem (tmpfs) and on a mounted vault: both have to answer alike."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.system.mounted import Mounted

WORKER = Path(__file__).with_name("root_worker.py")
USER = 1000
"""Whom the second process acts as, where the mount lets others in."""
SECOND = 10**9
DAY = 86_400 * SECOND
PLACE = ("ino", "blocks", "ctime")
"""Numbers that each filesystem gives by itself, and the time, which cannot be set."""


def comparable(facts: dict[str, Any], since: int, mapped: set[int]) -> dict[str, Any]:
    """What two filesystems have to agree on: everything that is left out is left out here. Times are compared
    when they were set; "now" stands for all others.

    The size of a folder is nobody's promise (man 3 stat). tmpfs gives no time to what is written through a mapping, and
    others do so when a page becomes dirty, which is up to write-back: mapped holds the inodes to which that applies.
    """
    found = {name: value for name, value in facts.items() if name not in PLACE}
    if stat.S_ISDIR(facts["mode"]):
        del found["size"]
    if facts["ino"] in mapped:
        found["mtime"] = 0
    for name in ("atime", "mtime"):
        if since - SECOND <= found[name] <= since + DAY:
            found[name] = "now"
    return found


class Process:
    """A worker, see root_worker.py."""

    def __init__(self, uid: int, umask: int) -> None:
        self._worker = subprocess.Popen(
            [sys.executable, "-I", "-S", WORKER, str(uid), oct(umask)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def call(self, operation: str, *arguments: Any) -> tuple[int, Any]:
        """The errno, 0 when there was none, and the result."""
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        pickle.dump((operation, arguments), self._worker.stdin)
        self._worker.stdin.flush()
        answer: tuple[int, Any] = pickle.load(self._worker.stdout)
        return answer

    def end(self) -> None:
        """It closes all that it has open."""
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.close()
        self._worker.wait()
        self._worker.stdout.close()


class TwoRoots:
    """A reference folder and a folder of a vault, with two processes in each. Every round has folders of its own."""

    def __init__(self, reference: Path, vault: Mounted, options: tuple[str, ...], user: int) -> None:
        self.vault = vault
        self._options = options
        self._bases = (reference, vault.path)
        self._processes = [[Process(0, 0o022), Process(user, 0o027)] for _ in self._bases]
        self._round = 0
        self.since = 0
        self.alike = True
        self._mapped: tuple[set[int], set[int]] = (set(), set())

    def begin(self) -> None:
        """New, empty folders."""
        self._round += 1
        self.since = time.time_ns()
        self.alike = True
        self._mapped = (set(), set())
        for base in self._bases:
            (base / str(self._round)).mkdir()
            (base / str(self._round)).chmod(0o777)
        self._enter()

    def finish(self) -> None:
        """Clear away."""
        self._leave()
        for base in self._bases:
            shutil.rmtree(base / str(self._round))

    def end(self) -> None:
        """The processes end."""
        for processes in self._processes:
            for process in processes:
                process.end()

    def both(self, process: int, operation: str, *arguments: Any) -> tuple[int, Any]:
        """The same operation in both roots by the same process: the same errno, the same result. Returns them."""
        expected, found = (processes[process].call(operation, *arguments) for processes in self._processes)
        result = [answer[1] for answer in (expected, found)]
        if isinstance(result[0], dict) and isinstance(result[1], dict):
            result = [comparable(*pair) for pair in zip(result, [self.since] * 2, self._mapped, strict=True)]
        told = [errno.errorcode.get(answer[0], "no error") for answer in (expected, found)]
        self._agree([told[0], result[0]], [told[1], result[1]], f"{operation}{arguments!r} by process {process}")
        return expected[0], result[0]

    def apart(self, operation: str, there: tuple[Any, ...], here: tuple[Any, ...]) -> None:
        """The same operation with other arguments in each root: they differ then."""
        for processes, arguments in zip(self._processes, (there, here), strict=True):
            assert processes[0].call(operation, *arguments)[0] == 0

    def map(self, process: int, number: int, writable: bool) -> int:
        """Map a file through a handle in both roots; 0 when there is nothing to map."""
        for root, inodes in zip(self._processes, self._mapped, strict=True):
            code, facts = root[process].call("fstat", number)
            if not code and writable:
                inodes.add(facts["ino"])
        return self.both(process, "map", number, writable)[1] or 0

    def compare(self) -> None:
        """The trees are the same."""
        expected, found = (self._tree(root) for root in range(2))
        links: list[dict[str, list[str]]] = []
        for tree in (expected, found):
            names: dict[int, list[str]] = {}
            for path, facts in tree.items():
                names.setdefault(facts["ino"], []).append(path)
            links.append({paths[0]: paths for paths in names.values()})
        self._agree([*expected], [*found], "the names")
        for path, facts in expected.items():
            here = comparable(found[path], self.since, self._mapped[1])
            self._agree(comparable(facts, self.since, self._mapped[0]), here, path)
        self._agree(links[0], links[1], "the hard links")

    def remount(self) -> None:
        """All that the vault shows, times and numbers included, is the same after a remount."""
        before = self._tree(1)
        self._leave()
        self.vault.umount()
        self.vault.mount(*self._options)
        self._enter()
        self._same(before)

    def kill(self, kernel: bool) -> None:
        """End the driver and mount anew: what was on stable storage is there.

        kernel: have the kernel hand over what it caches (syncfs); otherwise closing the files has to have done so.
        """
        self._leave()
        self.settle(kernel)
        self.vault.kill()
        self.vault.mount(*self._options)
        self._enter()
        self.compare()

    def settle(self, kernel: bool) -> None:
        """What the vault has been given is on stable storage afterwards."""
        process = self._processes[1][0]
        process.call("enter", str(self._bases[1] / str(self._round)))
        assert process.call("sync" if kernel else "fsync_folder") == (0, None)
        process.call("leave")

    def drop_caches(self) -> None:
        """The kernel forgets all that it can: pages, names and inodes."""
        before = self._tree(1)
        self.both(0, "sync")
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        self._same(before)

    def _same(self, before: dict[str, dict[str, Any]]) -> None:
        after = self._tree(1)
        self._agree([*before], [*after], "the names before and now")
        for path, facts in before.items():
            self._agree(facts, after[path], f"{path} before and now")
        self.compare()

    def _agree(self, expected: Any, found: Any, what: str) -> None:
        if expected == found:
            return
        self.alike = False
        if isinstance(expected, dict) and isinstance(found, dict):
            names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            expected, found = ({name: facts.get(name) for name in names} for facts in (expected, found))
        raise AssertionError(f"{what}: {expected!r} there, {found!r} here")

    def _tree(self, root: int) -> dict[str, dict[str, Any]]:
        code, tree = self._processes[root][0].call("tree")
        assert not code, os.strerror(code)
        found: dict[str, dict[str, Any]] = tree
        return found

    def _enter(self) -> None:
        for base, processes in zip(self._bases, self._processes, strict=True):
            for process in processes:
                assert process.call("enter", str(base / str(self._round))) == (0, None)

    def _leave(self) -> None:
        for processes in self._processes:
            for process in processes:
                process.call("leave")
