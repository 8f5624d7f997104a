"""Names and attributes behave as the manual pages say, errno by errno."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

import pytest

from atedb.errors import AteError
from atefs.vault import limits
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from atefs.vault.rename import EXCHANGE, NOREPLACE
from tests.vault.conftest import ME, Bench


def refused(operation: Callable[[], object]) -> str:
    """The errno that an operation is refused with."""
    with pytest.raises(AteError) as caught:
        operation()
    return errno.errorcode[caught.value.errno]


def test_each_refusal_has_its_errno_and_changes_nothing(bench: Bench) -> None:
    vault, file, folder = bench.vault, bench.file(), bench.folder()
    bench.file(b"inside", parent=folder)
    link = vault.symlink(1, b"l", b"f", ME).ino
    bench.committed()
    cases: dict[str, tuple[str, Callable[[], object]]] = {
        "lookup of nothing": ("ENOENT", lambda: vault.lookup(1, b"none")),
        "lookup in a file": ("ENOTDIR", lambda: vault.lookup(file, b"x")),
        "lookup of a long name": ("ENAMETOOLONG", lambda: vault.lookup(1, b"x" * 256)),
        "make over a name": ("EEXIST", lambda: vault.mknod(1, b"f", 0o644, 0, ME)),
        "make in a file": ("ENOTDIR", lambda: vault.mknod(file, b"x", 0o644, 0, ME)),
        "make a long name": ("ENAMETOOLONG", lambda: vault.mkdir(1, b"x" * 256, 0o755, ME)),
        "make an empty name": ("ENOENT", lambda: vault.mkdir(1, b"", 0o755, ME)),
        "make a name with a slash": ("EINVAL", lambda: vault.mkdir(1, b"a/b", 0o755, ME)),
        "make a name with NUL": ("EINVAL", lambda: vault.mkdir(1, b"a\0b", 0o755, ME)),
        "mknod of a directory": ("EINVAL", lambda: vault.mknod(1, b"x", stat.S_IFDIR | 0o755, 0, ME)),
        "a long target": ("ENAMETOOLONG", lambda: vault.symlink(1, b"x", b"t" * 4096, ME)),
        "an empty target": ("ENOENT", lambda: vault.symlink(1, b"x", b"", ME)),
        "link to a directory": ("EPERM", lambda: vault.link(folder, 1, b"x")),
        "link over a name": ("EEXIST", lambda: vault.link(file, 1, b"d")),
        "unlink of nothing": ("ENOENT", lambda: vault.unlink(1, b"none")),
        "unlink of a directory": ("EISDIR", lambda: vault.unlink(1, b"d")),
        "rmdir of a file": ("ENOTDIR", lambda: vault.rmdir(1, b"f")),
        "rmdir of a full directory": ("ENOTEMPTY", lambda: vault.rmdir(1, b"d")),
        "rmdir of .": ("EINVAL", lambda: vault.rmdir(folder, b".")),
        "rmdir of ..": ("ENOTEMPTY", lambda: vault.rmdir(folder, b"..")),
        "rename of nothing": ("ENOENT", lambda: vault.rename(1, b"none", 1, b"x")),
        "rename into itself": ("EINVAL", lambda: vault.rename(1, b"d", folder, b"x")),
        "rename of a file over a directory": ("EISDIR", lambda: vault.rename(1, b"f", 1, b"d")),
        "rename of a directory over a file": ("ENOTDIR", lambda: vault.rename(1, b"d", 1, b"f")),
        "rename without replacing": ("EEXIST", lambda: vault.rename(1, b"f", 1, b"l", NOREPLACE)),
        "exchange with nothing": ("ENOENT", lambda: vault.rename(1, b"f", 1, b"x", EXCHANGE)),
        "exchange with one's own child": ("EINVAL", lambda: vault.rename(folder, b"inside", 1, b"d", EXCHANGE)),
        "rename with odd flags": ("EINVAL", lambda: vault.rename(1, b"f", 1, b"x", 3)),
        "readlink of a file": ("EINVAL", lambda: vault.readlink(file)),
        "readdir of a file": ("ENOTDIR", lambda: vault.readdir(file)),
        "read of a directory": ("EISDIR", lambda: vault.read(folder, 0, 1)),
        "write to a directory": ("EISDIR", lambda: vault.write(folder, 0, b"x")),
        "write to a link": ("EINVAL", lambda: vault.write(link, 0, b"x")),
        "write beyond the largest file": ("EFBIG", lambda: vault.write(file, 2**63 - 1, b"x")),
        "truncate of a directory": ("EISDIR", lambda: vault.setattr(folder, Attributes(size=0))),
        "truncate of a link": ("EINVAL", lambda: vault.setattr(link, Attributes(size=0))),
        "truncate below nothing": ("EINVAL", lambda: vault.setattr(file, Attributes(size=-1))),
        "truncate beyond the largest file": ("EFBIG", lambda: vault.setattr(file, Attributes(size=2**63))),
        "getattr of nothing": ("ESTALE", lambda: vault.getattr(99)),
        "getxattr of nothing": ("ENODATA", lambda: vault.getxattr(file, b"user.x")),
        "removexattr of nothing": ("ENODATA", lambda: vault.removexattr(file, b"user.x")),
        "setxattr replacing nothing": ("ENODATA", lambda: vault.setxattr(file, b"user.x", b"", 2)),
        "setxattr with a long name": ("ERANGE", lambda: vault.setxattr(file, b"u" * 256, b"")),
        "setxattr of no namespace": ("ENOTSUP", lambda: vault.setxattr(file, b"nonsense", b"")),
        "setxattr of a namespace alone": ("EINVAL", lambda: vault.setxattr(file, b"user.", b"")),
        "setxattr with a large value": ("E2BIG", lambda: vault.setxattr(file, b"user.x", bytes(65_537))),
        "setxattr with odd flags": ("EINVAL", lambda: vault.setxattr(file, b"user.x", b"", 3)),
    }
    expected = {name: wanted for name, (wanted, _) in cases.items()}
    assert {name: refused(operation) for name, (_, operation) in cases.items()} == expected
    assert bench.committed() == []


def test_exchange_of_a_directory_with_what_is_inside_it_is_refused(bench: Bench) -> None:
    folder = bench.folder()
    inner = bench.folder(b"inner", folder)
    bench.folder(b"deep", inner)
    assert refused(lambda: bench.vault.rename(1, b"d", inner, b"deep", EXCHANGE)) == "EINVAL"
    assert refused(lambda: bench.vault.rename(inner, b"deep", 1, b"d", EXCHANGE)) == "EINVAL"
    assert refused(lambda: bench.vault.rename(inner, b"deep", 1, b"d")) == "ENOTEMPTY"


def test_link_counts_are_bounded(quick: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINK_MAX", 3)
    vault, file = quick.vault, quick.file()
    vault.link(file, 1, b"f2")
    vault.link(file, 1, b"f3")
    assert refused(lambda: vault.link(file, 1, b"f4")) == "EMLINK"
    folder, other = quick.folder(), 0
    assert vault.getattr(1).nlink == 3
    assert refused(lambda: vault.mkdir(1, b"e", 0o755, ME)) == "EMLINK"
    other = quick.folder(b"inner", folder)
    assert refused(lambda: vault.rename(folder, b"inner", 1, b"inner")) == "EMLINK"
    assert vault.getattr(other).parent == folder


def test_a_removed_directory_in_use_takes_no_new_names(bench: Bench) -> None:
    vault, folder, file = bench.vault, bench.folder(), bench.file()
    vault.remember(folder)
    vault.rmdir(1, b"d")
    assert vault.getattr(folder).nlink == 0
    assert refused(lambda: vault.mknod(folder, b"x", 0o644, 0, ME)) == "ENOENT"
    assert refused(lambda: vault.link(file, folder, b"x")) == "ENOENT"
    assert refused(lambda: vault.rename(1, b"f", folder, b"x")) == "ENOENT"
    assert [entry.name for entry in vault.readdir(folder)] == [b".", b".."]


def test_a_deleted_file_that_waits_to_be_reaped_cannot_be_linked_again(bench: Bench) -> None:
    file = bench.file()
    bench.vault.write(file, REGION_BLOCKS * BLOCK, b"x")
    bench.committed()
    bench.vault.unlink(1, b"f")
    assert bench.vault.getattr(file).nlink == 0
    assert refused(lambda: bench.vault.link(file, 1, b"again")) == "ENOENT"


def test_dot_and_dot_dot_are_found(bench: Bench) -> None:
    folder = bench.folder()
    assert bench.vault.lookup(folder, b".").ino == folder
    assert bench.vault.lookup(folder, b"..").ino == 1
    assert bench.vault.lookup(1, b"..").ino == 1


@pytest.mark.parametrize("name", [b"\xff\xfe\x80", b"n" * 255, b"with space", b"\n", "žluťoučký".encode()])
def test_names_are_any_bytes(bench: Bench, name: bytes) -> None:
    file = bench.file(name)
    bench.committed()
    vault = bench.reopen()
    assert vault.lookup(1, name).ino == file
    assert [entry.name for entry in vault.readdir(1)][2:] == [name]


def test_special_files_and_links_keep_what_they_are(bench: Bench) -> None:
    vault = bench.vault
    wanted = {b"fifo": stat.S_IFIFO, b"socket": stat.S_IFSOCK, b"char": stat.S_IFCHR, b"block": stat.S_IFBLK}
    for number, (name, kind) in enumerate(wanted.items()):
        vault.mknod(1, name, kind | 0o640, number, ME)
    vault.symlink(1, b"link", b"t" * 4095, ME)
    bench.committed()
    vault = bench.reopen(rebuild=True)
    for number, (name, kind) in enumerate(wanted.items()):
        inode = vault.lookup(1, name)
        assert (inode.mode, inode.rdev) == (kind | 0o640, number)
    link = vault.lookup(1, b"link")
    assert (vault.readlink(link.ino), link.size, link.mode) == (b"t" * 4095, 4095, stat.S_IFLNK | 0o777)
    assert {entry.name: entry.type for entry in vault.readdir(1)[2:]} == {
        b"fifo": 1, b"socket": 12, b"char": 2, b"block": 6, b"link": 10,
    }  # fmt: skip


def test_the_umask_and_a_setgid_directory_decide_owner_and_mode(bench: Bench) -> None:
    vault = bench.vault
    assert vault.mknod(1, b"plain", 0o6777, 0, Caller(5, 6, 0o027)).mode == stat.S_IFREG | 0o6750
    folder = vault.mkdir(1, b"shared", 0o2775, Caller(5, 77, 0)).ino
    file = vault.mknod(folder, b"f", 0o644, 0, Caller(8, 9, 0))
    below = vault.mkdir(folder, b"d", 0o755, Caller(8, 9, 0))
    assert (file.uid, file.gid, file.mode & 0o7777) == (8, 77, 0o644)
    assert (below.uid, below.gid, below.mode & 0o7777) == (8, 77, 0o2755)


def test_set_id_bits_fall_when_owner_or_content_change(bench: Bench) -> None:
    vault, file = bench.vault, bench.file()

    def after(change: Callable[[], object], mode: int = 0o6755) -> int:
        vault.setattr(file, Attributes(mode=mode))
        change()
        return vault.getattr(file).mode & 0o7777

    other, root = Caller(1000, 100), Caller(0, 0)
    assert after(lambda: vault.setattr(file, Attributes(uid=7))) == 0o755
    assert after(lambda: vault.setattr(file, Attributes(gid=7)), 0o6745) == 0o2745
    assert after(lambda: vault.setattr(file, Attributes(uid=8, mode=0o6755))) == 0o6755
    assert after(lambda: vault.write(file, 0, b"x", other)) == 0o755
    assert after(lambda: vault.write(file, 0, b"x", root)) == 0o6755
    assert after(lambda: vault.write(file, 0, b"x")) == 0o6755
    assert after(lambda: vault.setattr(file, Attributes(size=0), other)) == 0o755
    assert after(lambda: vault.setattr(file, Attributes(size=9), root)) == 0o6755
    folder = bench.folder()
    vault.setattr(folder, Attributes(mode=0o2755))
    assert vault.setattr(folder, Attributes(uid=3)).mode & 0o7777 == 0o2755


def test_times_follow_every_operation(quick: Bench) -> None:
    vault, file, folder = quick.vault, quick.file(data=b"x"), quick.folder()

    def moved(operation: Callable[[], object], ino: int) -> str:
        """Which of the inode's times the operation sets to now."""
        before = vault.getattr(ino)
        old = before.atime, before.mtime, before.ctime
        operation()
        after = vault.getattr(ino)
        new = after.atime, after.mtime, after.ctime
        assert all(time in (was, quick.now) for was, time in zip(old, new, strict=True))
        return "".join(name for name, was, time in zip("amc", old, new, strict=True) if was != time)

    assert moved(lambda: vault.write(file, 0, b"y"), file) == "mc"
    assert moved(lambda: vault.write(file, 0, b""), file) == ""
    assert moved(lambda: vault.read(file, 0, 1), file) == ""
    assert moved(lambda: vault.setattr(file, Attributes(size=5)), file) == "mc"
    assert moved(lambda: vault.setattr(file, Attributes(size=5)), file) == "mc"
    assert moved(lambda: vault.setattr(file, Attributes(mode=0o600)), file) == "c"
    assert moved(lambda: vault.setattr(file, Attributes(uid=1)), file) == "c"
    assert moved(lambda: vault.setxattr(file, b"user.a", b""), file) == "c"
    assert moved(lambda: vault.removexattr(file, b"user.a"), file) == "c"
    assert moved(lambda: vault.link(file, folder, b"g"), file) == "c"
    assert moved(lambda: vault.link(file, folder, b"h"), folder) == "mc"
    assert moved(lambda: vault.unlink(folder, b"h"), folder) == "mc"
    assert moved(lambda: vault.unlink(folder, b"g"), file) == "c"
    assert moved(lambda: vault.rename(1, b"f", 1, b"f2"), file) == "c"
    assert moved(lambda: vault.rename(1, b"f2", folder, b"f"), folder) == "mc"
    assert moved(lambda: vault.rename(folder, b"f", 1, b"f"), folder) == "mc"
    assert moved(lambda: vault.readdir(folder), folder) == ""
    given = vault.setattr(file, Attributes(atime=-1, mtime=2**80, ctime=3))
    assert (given.atime, given.mtime, given.ctime) == (-1, 2**63 - 1, 3)


