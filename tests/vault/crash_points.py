"""Crash points: states that a disk may come back in, and what has to hold of the vault that is found there.

A crash point is a state that the disk may come back in when the power goes just before a step. Everything that the disk
was told until then and no sync has covered may be there, torn, reordered or missing.
"""

from __future__ import annotations

import random
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from blake3 import blake3

from atedb.chain import journal as journal_module
from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.disk import Disk, RealDisk
from atedb.chain.header import load_header
from atedb.crypto.keys import KeyRing
from atedb.errors import AteError
from atedb.testing.disk import FaultyDisk
from atefs.vault.check import Survey
from atefs.vault.codec import terms_of
from atefs.vault.inode import Inode
from atefs.vault.limits import PAGE
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, ROOT_KEY

State = dict[bytes, tuple[object, ...]]
"""Path -> everything that a program can find out about what is there."""
EMPTY = bytes(PAGE)


class CrashPoint(NamedTuple):
    """What the disk came back with. allowed: the states that the contract lets the vault be in, oldest first.

    told: what a program took for durable at that moment (`Trace.told`).
    """

    what: str
    folder: Path
    allowed: Sequence[State]
    told: int


class CrashDisk(FaultyDisk):
    """Calls `before(what)` before each of its steps, when the steps before it are done and synced or not."""

    before: Callable[[str], None] | None = None

    def step(self, what: str) -> bool:
        if self.before is not None:
            self.before(what)
        return super().step(what)


class SmallSegments:
    """Segments of the log are so small in this that they are rolled again and again, and the journal is soon full."""

    def __enter__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(log_module, "SEGMENT_TARGET", 96 << 10)
        self._patch.setattr(log_module, "ZERO_AHEAD_FIRST", 4 << 10)
        self._patch.setattr(log_module, "ZERO_AHEAD_MOST", 8 << 10)
        self._patch.setattr(journal_module, "SIZE", 32 << 10)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def state_of(vault: Vault) -> State:
    """The tree as a program sees it."""
    state: State = {}
    waiting: list[tuple[bytes, int]] = [(b"/", 1)]
    while waiting:
        path, ino = waiting.pop()
        inode = vault.getattr(ino)
        xattrs = tuple(sorted((inode.xattrs or {}).items()))
        times = (inode.atime, inode.mtime, inode.ctime, inode.btime)
        owner = (inode.uid, inode.gid, inode.nlink)
        state[path] = (ino, inode.mode, owner, inode.size, inode.blocks, times, xattrs, content_of(vault, inode))
        if inode.is_dir:
            waiting += [(path + b"/" + row.name, row.ino) for row in vault.readdir(ino)[2:]]
    return state


def content_of(vault: Vault, inode: Inode) -> bytes:
    """A digest of every page that is not zero; a link's target."""
    if inode.is_link:
        return vault.readlink(inode.ino)
    digest = blake3()
    for start, end in vault._holes.runs(inode, 0) if inode.is_file else ():
        for page in range(start // PAGE, -(-end // PAGE)):
            data = vault.read(inode.ino, page * PAGE, PAGE)
            if data != EMPTY[: len(data)]:
                digest.update(page.to_bytes(8, "big") + data)
    return digest.digest(16)


def tear(path: Path, before: bytes, chance: random.Random) -> None:
    """LMDB writes past the disk, and the power can go while it does: any page may be as it was before."""
    after = path.read_bytes()
    pages = [data[at : at + PAGE] for at in range(0, len(after), PAGE) for data in [chance.choice((before, after))]]
    path.write_bytes(b"".join(pages))


def opened(folder: Path, disk: Disk | None = None) -> Chain:
    """The chain that came back in a folder."""
    header = load_header(RealDisk(), folder / "store")
    names = KeyRing(ROOT_KEY, header.chain_id, header.suite)
    return Chain.open(folder / "store", ROOT_KEY, terms=terms_of(names), disk=disk, heads=folder / "heads")


def check(point: CrashPoint) -> None:
    """It is a past state and sound; and one can go on working with it, through another crash."""
    disk = FaultyDisk(point.folder)
    chain = opened(point.folder, disk)
    try:
        vault = Vault(chain)
        expect_past_state(vault, chain, point)
        later = list(_work_on(vault, chain))
        again = point.folder.with_name(point.folder.name + " again")
        again.mkdir()
        disk.survivors(again, random.Random(point.what))
    finally:
        chain._release()
    check_state(point._replace(what=point.what + ", and the crash after it", folder=again, allowed=later))


def _work_on(vault: Vault, chain: Chain) -> Iterator[State]:
    """Finish the deletions, sync a file and then its name, commit another name without a sync; the states that are
    allowed then."""
    more = True
    while more:
        more = vault.reap()
        vault.commit()
    assert Survey(chain).run() == []
    name = b"later%d"
    vault.write(vault.mknod(1, name % 1, stat.S_IFREG | 0o644, 0, ME).ino, 0, b"synced" * 500)
    vault.commit()
    chain.barrier()
    vault.rename(1, name % 1, 1, name % 2)
    promised = vault.freeze()
    assert promised is not None
    assert chain.promise(promised.loose)
    vault.promised(promised)
    yield state_of(vault)
    vault.rename(1, name % 2, 1, name % 3)
    yield state_of(vault)
    vault.commit()


def check_state(point: CrashPoint) -> None:
    """It is a past state and sound."""
    chain = opened(point.folder)
    try:
        expect_past_state(Vault(chain), chain, point)
    finally:
        chain.close()


def expect_past_state(vault: Vault, chain: Chain, point: CrashPoint) -> None:
    """One of the allowed states, and every invariant of the tree holds."""
    found = state_of(vault)
    assert found in point.allowed, f"{point.what}: not a state since the last promise:\n{nearest(found, point)}"
    problems = Survey(chain).run()
    assert not problems, f"{point.what}: {[str(problem) for problem in problems]}"


def nearest(found: State, point: CrashPoint) -> str:
    """How what was found differs from the allowed state that is most like it."""
    best = min(point.allowed, key=lambda state: len(state.items() ^ found.items()))
    number = next(i for i, state in enumerate(point.allowed) if state is best)
    lines = [f"nearest is allowed state {number} of {len(point.allowed)}"]
    for path in sorted(best.keys() | found.keys()):
        if best.get(path) != found.get(path):
            lines.append(f"{path!r}: {best.get(path)} there, {found.get(path)} found")
    return "\n".join(lines)


def faults(points: Sequence[CrashPoint], check: Callable[[CrashPoint], None] = check) -> list[str]:
    """Whatever is wrong at any of the crash points; their folders are removed."""
    wrong = []
    for point in points:
        try:
            check(point)
        except (AssertionError, AteError) as error:
            wrong.append(f"{point.what}: {error}")
        shutil.rmtree(point.folder)
        shutil.rmtree(point.folder.with_name(point.folder.name + " again"), ignore_errors=True)
    return wrong
