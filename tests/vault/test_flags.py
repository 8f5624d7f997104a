"""chattr: what immutable and append-only files and directories refuse, and that they refuse nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from atedb.errors import ReadOnlyError
from atefs.errors import NotPermittedError, NotSupportedError, StaleError
from atefs.vault.flags import APPEND, IMMUTABLE, INHERITED, NOATIME, NODUMP
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK
from atefs.vault.rename import EXCHANGE
from atefs.vault.vault import Vault
from tests.vault.conftest import ME, Bench

Calls = dict[str, Callable[[], object]]


def of_file(vault: Vault, file: int) -> Calls:
    """What changes a file that is `f` in the root directory, beside which there is a file `other`."""
    return {
        "write": lambda: vault.write(file, 0, b"x"),
        "truncate": lambda: vault.setattr(file, Attributes(size=1)),
        "grow": lambda: vault.setattr(file, Attributes(size=100)),
        "chmod": lambda: vault.setattr(file, Attributes(mode=0o600)),
        "chown": lambda: vault.setattr(file, Attributes(uid=5)),
        "chgrp": lambda: vault.setattr(file, Attributes(gid=5)),
        "times": lambda: vault.setattr(file, Attributes(mtime=5)),
        "setxattr": lambda: vault.setxattr(file, b"user.a", b"x"),
        "removexattr": lambda: vault.removexattr(file, b"user.old"),
        "punch": lambda: vault.punch_hole(file, 0, 2),
        "zero": lambda: vault.zero_range(file, 0, 2),
        "allocate": lambda: vault.allocate(file, 0, 100),
        "open to write": lambda: vault.check_open(file, os.O_WRONLY),
        "open for both": lambda: vault.check_open(file, os.O_RDWR),
        "open to append": lambda: vault.check_open(file, os.O_WRONLY | os.O_APPEND),
        "open to cut": lambda: vault.check_open(file, os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
        "link": lambda: vault.link(file, 1, b"g"),
        "exchange": lambda: vault.rename(1, b"f", 1, b"other", EXCHANGE),
        "exchange the other way": lambda: vault.rename(1, b"other", 1, b"f", EXCHANGE),
        "rename": lambda: vault.rename(1, b"f", 1, b"h"),
        "rename over it": lambda: vault.rename(1, b"other", 1, b"f"),
        "unlink": lambda: vault.unlink(1, b"f"),
    }


def of_directory(vault: Vault, folder: int) -> Calls:
    """What changes a directory that has a file `inside` and an empty directory `empty`, or what is in it."""
    return {
        "chmod": lambda: vault.setattr(folder, Attributes(mode=0o700)),
        "setxattr": lambda: vault.setxattr(folder, b"user.a", b"x"),
        "create": lambda: vault.mknod(folder, b"new", stat.S_IFREG | 0o600, 0, ME),
        "mkdir": lambda: vault.mkdir(folder, b"newdir", 0o700, ME),
        "symlink": lambda: vault.symlink(folder, b"newlink", b"to", ME),
        "tmpfile": lambda: vault.tmpfile(folder, 0o600, ME),
        "link": lambda: vault.link(vault.lookup(1, b"f").ino, folder, b"hard"),
        "rename into it": lambda: vault.rename(1, b"f", folder, b"moved"),
        "rename over what is in it": lambda: vault.rename(1, b"other", folder, b"inside"),
        "rename out of it": lambda: vault.rename(folder, b"inside", 1, b"moved out"),
        "exchange": lambda: vault.rename(folder, b"empty", 1, b"other", EXCHANGE),
        "unlink": lambda: vault.unlink(folder, b"inside"),
        "rmdir": lambda: vault.rmdir(folder, b"empty"),
        "rename it": lambda: vault.rename(1, b"d", 1, b"e"),
    }


GROWING = {"write", "allocate", "times", "open to append"}
ADDING = {"create", "mkdir", "symlink", "tmpfile", "link", "rename into it"}


def prepared(bench: Bench) -> tuple[int, int]:
    file, folder = bench.file(data=b"content"), bench.folder()
    bench.vault.setxattr(file, b"user.old", b"x")
    bench.file(b"other")
    bench.file(b"inside", b"stays", folder)
    bench.vault.mkdir(folder, b"empty", 0o755, ME)
    return file, folder


def refused(calls: Calls) -> set[str]:
    """Which of them raise NotPermittedError; a call that does not is done."""
    found = set()
    for name, call in calls.items():
        try:
            call()
        except NotPermittedError:
            found.add(name)
    return found


def test_nothing_about_an_immutable_file_changes(bench: Bench) -> None:
    file, _ = prepared(bench)
    bench.vault.set_flags(file, IMMUTABLE)
    stamp = bench.vault.getattr(file).stamp
    calls = of_file(bench.vault, file)
    assert refused(calls) == set(calls)
    assert (bench.vault.getattr(file).stamp, bench.vault.read(file, 0, 9)) == (stamp, b"content")
    bench.vault.check_open(file, os.O_RDONLY)


def test_nothing_about_an_immutable_directory_changes(bench: Bench) -> None:
    _, folder = prepared(bench)
    bench.vault.set_flags(folder, IMMUTABLE)
    stamp = bench.vault.getattr(folder).stamp
    calls = of_directory(bench.vault, folder)
    assert refused(calls) == set(calls)
    assert bench.vault.getattr(folder).stamp == stamp
    inside = bench.vault.lookup(folder, b"inside").ino
    bench.vault.write(inside, 0, b"the files in it are not immutable")


def test_an_append_only_file_grows_and_nothing_else(bench: Bench) -> None:
    file, _ = prepared(bench)
    bench.vault.set_flags(file, APPEND)
    calls = of_file(bench.vault, file)
    assert refused(calls) == set(calls) - GROWING


def test_an_append_only_directory_gets_entries_and_loses_none(bench: Bench) -> None:
    _, folder = prepared(bench)
    bench.vault.set_flags(folder, APPEND)
    calls = of_directory(bench.vault, folder)
    assert refused(calls) == set(calls) - ADDING


@pytest.mark.parametrize("flags", [0, NODUMP, NOATIME, NODUMP | NOATIME])
def test_other_flags_forbid_nothing(flags: int) -> None:
    for subject, calls_of in enumerate((of_file, of_directory)):
        for name in calls_of(Bench(None).vault, 1):
            bench = Bench(None)
            ino = prepared(bench)[subject]
            bench.vault.set_flags(ino, IMMUTABLE)
            bench.vault.set_flags(ino, flags)
            assert bench.vault.get_flags(ino) == flags
            assert refused({name: calls_of(bench.vault, ino)[name]}) == set()


def test_flags_come_back_after_a_crash_and_still_bind(bench: Bench) -> None:
    file, folder = prepared(bench)
    bench.vault.set_flags(file, IMMUTABLE | NODUMP)
    bench.vault.set_flags(folder, APPEND)
    bench.committed()
    bench.vault.set_flags(file, 0)
    vault = bench.reopen(rebuild=True)
    assert (vault.get_flags(file), vault.get_flags(folder)) == (IMMUTABLE | NODUMP, APPEND)
    assert (vault.read(file, 0, 9), vault.getattr(file).size) == (b"content", 7)
    with pytest.raises(NotPermittedError):
        vault.unlink(1, b"f")
    with pytest.raises(NotPermittedError):
        vault.unlink(folder, b"inside")


def test_setting_flags_keeps_the_content_and_moves_ctime_only(bench: Bench) -> None:
    for data in (b"inline", os.urandom(2 * BLOCK)):
        file = bench.file(b"%d" % len(data), data)
        bench.committed()
        vault = bench.reopen()
        before = vault.getattr(file)
        mtime, ctime = before.mtime, before.ctime
        inode = vault.set_flags(file, NODUMP)
        assert (inode.mtime, inode.ctime > ctime) == (mtime, True)
        bench.committed()
        assert bench.reopen(rebuild=True).read(file, 0, 3 * BLOCK) == data


def test_an_immutable_file_keeps_its_other_flags_until_it_is_not(bench: Bench) -> None:
    file = bench.file()
    bench.vault.set_flags(file, IMMUTABLE | NODUMP)
    for flags in (IMMUTABLE, IMMUTABLE | NODUMP | NOATIME, IMMUTABLE | APPEND | NODUMP):
        with pytest.raises(NotPermittedError):
            bench.vault.set_flags(file, flags)
    bench.vault.set_flags(file, IMMUTABLE | NODUMP)
    bench.vault.set_flags(file, APPEND)
    assert bench.vault.get_flags(file) == APPEND


def test_only_files_and_directories_have_flags_and_only_the_known_ones(bench: Bench) -> None:
    file, link = bench.file(), bench.vault.symlink(1, b"l", b"f", ME).ino
    fifo = bench.vault.mknod(1, b"p", stat.S_IFIFO | 0o600, 0, ME).ino
    for ino in (link, fifo):
        with pytest.raises(NotSupportedError):
            bench.vault.get_flags(ino)
        with pytest.raises(NotSupportedError):
            bench.vault.set_flags(ino, IMMUTABLE)
    for unknown in (0x1, 0x4, IMMUTABLE | 0x8, 1 << 40):
        with pytest.raises(NotSupportedError):
            bench.vault.set_flags(file, unknown)
    assert bench.vault.get_flags(file) == 0


def test_a_read_only_vault_shows_flags_and_sets_none(quick: Bench) -> None:
    file = quick.file()
    quick.vault.set_flags(file, APPEND)
    quick.committed()
    vault = Vault(quick.chain, read_only=True)
    assert vault.get_flags(file) == APPEND
    with pytest.raises(ReadOnlyError):
        vault.set_flags(file, 0)


def test_what_is_made_in_a_directory_takes_no_dump_and_no_access_time_from_it(bench: Bench) -> None:
    folder = bench.folder()
    bench.vault.set_flags(folder, APPEND | NODUMP | NOATIME)
    made = [
        bench.vault.mknod(folder, b"f", stat.S_IFREG | 0o600, 0, ME),
        bench.vault.mkdir(folder, b"d", 0o700, ME),
        bench.vault.tmpfile(folder, 0o600, ME),
    ]
    assert [inode.flags for inode in made] == [INHERITED] * 3


def test_what_was_appended_is_accepted_in_whole_pages(bench: Bench) -> None:
    file = bench.file(data=b"one ")
    bench.vault.set_flags(file, APPEND)
    bench.vault.write(file, 0, b"one two")
    assert bench.vault.read(file, 0, 99) == b"one two"


def test_a_nameless_file_that_is_immutable_is_still_reaped(bench: Bench) -> None:
    ino = bench.vault.tmpfile(1, 0o600, ME).ino
    bench.vault.remember(ino)
    bench.vault.set_flags(ino, IMMUTABLE)
    with pytest.raises(NotPermittedError):
        bench.vault.link(ino, 1, b"name")
    bench.committed()
    bench.reopen(rebuild=True)
    bench.settle_down()
    with pytest.raises(StaleError):
        bench.vault.getattr(ino)
