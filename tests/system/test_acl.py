"""Access control lists through the kernel: who gets in, what is inherited, and that programs keep them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, run

pytestmark = pytest.mark.needs("fuse", "root", "setfacl", "getfacl")

ANNA, BERT, STAFF = 61_001, 61_002, 61_100
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@pytest.fixture
def shared(place: Mounted) -> Mounted:
    """A vault that lets everybody in."""
    place.mount("--allow-other")
    place.path.chmod(0o755)
    return place


def may(vault: Mounted, uid: int, command: str, *groups: int, umask: int = 0o022) -> bool:
    """Whether a user can do it in the vault; what comes before the vault on the path is no matter."""
    done = run(
        "sh", "-c", command, check=False, cwd=vault.path, user=uid, group=uid, extra_groups=groups, umask=umask
    )  # fmt: skip
    return done.returncode == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def lists(tree: Path) -> str:
    """All lists of a tree, as getfacl writes them, in the order of names."""
    return "\n\n".join(sorted(run("getfacl", "-R", "-n", ".", cwd=tree).stdout.strip().split("\n\n"))) + "\n"


def test_the_kernel_lets_in_whom_a_list_names_and_nobody_else(shared: Mounted) -> None:
    (shared / "file").write_text("content")
    (shared / "file").chmod(0o600)
    assert not may(shared, ANNA, "cat file")
    run("setfacl", "-m", f"u:{ANNA}:rw,g:{STAFF}:r", shared / "file")
    for _ in range(2):
        assert may(shared, ANNA, "cat file && echo more >> file")
        assert may(shared, BERT, "cat file", STAFF)
        assert not may(shared, BERT, "echo more >> file", STAFF)
        assert not may(shared, BERT, "cat file")
        shared.umount()
        shared.mount("--allow-other")
    run("setfacl", "-x", f"u:{ANNA}", shared / "file")
    assert not may(shared, ANNA, "cat file")


def test_a_directory_is_closed_to_whom_its_list_names_without_rights(shared: Mounted) -> None:
    (shared / "folder").mkdir(mode=0o755)
    (shared / "folder/file").touch()
    assert may(shared, ANNA, "ls folder && cat folder/file")
    run("setfacl", "-m", f"u:{ANNA}:-", shared / "folder")
    assert not may(shared, ANNA, "ls folder")
    assert not may(shared, ANNA, "cat folder/file")
    assert may(shared, BERT, "ls folder && cat folder/file")


def test_chmod_takes_away_what_a_list_gives(shared: Mounted) -> None:
    (shared / "file").write_text("content")
    run("setfacl", "-m", f"u:{ANNA}:rw", shared / "file")
    assert mode(shared / "file") == 0o664
    (shared / "file").chmod(0o614)
    assert not may(shared, ANNA, "cat file")
    (shared / "file").chmod(0o644)
    assert may(shared, ANNA, "cat file")
    assert not may(shared, ANNA, "echo more >> file")


@pytest.mark.parametrize("options", [("--allow-other",), ()], ids=["for all", "for root alone"])
def test_a_default_list_takes_the_place_of_the_umask(place: Mounted, options: tuple[str, ...]) -> None:
    """The kernel must hand over modes that the umask has not cut yet; its twin is the folder without a list."""
    place.mount(*options)
    (place / "shared").mkdir()
    (place / "plain").mkdir()
    run("setfacl", "-d", "-m", f"u:{ANNA}:rwx", place / "shared")
    for folder in ("shared", "plain"):
        run("sh", "-c", "touch file && mkdir folder && mkfifo fifo && ln -s x link", cwd=place / folder, umask=0o077)
    place.umount()
    place.mount(*options)
    seen = {(f, n): mode(place / f / n) for f in ("shared", "plain") for n in ("file", "folder", "fifo")}
    assert seen == {
        ("shared", "file"): 0o664, ("shared", "folder"): 0o775, ("shared", "fifo"): 0o664,
        ("plain", "file"): 0o600, ("plain", "folder"): 0o700, ("plain", "fifo"): 0o600,
    }  # fmt: skip
    assert os.getxattr(place / "shared/folder", DEFAULT) == os.getxattr(place / "shared", DEFAULT)
    assert os.listxattr(place / "plain/file") == []


def test_what_is_inherited_is_enforced_as_well(shared: Mounted) -> None:
    (shared / "folder").mkdir(mode=0o755)
    run("setfacl", "-m", f"u:{ANNA}:rwx,d:u:{BERT}:rwx,d:o:-", shared / "folder")
    assert may(shared, ANNA, "umask 077; echo content > folder/file && mkdir folder/below")
    assert may(shared, BERT, "cat folder/file && touch folder/below/file")
    assert not may(shared, 61_003, "cat folder/file || ls folder/below")


def test_a_mode_that_a_list_changes_is_seen_at_once(place: Mounted) -> None:
    """Where the kernel is not told of lists, it has to be told to forget the mode."""
    place.mount()
    (place / "file").touch(mode=0o600)
    assert mode(place / "file") == 0o600
    run("setfacl", "-m", f"u:{ANNA}:rw", place / "file")
    assert mode(place / "file") == 0o660
    run("setfacl", "-m", "u::rw,g::r,o::r,m::r", place / "file")
    run("setfacl", "-b", place / "file")
    assert mode(place / "file") == 0o644
    assert os.listxattr(place / "file") == []


def test_only_the_owner_may_set_a_list(shared: Mounted) -> None:
    (shared / "file").touch()
    os.chown(shared / "file", ANNA, ANNA)
    assert not may(shared, BERT, f"setfacl -m u:{BERT}:rw file")
    assert may(shared, ANNA, f"setfacl -m u:{BERT}:rw file")
    assert not may(shared, BERT, "setfacl -b file")
    assert may(shared, BERT, "echo content > file")


def test_the_set_group_bit_falls_when_its_owner_is_not_of_the_group(shared: Mounted) -> None:
    def after(*groups: int) -> int:
        (shared / "file").unlink(missing_ok=True)
        (shared / "file").touch()
        os.chown(shared / "file", ANNA, STAFF)
        (shared / "file").chmod(0o2755)
        assert may(shared, ANNA, f"setfacl -m u:{BERT}:rx file", *groups)
        return mode(shared / "file")

    assert after(STAFF) == 0o2755
    assert after() == 0o755


def test_what_is_no_list_is_refused(vault: Mounted) -> None:
    (vault / "file").touch()
    refused = {}
    for name, value in ((ACCESS, b"no list"), (DEFAULT, b"\2\0\0\0\1\0\7\0\xff\xff\xff\xff")):
        with pytest.raises(OSError) as error:  # noqa: PT011 - the errno is looked at
            os.setxattr(vault / "file", name, value)
        refused[name] = error.value.errno
    assert refused[ACCESS] in (errno.EINVAL, errno.EOPNOTSUPP)
    assert refused[DEFAULT] in (errno.EINVAL, errno.EACCES)
    assert os.listxattr(vault / "file") == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of this machine with lists of all kinds."""
    tree = tmp_path / "tree"
    (tree / "folder/below").mkdir(parents=True)
    for name in ("plain", "folder/file", "folder/below/file"):
        (tree / name).write_text(name)
    run("setfacl", "-m", f"u:{ANNA}:rwx,g:{STAFF}:r-x,d:u:{BERT}:rw,d:m:r", tree / "folder")
    run("setfacl", "-m", f"u:{ANNA}:rw,m::r", tree / "folder/file")
    (tree / "folder/below/file").chmod(0o4751)
    return tree


