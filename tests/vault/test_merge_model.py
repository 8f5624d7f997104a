"""Three devices that do anything apart and meet in any order: equal trees at the end, and nothing lost that nobody
has deleted.

Every write has a text of its own. One that a file has before an operation and not after it was deleted on purpose (of a
copy, each device may delete another one); every other one has to be found after each merge, and in the end.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atedb.errors import AteError
from atefs.vault import sides
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, ROOT_INO
from atefs.vault.merge import _Merge
from atefs.vault.merge_names import Plan
from atefs.vault.rename import EXCHANGE
from atefs.vault.vault import Vault
from tests.chain import followed
from tests.vault.conftest import ME
from tests.vault.real_replica import RealReplica
from tests.vault.replicas import Replica, Server, contents, tree

NAMED = ("one", "two", "three")
MARK = 12
TEXT = re.compile(rb"<\d{10}>")
OFFSETS = (0, 100, 8_000, BLOCK - 6, 2 * BLOCK, 65 * BLOCK)
NAMES = (b"a", b"b", b"c")
MANY = int(os.environ.get("MERGE_HISTORIES", "60"))


class World:
    """deleted: the texts that somebody has deleted on purpose."""

    def __init__(self, replicas: Sequence[Replica | RealReplica]) -> None:
        self.replicas = replicas
        self.deleted: set[bytes] = set()
        self.count = 0

    def act(self, who: int, what: int, first: int, second: int) -> None:
        """One operation of one device; one that is refused does nothing."""
        vault = self.replicas[who].vault
        before = marked(vault)
        try:
            OPERATIONS[what](self, vault, first, second)
        except AteError:
            pass
        self.deleted |= {mark for _, mark in before - marked(vault)}

    def meet(self, who: int, *, sent: float = 1.0) -> None:
        """Receive or merge, and send; what both sides have must be there afterwards, but for what was deleted.

        sent: how much of it, before somebody else is quicker, so that the rest is merged once more.
        """
        replica = self.replicas[who]
        replica.vault.commit()
        mine, theirs = marks(replica.vault), marks(replica.theirs())
        replica.sync(send=sent == 1.0)
        if sent < 1.0:
            replica.send(int(sent * len(replica.pending)))
        seen = marks(replica.vault)
        lost = (mine | theirs) - self.deleted - seen
        assert not lost, f"a merge has lost {lost}"
        replica.check()
        assert tree(Vault(replica.chain)) == tree(replica.vault), "something is answered from memory"

    def end(self) -> None:
        """All meet until nobody has anything new."""
        written = set().union(*(marks(replica.vault) for replica in self.replicas))
        for _ in range(2):
            for who, replica in enumerate(self.replicas):
                self.meet(who)
                replica.settle_down()
        for _ in range(2):
            for who in range(3):
                self.meet(who)
        trees = [tree(replica.vault) for replica in self.replicas]
        assert trees[0] == trees[1] == trees[2]
        assert written - self.deleted <= marks(self.replicas[0].vault)

    def mark(self) -> bytes:
        """A text that was never written before."""
        self.count += 1
        return b"<%0*d>" % (MARK - 2, self.count)


def marked(vault: Vault) -> set[tuple[int, bytes]]:
    """The texts that can be read anywhere in the tree, each with the inode that it is in."""
    return {(number, mark) for number, data in contents(vault).values() for mark in TEXT.findall(data)}


def marks(vault: Vault) -> set[bytes]:
    return {mark for _, mark in marked(vault)}


def folders(vault: Vault) -> list[int]:
    found, at = [ROOT_INO], 0
    while at < len(found):
        found += sorted(row.ino for row in vault.readdir(found[at])[2:] if row.type == 4)
        at += 1
    return found


def places(vault: Vault) -> list[tuple[int, bytes, int]]:
    return [(folder, *row[:2]) for folder in folders(vault) for row in sorted(vault.readdir(folder)[2:])]


def folder_of(vault: Vault, pick: int) -> int:
    found = folders(vault)
    return found[pick % len(found)]


def place_of(vault: Vault, pick: int) -> tuple[int, bytes, int]:
    found = places(vault) or [(ROOT_INO, b"none", 0)]
    return found[pick % len(found)]


def file_of(vault: Vault, pick: int) -> int:
    found = [ino for _, _, ino in places(vault) if vault.getattr(ino).is_file] or [0]
    return found[pick % len(found)]


def create(world: World, vault: Vault, first: int, second: int) -> None:
    ino = vault.mknod(folder_of(vault, first), NAMES[second % 3], stat.S_IFREG | 0o644, 0, ME).ino
    vault.write(ino, 0, world.mark())


def write(world: World, vault: Vault, first: int, second: int) -> None:
    vault.write(file_of(vault, first), OFFSETS[second % len(OFFSETS)], world.mark())


def append(world: World, vault: Vault, first: int, second: int) -> None:
    del second
    ino = file_of(vault, first)
    vault.write(ino, vault.getattr(ino).size, world.mark())


def rename(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    parent, name, _ = place_of(vault, first)
    vault.rename(parent, name, folder_of(vault, second), NAMES[second // 7 % 3])


def exchange(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    vault.rename(*place_of(vault, first)[:2], *place_of(vault, second)[:2], EXCHANGE)


def remove(world: World, vault: Vault, first: int, second: int) -> None:
    del world, second
    parent, name, ino = place_of(vault, first)
    (vault.rmdir if vault.getattr(ino).is_dir else vault.unlink)(parent, name)


def remove_tree(world: World, vault: Vault, first: int, second: int) -> None:
    parent, name, ino = place_of(vault, first)
    for row in vault.readdir(ino)[2:] if vault.getattr(ino).is_dir else ():
        if row.type == 4:
            remove_below(vault, ino, row.name, row.ino)
        else:
            vault.unlink(ino, row.name)
    remove(world, vault, places(vault).index((parent, name, ino)), second)


def remove_below(vault: Vault, parent: int, name: bytes, ino: int) -> None:
    for row in vault.readdir(ino)[2:]:
        if row.type == 4:
            remove_below(vault, ino, row.name, row.ino)
        else:
            vault.unlink(ino, row.name)
    vault.rmdir(parent, name)


def make_folder(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    vault.mkdir(folder_of(vault, first), NAMES[second % 3], 0o755, ME)


def link(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    vault.link(file_of(vault, first), folder_of(vault, second), NAMES[second // 5 % 3])


def symlink(world: World, vault: Vault, first: int, second: int) -> None:
    vault.symlink(folder_of(vault, first), NAMES[second % 3], world.mark(), ME)


def cut(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    vault.setattr(file_of(vault, first), Attributes(size=OFFSETS[second % len(OFFSETS)] + 3))


def chmod(world: World, vault: Vault, first: int, second: int) -> None:
    ino = place_of(vault, first)[2]
    vault.setattr(ino, Attributes(mode=0o400 | second % 64))
    vault.setxattr(ino, b"user.%d" % (second % 2), world.mark())


def copy(world: World, vault: Vault, first: int, second: int) -> None:
    del world
    source, target = file_of(vault, first), file_of(vault, second)
    if source != target:
        vault.setattr(target, Attributes(size=0))
        size, at = vault.getattr(source).size, 0
        while at < size:
            at += vault.copy_range(source, at, target, at, size - at)


def hold(world: World, vault: Vault, first: int, second: int) -> None:
    del world, second
    vault.remember(file_of(vault, first))


def release(world: World, vault: Vault, first: int, second: int) -> None:
    del world, second
    held = sorted(vault._inodes.references)
    if held:
        vault.forget(held[first % len(held)])


def write_held(world: World, vault: Vault, first: int, second: int) -> None:
    held = sorted(vault._inodes.references)
    if held:
        vault.write(held[first % len(held)], OFFSETS[second % len(OFFSETS)], world.mark())


def make_nameless(world: World, vault: Vault, first: int, second: int) -> None:
    ino = vault.tmpfile(folder_of(vault, first), 0o600, ME).ino
    vault.remember(ino)
    vault.write(ino, 0, world.mark())
    if second % 2:
        vault.link(ino, folder_of(vault, second), NAMES[second % 3])


def commit(world: World, vault: Vault, first: int, second: int) -> None:
    del world, first, second
    vault.commit()


def reap(world: World, vault: Vault, first: int, second: int) -> None:
    del world, second
    vault.reap(1 + first % 5)


OPERATIONS: list[Callable[[World, Vault, int, int], None]] = [
    create, create, write, write, append, rename, rename, exchange, remove, remove_tree, make_folder, make_folder, link,
    symlink, cut, chmod, copy, commit, reap, hold, release, write_held, make_nameless,
]  # fmt: skip

BEFORE = [(0, 0, 0), (10, 0, 1), (0, 1, 0), (10, 1, 2), (12, 0, 0), (3, 1, 4)]
"""What all have when a history begins: two files, one with a second name, and two folders."""

SENT = {-4: 0.5, -3: 0.0}
"""Instead of an operation, any number below 0: a device merges and sends. With these, so much of it."""

steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(min(SENT), len(OPERATIONS) - 1), st.integers(0, 60), st.integers(0, 60)),
    min_size=10, max_size=80,
)  # fmt: skip


def run(history: list[tuple[int, int, int, int]]) -> None:
    server = Server()
    run_with([Replica(server, name) for name in NAMED], history)


def run_with(replicas: Sequence[Replica | RealReplica], history: list[tuple[int, int, int, int]]) -> None:
    world = World(replicas)
    for what, first, second in BEFORE:
        world.act(0, what, first, second)
    for who in range(3):
        world.meet(who)
    for who, what, first, second in history:
        if what < 0:
            world.meet(who, sent=SENT.get(what, 1.0))
        else:
            world.act(who, what, first, second)
    world.end()


@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(history=steps)
def test_whatever_is_done_apart_is_there_in_the_end(history: list[tuple[int, int, int, int]]) -> None:
    run(history)


@settings(max_examples=MANY // 3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps)
def test_whatever_a_merge_commits_on_the_way_is_sound(history: list[tuple[int, int, int, int]]) -> None:
    """As if each change were as large as makes a commit of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sides, "_PIECE", 1)
        run(history)


