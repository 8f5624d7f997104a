"""Who may mount, who is let in, and who checks permissions: root, ordinary users, and root in a user namespace."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from atefs.mount import mountinfo
from tests.system.machine import OTHER, USER, Machine, can, machine
from tests.system.mounted import ONCE, Mounted, run, running, until

pytestmark = pytest.mark.needs("fuse", "root", "unshare", "nsenter", "setpriv")

MAY_SHARE = "user_allow_other\n"


class Owned(Mounted):
    """A vault that is somebody's own, on a machine with ordinary users."""

    def __init__(self, folder: Path, driver: str, here: Machine, before: list[str]) -> None:
        own = folder / "own"
        own.mkdir(mode=0o755)
        super().__init__(own, driver)
        self.command = here.atefs(before)

    def options(self) -> frozenset[str]:
        """How it is mounted, as the kernel tells those who live where the driver does."""
        mounts = mountinfo.parse(Path(f"/proc/{self.pid}/mountinfo").read_bytes())
        return next(mount.options for mount in mounts if mount.mountpoint == self.path)

    def clean_up(self) -> None:
        if self.pid and running(self.pid):
            os.kill(self.pid, signal.SIGTERM)
        super().clean_up()


@pytest.fixture
def folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can walk to, with a home that is the user's; pytest's own are closed."""
    made = Path(tempfile.mkdtemp(prefix="ate-"))
    made.chmod(0o755)
    shutil.copytree(home, made / "home")
    for name, value in os.environ.items():
        if value.startswith(str(home)):
            monkeypatch.setenv(name, value.replace(str(home), str(made / "home"), 1))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def stack(folder: Path) -> Iterator[ExitStack]:
    """Ends vaults first, then the namespaces that they are in, then their folder."""
    with ExitStack() as entered:
        yield entered


def said(vault: Owned, by_atefs: str) -> str:
    """All that a refused mount has said: libfuse writes the reason to the driver's log, and atefs says so."""
    return by_atefs + (vault.log.read_text() if "in the driver's log" in by_atefs else "")


def owned(stack: ExitStack, folder: Path, vault: Owned, uid: int = USER) -> Owned:
    """Make it the user's own; nothing is mounted yet."""
    own = vault.folder
    vault.path.mkdir()
    for path in (own, *own.rglob("*"), folder / "home", *(folder / "home").rglob("*")):
        os.chown(path, uid, uid)
    stack.callback(vault.clean_up)
    return vault


@pytest.mark.parametrize("arguments", [(), ("--allow-other",)])
def test_root_mounts_for_itself_or_for_all_and_then_the_kernel_checks(
    folder: Path, stack: ExitStack, driver: str, arguments: tuple[str, ...]
) -> None:
    here = stack.enter_context(machine(folder, ""))
    root, other = here.user(0), here.user(OTHER)
    vault = owned(stack, folder, Owned(folder, driver, here, root), 0)
    vault.mount(*arguments)
    asked = vault.options() & {"allow_other", "default_permissions"}
    assert asked == ({"allow_other", "default_permissions"} if arguments else set())
    public, secret = vault / "public", vault / "secret"
    assert can(root, "sh", "-c", f"chmod 755 {vault.path}; echo x > {public}; umask 777; echo y > {secret}")
    assert can(root, "cat", public, secret)
    assert can(other, "cat", public) == bool(arguments)
    assert not can(other, "cat", secret)
    assert not can(other, "touch", vault / "new")
    vault.umount()
    assert not vault.complaints()


def test_a_user_mounts_for_himself_alone_and_the_kernel_checks(folder: Path, stack: ExitStack, driver: str) -> None:
    here = stack.enter_context(machine(folder, ""))
    me, other, root = here.user(USER), here.user(OTHER), here.user(0)
    vault = owned(stack, folder, Owned(folder, driver, here, me))
    vault.mount()
    assert {"default_permissions", f"user_id={USER}", "nosuid", "nodev"} <= vault.options()
    assert "allow_other" not in vault.options()
    file = vault / "file"
    assert can(me, "sh", "-c", f"echo content > {file} && chmod 644 {file} && test -O {file}")
    assert not can(other, "cat", file)
    assert not can(root, "cat", file)
    assert not can(me, "chown", str(OTHER), file)
    assert not can(me, "mknod", vault / "device", "b", "7", "0")
    assert can(me, "chmod", "0", file)
    assert not can(me, "cat", file)
    assert can(me, "chmod", "400", file)
    vault.umount()
    vault.mount()
    assert run(*me, "cat", file).stdout == "content\n"
    assert not can(other, "fusermount3", "-u", vault.path)
    assert can(me, "fusermount3", "-u", vault.path)
    until(lambda: not running(vault.pid), "the driver to end")
    assert not vault.complaints()