def test_a_refused_operation_leaves_no_trace_in_the_stamp(bench: Bench) -> None:
    file = bench.file()
    stamp = bench.vault.getattr(file).stamp
    refused(lambda: bench.vault.link(file, 1, b"f"))
    assert bench.vault.getattr(file).stamp == stamp
    bench.vault.setattr(file, Attributes(mode=0o600))
    assert bench.vault.getattr(file).stamp != stamp


def test_hard_links_share_one_inode_until_the_last_is_gone(bench: Bench) -> None:
    vault, file = bench.vault, bench.file(data=b"same")
    vault.link(file, 1, b"g")
    bench.committed()
    vault = bench.reopen()
    assert vault.lookup(1, b"f").ino == vault.lookup(1, b"g").ino == file
    vault.unlink(1, b"f")
    assert (vault.getattr(file).nlink, vault.read(file, 0, 9)) == (1, b"same")
    vault.unlink(1, b"g")
    assert refused(lambda: vault.getattr(file)) == "ESTALE"


def test_rename_replaces_files_and_empty_directories(bench: Bench) -> None:
    vault = bench.vault
    file, folder, other = bench.file(data=b"new"), bench.folder(b"d"), bench.folder(b"e")
    bench.file(b"old", b"old")
    bench.folder(b"empty", other)
    bench.committed()
    vault.rename(1, b"f", 1, b"old")
    assert vault.read(vault.lookup(1, b"old").ino, 0, 9) == b"new"
    vault.rename(1, b"d", other, b"empty")
    assert (vault.lookup(other, b"empty").ino, vault.getattr(folder).parent) == (folder, other)
    assert (vault.getattr(1).nlink, vault.getattr(other).nlink) == (3, 3)
    bench.committed()
    vault = bench.reopen(rebuild=True)
    assert sorted(entry.name for entry in vault.readdir(1)) == [b".", b"..", b"e", b"old"]
    assert vault.lookup(1, b"old").ino == file


