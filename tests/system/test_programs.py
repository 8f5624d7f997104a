"""Programs that people use every day, on a real mount."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.system.mounted import Mounted, run, until

pytestmark = pytest.mark.needs("fuse")

STDLIB = Path(sysconfig.get_paths()["stdlib"])
SKIPPED = ("__pycache__", "site-packages", "test", "idlelib", "*.so", "*.a")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real source tree: this Python's standard library without what is built."""
    tree = tmp_path_factory.mktemp("source") / "lib"
    shutil.copytree(STDLIB, tree, ignore=shutil.ignore_patterns(*SKIPPED))
    return tree


@pytest.mark.needs("tar", "diff")
def test_an_unpacked_archive_is_the_same_after_a_remount(vault: Mounted, library: Path, tmp_path: Path) -> None:
    archive = tmp_path / "lib.tar"
    run("tar", "-C", library, "-cf", archive, ".")
    (vault / "lib").mkdir()
    run("tar", "-C", vault / "lib", "-xf", archive)
    run("diff", "-r", library, vault / "lib")
    vault.remount()
    run("diff", "-r", library, vault / "lib")
    assert {p.name: p.lstat().st_mtime_ns // 10**9 for p in (vault / "lib").iterdir() if p.is_file()} == {
        p.name: p.lstat().st_mtime_ns // 10**9 for p in library.iterdir() if p.is_file()
    }
    shutil.rmtree(vault / "lib")
    assert os.listdir(vault.path) == []


@pytest.mark.needs("git")
def test_git_works_as_anywhere(vault: Mounted, library: Path) -> None:
    repository = vault / "repository"
    shutil.copytree(library / "json", repository)
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    environment = {**os.environ, **identity, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str | Path, cwd: Path = repository) -> str:
        return run("git", *arguments, cwd=cwd, env=environment).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git("status", "--porcelain") == ""
    git("clone", "-q", repository, vault / "clone")
    git("clone", "-q", "--no-hardlinks", repository, vault / "copy")
    run("diff", "-r", "-x", ".git", repository, vault / "clone")
    vault.remount()
    for place in ("repository", "clone", "copy"):
        git("fsck", "--full", "--strict", cwd=vault / place)
        assert git("status", "--porcelain", cwd=vault / place) == ""
    git("gc", "-q", "--prune=now")
    git("fsck", "--full", "--strict")


@pytest.mark.needs("rsync", "setfacl")
def test_rsync_sends_nothing_the_second_time(vault: Mounted, library: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(library / "email", source)
    os.link(source / "utils.py", source / "another name")
    os.symlink("utils.py", source / "link")
    os.setxattr(source / "utils.py", "user.note", b"kept")
    os.chmod(source / "utils.py", 0o741)
    os.mkfifo(source / "fifo")
    run("rsync", "-aHAX", f"{source}/", vault / "copy")
    vault.remount()
    again = run("rsync", "-aHAX", "--itemize-changes", "--checksum", f"{source}/", vault / "copy").stdout
    assert again == ""
    assert os.getxattr(vault / "copy/utils.py", "user.note") == b"kept"
    assert (vault / "copy/utils.py").stat().st_ino == (vault / "copy/another name").stat().st_ino


@pytest.mark.needs("fio")
def test_fio_reads_back_what_it_wrote(vault: Mounted) -> None:
    run(
        "fio", "--name=verify", f"--directory={vault.path}", "--rw=randrw", "--bs=1k-64k", "--size=16M", "--numjobs=2",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--fsync=64", "--fallocate=none",
        "--verify_state_save=0",
    )  # fmt: skip


def test_a_program_that_keeps_a_file_open_has_it_committed_within_seconds(vault: Mounted) -> None:
    """The kernel would keep its pages for half a minute."""
    before = vault.status()["durable"]
    file = os.open(vault / "log", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, b"a line that nobody synced")
    until(lambda: vault.status()["durable"] > before and not vault.status()["dirty_bytes"], "a commit", 15)
    vault.kill()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.close(file)
    vault.mount()
    assert (vault / "log").read_bytes() == b"a line that nobody synced"
