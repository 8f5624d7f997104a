"""Access control lists: whatever is done with one does to a vault what it does to a directory of this machine."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atedb.errors import AteError, DamagedError
from atefs.errors import AttributeTooBigError, InvalidError, NotSupportedError
from atefs.vault import acl
from atefs.vault.acl import ACCESS, DEFAULT, GROUP, GROUP_OBJ, MASK, NOBODY, OTHER, USER, USER_OBJ, Acl, Entry
from atefs.vault.inode import Attributes, Caller, Inode
from tests.vault.conftest import ME, Bench

ANNA, BERT = 1001, 1002
LISTED = Acl(
    (
        Entry(USER_OBJ, 7), Entry(USER, 6, ANNA), Entry(GROUP_OBJ, 5), Entry(GROUP, 4, BERT), Entry(MASK, 7),
        Entry(OTHER, 0),
    )
)  # fmt: skip
MODE_ONLY = Acl((Entry(USER_OBJ, 6), Entry(GROUP_OBJ, 4), Entry(OTHER, 0)))

permissions = st.integers(0, 7)
ids = st.sampled_from([0, 1, 1000, ANNA, 65_534, NOBODY - 1])
modes = st.integers(0, 0o777)


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    """A valid list."""
    named = [Entry(tag, draw(permissions), draw(ids)) for tag in draw(st.lists(st.sampled_from([USER, GROUP])))][:9]
    entries = [*named, Entry(USER_OBJ, draw(permissions)), Entry(GROUP_OBJ, draw(permissions))]
    masked: bool = draw(st.booleans())
    if named or masked:
        entries.append(Entry(MASK, draw(permissions)))
    entries.append(Entry(OTHER, draw(permissions)))
    return Acl(tuple(sorted(entries, key=lambda entry: entry.tag)))


@st.composite
def attributes(draw: st.DrawFn) -> bytes:
    """What programs might pass for a list: a valid one, most often with something wrong about it."""
    rows = [list(entry) for entry in draw(lists()).entries]
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(rows) - 1))
        what = draw(st.sampled_from(["tag", "permissions", "id", "lost", "twice", "swapped"]))
        if what == "tag":
            rows[position][0] = draw(st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 0xFFFF]))
        elif what == "permissions":
            rows[position][1] = draw(st.sampled_from([0, 7, 8, 0xFFFF]))
        elif what == "id":
            rows[position][2] = draw(st.sampled_from([0, NOBODY]))
        elif what == "lost" and len(rows) > 1:
            del rows[position]
        elif what == "twice":
            rows.insert(position, list(rows[position]))
        elif what == "swapped":
            rows[position], rows[0] = rows[0], rows[position]
    version = draw(st.sampled_from([2, 2, 2, 2, 1, 3]))
    packed = struct.pack("<I", version) + b"".join(struct.pack("<HHI", *row) for row in rows)
    return packed[: draw(st.sampled_from([len(packed)] * 8 + [0, 3, 4, len(packed) - 1]))]


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


class Seen(NamedTuple):
    """What is to be the same in both places."""

    mode: int
    lists: dict[bytes, bytes]


class Twins:
    """A real directory with a file in it, and the same in a vault."""

    def __init__(self, folder: Path) -> None:
        self.caller = Caller(os.geteuid(), os.getegid())
        self.real = folder / "folder"
        self.real.mkdir()
        (self.real / "file").touch()
        self.vault = Bench(None).vault
        self.folder = self.vault.mkdir(1, b"folder", stat.S_IMODE(self.real.stat().st_mode), self.caller).ino
        mode = stat.S_IMODE((self.real / "file").stat().st_mode)
        self.file = self.vault.mknod(self.folder, b"file", stat.S_IFREG | mode, 0, self.caller).ino

    def both(self, vault: Callable[[], object], real: Callable[[], object]) -> str:
        """Do it here and there; the errno, or "", which has to be the same."""
        outcomes = [outcome(vault), outcome(real)]
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    def set(self, name: bytes, value: bytes, on: str = "") -> str:
        return self.both(
            lambda: self.vault.setxattr(self.file if on else self.folder, name, value),
            lambda: os.setxattr(self.real / on, name, value),
        )

    def same(self, name: str = "") -> Seen:
        """The directory, or what is in it by that name, after having compared both places."""
        path = self.real / name
        real = Seen(
            path.stat().st_mode,
            {key: os.getxattr(path, key) for key in acl.NAMES if key.decode() in os.listxattr(path)},
        )
        inode = self.vault.lookup(self.folder, name.encode()) if name else self.vault.getattr(self.folder)
        assert Seen(inode.mode, inode.xattrs or {}) == real
        return real


@contextmanager
def twins() -> Iterator[Twins]:
    with umask(0o022), tempfile.TemporaryDirectory() as folder:
        yield Twins(Path(folder))


def outcome(operation: Callable[[], object]) -> str:
    try:
        operation()
    except (AteError, OSError) as error:
        return errno.errorcode[error.errno or 0]
    return ""


@settings(max_examples=400)
@given(which=st.sampled_from([(ACCESS, "file"), (ACCESS, ""), (DEFAULT, "")]), value=attributes(), after=attributes())
@example(which=(ACCESS, "file"), value=LISTED.encode(), after=MODE_ONLY.encode())
def test_one_is_taken_or_refused_as_on_this_machine(which: tuple[bytes, str], value: bytes, after: bytes) -> None:
    with twins() as both:
        name, on = which
        for one in (value, after):
            both.set(name, one, on)
            both.same(on)
        both.both(
            lambda: both.vault.removexattr(both.file if on else both.folder, name),
            lambda: os.removexattr(both.real / on, name),
        )
        assert name not in both.same(on).lists


def test_only_a_directory_has_a_default_list() -> None:
    with twins() as both:
        assert both.set(DEFAULT, LISTED.encode(), "file") == "EACCES"
        assert both.set(DEFAULT, b"", "file") == ""
        assert both.same("file").lists == {}


@settings(max_examples=300)
@given(default=lists(), mode=modes, mask=modes, kind=st.sampled_from(["file", "folder", "fifo"]))
@example(default=LISTED, mode=0o666, mask=0o077, kind="file")
def test_what_is_made_inherits_as_on_this_machine(default: Acl, mode: int, mask: int, kind: str) -> None:
    with twins() as both:
        assert both.set(DEFAULT, default.encode()) == ""
        caller = both.caller._replace(umask=mask)
        path = both.real / "new"
        with umask(mask):
            if kind == "file":
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))
                both.vault.mknod(both.folder, b"new", stat.S_IFREG | mode, 0, caller)
            elif kind == "folder":
                path.mkdir(mode)
                both.vault.mkdir(both.folder, b"new", mode, caller)
            else:
                os.mkfifo(path, mode)
                both.vault.mknod(both.folder, b"new", stat.S_IFIFO | mode, 0, caller)
        assert (DEFAULT in both.same("new").lists) == (kind == "folder")


@given(access=lists(), mode=modes, on=st.sampled_from(["", "file"]))
def test_chmod_rewrites_the_mask_as_on_this_machine(access: Acl, mode: int, on: str) -> None:
    with twins() as both:
        both.set(ACCESS, access.encode(), on)
        both.vault.setattr(both.file if on else both.folder, Attributes(mode=mode))
        (both.real / on).chmod(mode)
        both.same(on)


@given(access=lists())
def test_a_list_survives_being_encoded(access: Acl) -> None:
    assert Acl.decode(access.encode()) == access
    assert access.chmod(access.permissions) == access
    assert access.inherit(stat.S_IFREG | 0o777) == (stat.S_IFREG | access.permissions, access)


def test_the_umask_counts_only_where_there_is_no_default_list() -> None:
    """The kernel must not apply it first: what it cuts off cannot be known again."""
    vault = Bench(None).vault
    private = Caller(1000, 100, 0o077)
    plain = vault.mkdir(1, b"plain", 0o777, ME).ino
    shared = vault.mkdir(1, b"shared", 0o777, ME).ino
    vault.setxattr(shared, DEFAULT, LISTED.encode())
    assert vault.mknod(plain, b"f", 0o666, 0, private).mode & 0o777 == 0o600
    file = vault.mknod(shared, b"f", 0o666, 0, private)
    assert file.mode & 0o777 == 0o660
    assert file.xattrs == {ACCESS: LISTED.chmod(0o660).encode()}


def test_a_link_has_no_list_and_inherits_none(bench: Bench) -> None:
    vault, folder = bench.vault, bench.folder()
    vault.setxattr(folder, DEFAULT, LISTED.encode())
    link = vault.symlink(folder, b"link", b"target", ME)
    assert (link.mode & 0o777, link.xattrs) == (0o777, None)
    with pytest.raises(NotSupportedError):
        vault.setxattr(link.ino, ACCESS, LISTED.encode())


def test_lists_are_there_again_after_a_commit(bench: Bench) -> None:
    vault, folder = bench.vault, bench.folder()
    vault.setxattr(folder, DEFAULT, LISTED.encode())
    file = vault.mknod(folder, b"f", stat.S_IFREG | 0o666, 0, ME).ino
    bench.committed()
    vault = bench.reopen()
    assert vault.listxattr(folder) == [DEFAULT]
    assert Acl.decode(vault.getxattr(file, ACCESS)) == LISTED.chmod(0o660)


def test_an_unchanged_list_moves_no_time_and_a_changed_one_the_ctime(bench: Bench) -> None:
    vault, file = bench.vault, bench.file()
    vault.setxattr(file, ACCESS, LISTED.encode())
    bench.committed()
    before = vault.getattr(file).ctime
    vault.removexattr(file, DEFAULT)
    assert vault.getattr(file).ctime == before
    assert bench.committed() == []
    vault.setattr(file, Attributes(mode=0o640))
    changed = vault.getattr(file).ctime
    assert changed > before
    vault.removexattr(file, ACCESS)
    assert vault.getattr(file).ctime > changed


def test_the_set_group_bit_falls_when_its_setter_is_not_of_the_group(bench: Bench) -> None:
    vault, file = bench.vault, bench.file()
    vault.setattr(file, Attributes(mode=0o2755))
    vault.setxattr(file, ACCESS, LISTED.encode())
    assert vault.getattr(file).mode & 0o7777 == 0o2770
    vault.setxattr(file, ACCESS, LISTED.encode(), in_group=False)
    assert vault.getattr(file).mode & 0o7777 == 0o770


def test_a_list_has_as_many_entries_as_the_kernel_reads() -> None:
    def of(count: int) -> bytes:
        named = [Entry(USER, 4, number) for number in range(count - 4)]
        return Acl((Entry(USER_OBJ, 7), *named, Entry(GROUP_OBJ, 0), Entry(MASK, 7), Entry(OTHER, 0))).encode()

    assert len(of(acl.ENTRIES_MAX)) <= 4096 < len(of(acl.ENTRIES_MAX + 1))
    assert Acl.decode(of(acl.ENTRIES_MAX)) is not None
    with pytest.raises(AttributeTooBigError):
        Acl.decode(of(acl.ENTRIES_MAX + 1))


def test_what_is_refused_changes_nothing(bench: Bench) -> None:
    vault, folder = bench.vault, bench.folder()
    vault.setxattr(folder, ACCESS, LISTED.encode())
    bench.committed()
    with pytest.raises(InvalidError):
        vault.setxattr(folder, ACCESS, MODE_ONLY.encode()[:-8])
    assert bench.committed() == []


def test_a_list_in_the_store_that_is_none_is_damage(bench: Bench) -> None:
    """Nothing is inherited from it, and nobody gets more rights for it."""
    inode = Inode(7, stat.S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, 0, 0, xattrs={DEFAULT: b"none", b"user.x": b"none"})
    with pytest.raises(DamagedError, match="inode 7"):
        acl.held(inode, DEFAULT)
    assert acl.held(inode, ACCESS) is None
    assert acl.unsound(inode) == [DEFAULT]