@contextmanager
def real_replicas() -> Iterator[list[RealReplica]]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        server = followed.Server()
        replicas: list[RealReplica] = []
        for name in NAMED:
            replicas.append(RealReplica(Path(folder) / name, server, name, replicas[0] if replicas else None))
            stack.callback(replicas[-1].close)
        yield replicas


@settings(max_examples=MANY // 10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps)
def test_the_same_on_real_chains_with_bodies_that_come_when_they_are_read(
    history: list[tuple[int, int, int, int]],
) -> None:
    with real_replicas() as replicas:
        run_with(replicas, history)


CONFLICT = [(0, 0, 0, 0), (0, -1, 0, 0), (1, -1, 0, 0), (0, 2, 0, 0), (1, 2, 0, 0), (0, -1, 0, 0), (1, -1, 0, 0)]
DELETED = [(0, 0, 0, 0), (0, -1, 0, 0), (1, -1, 0, 0), (0, 4, 0, 0), (1, 8, 0, 0), (0, -1, 0, 0), (1, -1, 0, 0)]


@pytest.mark.parametrize(
    ("part", "name", "history"),
    [(_Merge, "_put_beside", CONFLICT), (Plan, "_settle_deletions", DELETED)],
    ids=["conflicts", "deletions"],
)
def test_the_model_notices_a_merge_that_loses_something(
    monkeypatch: pytest.MonkeyPatch, part: type, name: str, history: list[tuple[int, int, int, int]]
) -> None:
    run(history)
    monkeypatch.setattr(part, name, lambda *_, **__: None)
    with pytest.raises((AssertionError, AteError)):
        run(history)