def test_a_user_lets_others_in_where_the_machine_allows_it(folder: Path, stack: ExitStack, driver: str) -> None:
    here = stack.enter_context(machine(folder, MAY_SHARE))
    me, other, root = here.user(USER), here.user(OTHER), here.user(0)
    vault = owned(stack, folder, Owned(folder, driver, here, me))
    vault.mount("--allow-other")
    assert {"default_permissions", "allow_other"} <= vault.options()
    public, secret = vault / "public", vault / "secret"
    assert can(me, "sh", "-c", f"chmod 755 {vault.path}; echo x > {public}; umask 077; echo y > {secret}")
    assert can(other, "cat", public)
    assert not can(other, "cat", secret)
    assert not can(other, "touch", public)
    assert not can(other, "touch", vault / "new")
    assert can(root, "cat", secret)
    assert can(root, "chown", str(OTHER), secret)
    assert can(other, "cat", secret)
    assert not can(me, "cat", secret)
    assert not vault.complaints()


def test_where_the_machine_does_not_allow_it_the_reason_is_said(folder: Path, stack: ExitStack, driver: str) -> None:
    """And the vault that was made is whole."""
    here = stack.enter_context(machine(folder, ""))
    vault = owned(stack, folder, Owned(folder, driver, here, here.user(USER)))
    arguments = ("--driver", driver, "--passphrase-file", vault.passphrase_file, "--allow-other", vault.path)
    done = vault.atefs("mount", *arguments, check=False)
    assert done.returncode == ExitCode.NO_FUSE, done.stderr
    assert "user_allow_other" in said(vault, done.stderr)
    assert "Traceback" not in done.stderr
    vault.mount()


@ONCE
def test_nobody_mounts_on_a_folder_of_somebody_else(folder: Path, stack: ExitStack, driver: str) -> None:
    here = stack.enter_context(machine(folder, ""))
    vault = owned(stack, folder, Owned(folder, driver, here, here.user(USER)))
    os.chown(vault.path, OTHER, OTHER)
    done = vault.atefs("mount", "--passphrase-file", vault.passphrase_file, vault.path, check=False)
    assert done.returncode == ExitCode.BUSY
    assert "its owner" in done.stderr
    assert not vault.store.exists()


@pytest.mark.parametrize("uid", [0, USER])
@pytest.mark.parametrize("arguments", [(), ("--allow-other",)])
def test_root_of_a_user_namespace_mounts_for_those_in_it(
    folder: Path, stack: ExitStack, driver: str, uid: int, arguments: tuple[str, ...]
) -> None:
    here = stack.enter_context(machine(folder, ""))
    inside = stack.enter_context(here.user_namespace(uid))
    vault = owned(stack, folder, Owned(folder, driver, here, inside), uid)
    vault.mount(*arguments)
    asked = vault.options() & {"allow_other", "default_permissions"}
    assert asked == ({"allow_other", "default_permissions"} if arguments else set())
    file = vault / "file"
    assert can(inside, "sh", "-c", f"echo content > {file} && mkdir {vault / 'folder'} && chmod 600 {file}")
    assert not can(inside, "chown", str(OTHER), file)
    outside = ["nsenter", f"--target={vault.pid}", "--mount", "--", "setpriv", f"--reuid={OTHER}", "--clear-groups"]
    assert not can([*outside, "--"], "cat", file)
    vault.umount()
    vault.mount()
    assert run(*inside, "cat", file).stdout == "content\n"
    vault.umount()
    assert not vault.complaints()


@ONCE
def test_in_a_namespace_others_stay_out_whom_allow_other_would_let_in(
    folder: Path, stack: ExitStack, driver: str
) -> None:
    """What a user's own root says binds those in its namespace only: root of the machine is not fooled into it."""
    here = stack.enter_context(machine(folder, ""))
    inside = stack.enter_context(here.user_namespace(USER))
    vault = owned(stack, folder, Owned(folder, driver, here, inside))
    vault.mount("--allow-other")
    assert can(inside, "touch", vault / "file")
    assert not can(["nsenter", f"--target={vault.pid}", "--mount", "--"], "ls", vault.path)


@pytest.mark.parametrize("lacking", ["sys_admin", "no way"])
def test_root_without_the_right_to_mount_is_told_so(folder: Path, stack: ExitStack, driver: str, lacking: str) -> None:
    """As in a container that was given /dev/fuse and no more; the twin has the right."""
    here = stack.enter_context(machine(folder, ""))
    without = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"] if lacking == "sys_admin" else []
    vault = owned(stack, folder, Owned(folder, driver, here, [*here.user(0)[:-1], *without, "--"]), 0)
    arguments = ("mount", "--driver", driver, "--passphrase-file", vault.passphrase_file, vault.path)
    done = vault.atefs(*arguments, check=False)
    if lacking == "sys_admin":
        assert done.returncode == ExitCode.NO_FUSE, done.stderr
        assert "ermission denied" in said(vault, done.stderr) or "not permitted" in said(vault, done.stderr)
    else:
        assert done.returncode == 0, done.stderr
        vault.pid = vault.status()["pid"]