@pytest.mark.parametrize("options", [("--allow-other",), ()], ids=["for all", "for root alone"])
@pytest.mark.needs("rsync", "cp")
def test_copies_keep_every_list(place: Mounted, tree: Path, options: tuple[str, ...]) -> None:
    place.mount(*options)
    run("cp", "-a", tree, place / "cp")
    run("rsync", "-aHAX", f"{tree}/", place / "rsync")
    assert lists(place / "cp") == lists(place / "rsync") == lists(tree)
    place.umount()
    place.mount(*options)
    assert lists(place / "cp") == lists(place / "rsync") == lists(tree)
    assert run("rsync", "-aHAX", "--itemize-changes", f"{tree}/", place / "rsync").stdout == ""
    assert run("rsync", "-aHAX", "--itemize-changes", f"{place / 'cp'}/", tree).stdout == ""
    run("setfacl", "-m", f"u:{BERT}:r", place / "rsync/plain")
    assert run("rsync", "-aHAX", "--itemize-changes", f"{tree}/", place / "rsync").stdout != ""


def test_lists_that_were_saved_are_restored(shared: Mounted, tree: Path, tmp_path: Path) -> None:
    run("cp", "-a", tree, shared / "tree")
    saved = tmp_path / "saved"
    saved.write_text(lists(shared / "tree"))
    run("setfacl", "-R", "-b", shared / "tree")
    assert lists(shared / "tree") != saved.read_text()
    run("setfacl", f"--restore={saved}", cwd=shared / "tree")
    assert lists(shared / "tree") == saved.read_text() == lists(tree)


def test_noacl_leaves_them_out(place: Mounted) -> None:
    place.mount("--allow-other")
    (place / "file").touch()
    run("setfacl", "-m", f"u:{ANNA}:rw", place / "file")
    place.umount()
    place.mount("--allow-other", "-o", "noacl")
    assert os.listxattr(place / "file") == []
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is looked at
        os.getxattr(place / "file", ACCESS)
    assert refused.value.errno == errno.EOPNOTSUPP
    place.remount()
    assert os.listxattr(place / "file") == [ACCESS]


def test_lists_cost_no_request_where_files_are_made_and_looked_at(place: Mounted) -> None:
    """Counted for its owner, with lists and without: the kernel must not ask for the lists of each file."""
    counts = {}
    files = 200
    for option in ("acl", "noacl"):
        place.mount("--allow-other", "-o", option)
        before = place.status()["requests"]
        for number in range(files):
            (place / f"{option}{number}").write_bytes(b"x")
        for number in range(files):
            (place / f"{option}{number}").stat()
        counts[option] = place.status()["requests"] - before
        place.umount()
    assert counts["acl"] < counts["noacl"] + files / 4, counts