def test_exchange_swaps_names_parents_and_counts(bench: Bench) -> None:
    vault, folder = bench.vault, bench.folder()
    file, inner = bench.file(), bench.folder(b"inner", folder)
    vault.rename(1, b"f", folder, b"inner", EXCHANGE)
    assert (vault.lookup(1, b"f").ino, vault.lookup(folder, b"inner").ino) == (inner, file)
    assert (vault.getattr(1).nlink, vault.getattr(folder).nlink, vault.getattr(inner).parent) == (4, 2, 1)
    assert {entry.name: entry.type for entry in vault.readdir(folder)[2:]} == {b"inner": 8}


def test_renaming_one_link_over_another_of_the_same_file_does_nothing(bench: Bench) -> None:
    file = bench.file()
    bench.vault.link(file, 1, b"g")
    bench.committed()
    bench.vault.rename(1, b"f", 1, b"g")
    bench.vault.rename(1, b"f", 1, b"f")
    assert bench.vault.getattr(file).nlink == 2
    assert bench.committed() == []


def test_xattrs_come_back_as_they_were(bench: Bench) -> None:
    vault, file = bench.vault, bench.file()
    vault.setxattr(file, b"user.a", b"\0binary\xff")
    vault.setxattr(file, b"trusted.a", b"t", 1)
    vault.setxattr(file, b"user.a", b"new", 2)
    assert refused(lambda: vault.setxattr(file, b"user.a", b"", 1)) == "EEXIST"
    bench.committed()
    vault = bench.reopen()
    assert sorted(vault.listxattr(file)) == [b"trusted.a", b"user.a"]
    assert vault.getxattr(file, b"user.a") == b"new"
    for name in vault.listxattr(file):
        vault.removexattr(file, name)
    assert vault.listxattr(file) == []


def test_xattrs_of_one_file_are_bounded_in_total(bench: Bench) -> None:
    file = bench.file()
    for number in range(3):
        bench.vault.setxattr(file, b"user.%d" % number, bytes(65_536))
    assert refused(lambda: bench.vault.setxattr(file, b"user.more", bytes(65_536))) == "ENOSPC"


def test_inode_numbers_are_never_used_again(bench: Bench) -> None:
    seen = set()
    for _ in range(3):
        file = bench.file()
        assert file not in seen
        seen.add(file)
        bench.committed()
        bench.vault.unlink(1, b"f")
        bench.committed()
        bench.reopen()
