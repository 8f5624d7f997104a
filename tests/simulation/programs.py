"""What programs do in a mounted vault: a system call or a few; all content that they write has a text of its own."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from atedb.errors import AteError
from atefs.vault.conflicts import list_conflicts, resolve
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK, ROOT_INO
from atefs.vault.rename import EXCHANGE
from atefs.vault.vault import Vault

if TYPE_CHECKING:
    from tests.simulation.kernel import Kernel

ME = Caller(1000, 100, 0o022)
NAMES = (b"a", b"b", b"c")
OFFSETS = (0, 0, 12, 12, 24, 24, 100, 100, 500, 8_000, 8_190, BLOCK - 6, 65 * BLOCK)
TEXT = re.compile(rb"<\d{10}>")
FOLDER = stat.S_IFDIR >> 12


class Place(NamedTuple):
    """One name in the tree."""

    parent: int
    name: bytes
    ino: int


def folders(vault: Vault) -> list[int]:
    found, at = [ROOT_INO], 0
    while at < len(found):
        found += sorted(row.ino for row in vault.readdir(found[at])[2:] if row.type == FOLDER)
        at += 1
    return found


def places(vault: Vault) -> list[Place]:
    return [Place(folder, *row[:2]) for folder in folders(vault) for row in sorted(vault.readdir(folder)[2:])]


def texts(vault: Vault, ino: int) -> set[bytes]:
    """The texts in a file."""
    inode = vault.getattr(ino)
    if not inode.is_file:
        return set()
    if inode.size <= 2 * BLOCK:
        return set(TEXT.findall(vault.read(ino, 0, inode.size)))
    return set(TEXT.findall(b"".join(vault.read(ino, at, end - at) for at, end in runs(vault, ino))))


def runs(vault: Vault, ino: int) -> Iterator[tuple[int, int]]:
    """Where a file has anything: from where to where."""
    at = 0
    while True:
        try:
            at = vault.seek_data(ino, at)
        except AteError:
            return
        end = vault.seek_hole(ino, at)
        yield at, end
        at = end


def all_texts(vault: Vault) -> set[bytes]:
    """Those in all files that have a name."""
    found: set[bytes] = set()
    for ino in {place.ino for place in places(vault)}:
        found |= texts(vault, ino)
    return found


class Call:
    """One program's turn. text: what it writes. first, second: what it makes of them."""

    def __init__(self, vault: Vault, kernel: Kernel, text: bytes, *, first: int, second: int) -> None:
        self.vault = vault
        self.kernel = kernel
        self.text = text
        self.first = first
        self.second = second

    def folder(self, pick: int) -> int:
        found = folders(self.vault)
        return found[pick % len(found)]

    def place(self, pick: int) -> Place:
        found = places(self.vault) or [Place(ROOT_INO, b"none", 0)]
        return found[pick % len(found)]

    def file(self, pick: int) -> int:
        found = [place.ino for place in places(self.vault) if self.vault.getattr(place.ino).is_file] or [0]
        return found[pick % len(found)]

    def held(self) -> int:
        """An inode that a program has open; 0: there is none."""
        found = sorted(self.vault._inodes.references)
        return found[self.first % len(found)] if found else 0


def create(call: Call) -> None:
    parent, name = call.folder(call.first), NAMES[call.second % 3]
    ino = call.vault.mknod(parent, name, stat.S_IFREG | 0o644, 0, ME).ino
    call.vault.write(ino, 0, call.text)


def write(call: Call) -> None:
    call.vault.write(call.file(call.first), OFFSETS[call.second % len(OFFSETS)], call.text)


def append(call: Call) -> None:
    ino = call.file(call.first)
    call.vault.write(ino, call.vault.getattr(ino).size, call.text)


def rename(call: Call) -> None:
    parent, name, _ = call.place(call.first)
    call.vault.rename(parent, name, call.folder(call.second), NAMES[call.second // 7 % 3])


def exchange(call: Call) -> None:
    one, other = call.place(call.first), call.place(call.second)
    if not _kept_beside(one) and not _kept_beside(other):
        call.vault.rename(*one[:2], *other[:2], EXCHANGE)


def _kept_beside(place: Place) -> bool:
    return b".conflict-" in place.name


def remove(call: Call) -> None:
    parent, name, ino = call.place(call.first)
    (call.vault.rmdir if call.vault.getattr(ino).is_dir else call.vault.unlink)(parent, name)


def make_folder(call: Call) -> None:
    call.vault.mkdir(call.folder(call.first), NAMES[call.second % 3], 0o755, ME)


def link(call: Call) -> None:
    call.vault.link(call.file(call.first), call.folder(call.second), NAMES[call.second // 5 % 3])


def symlink(call: Call) -> None:
    call.vault.symlink(call.folder(call.first), NAMES[call.second % 3], b"target", ME)


def truncate(call: Call) -> None:
    call.vault.setattr(call.file(call.first), Attributes(size=OFFSETS[call.second % len(OFFSETS)] + 3))


def chmod(call: Call) -> None:
    ino = call.place(call.first).ino
    call.vault.setattr(ino, Attributes(mode=0o400 | call.second % 64))
    call.vault.setxattr(ino, b"user.%d" % (call.second % 2), call.text)


def copy(call: Call) -> None:
    source, target = call.file(call.first), call.file(call.second)
    if source != target:
        call.vault.setattr(target, Attributes(size=0))
        size, at = call.vault.getattr(source).size, 0
        while at < size:
            at += call.vault.copy_range(source, at, target, at, size - at)


def read(call: Call) -> None:
    ino = call.file(call.first)
    call.vault.read(ino, OFFSETS[call.second % len(OFFSETS)], BLOCK)


def hold(call: Call) -> None:
    call.vault.remember(call.file(call.first))


def release(call: Call) -> None:
    if call.held():
        call.vault.forget(call.held())


def write_held(call: Call) -> None:
    if call.held():
        call.vault.write(call.held(), OFFSETS[call.second % len(OFFSETS)], call.text)


def decide(call: Call) -> None:
    """A conflict."""
    found = list_conflicts(call.vault)
    if found:
        resolve(call.vault, found[call.first % len(found)], keep=call.second % 2 == 0)


def look(call: Call) -> None:
    """At everything, with all attributes and content."""
    call.kernel.look()


def sync(call: Call) -> None:
    """Not a call of the vault: the machine waits for its committer."""
    raise NotImplementedError


PROGRAMS: list[Callable[[Call], None]] = [
    create, create, create, write, write, write, append, append, rename, rename, exchange, remove, remove, make_folder,
    make_folder, link, symlink, truncate, chmod, copy, read, look, look, look, hold, release, write_held, decide,
    sync, sync, sync, sync,
]  # fmt: skip


def victims(what: Callable[[Call], None], call: Call) -> list[int]:
    """The inodes whose content a program may end."""
    vault = call.vault
    if what in (write, truncate):
        return [call.file(call.first)]
    if what is copy:
        return [call.file(call.second)]
    if what is write_held:
        return [call.held()] if call.held() else []
    if what is remove:
        return [call.place(call.first).ino]
    if what is rename:
        return _at(vault, call.folder(call.second), NAMES[call.second // 7 % 3])
    if what is decide:
        found = list_conflicts(vault)
        if found:
            one = found[call.first % len(found)]
            return [one.ino, *_at(vault, one.origin_parent, one.origin_name)]
    return []


def _at(vault: Vault, parent: int, name: bytes) -> list[int]:
    try:
        return [vault.lookup(parent, name).ino]
    except AteError:
        return []
