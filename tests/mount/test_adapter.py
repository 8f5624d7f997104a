"""The adapter without a kernel: errors, retries, and what is answered from memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pyfuse3
import pytest
import trio
from pyfuse3 import FUSEError

from atedb.errors import DamagedError, NoSpaceError, NotResident
from atefs.errors import ExistsError, NotFoundError
from atefs.mount import errnos
from atefs.mount.adapter_pyfuse3 import PyfuseAdapter
from atefs.mount.loop import RequestLoop
from atefs.vault import acl
from atefs.vault.inode import Inode


class Caller:
    uid = gid = pid = 1000
    umask = 0o022


class FakeCommitter:
    full = False
    writers = 0
    touches = 0
    error: Exception | None = None

    def touch(self) -> None:
        self.touches += 1

    def check(self) -> None:
        if self.error:
            raise self.error


class FakeVault:
    """One file named b"there"; `raising` is what the next calls raise, one after the other."""

    notes_every_read = False

    def __init__(self) -> None:
        self.raising: list[Exception] = []
        self.outdated: set[int] = set()
        self.outdated_names: set[tuple[int, bytes]] = set()
        self.remembered = 0
        self.inode = Inode(7, 0o100644, 1, 2, 1, 10, 8, -1, 2_000_000_003, 4, 5, stamp=1)
        self.written: list[bytes] = []
        self.in_group: list[bool] = []
        self.accesses = 0

    def _may_raise(self) -> None:
        if self.raising:
            raise self.raising.pop(0)

    def lookup(self, parent: int, name: bytes) -> Inode:
        self._may_raise()
        if name != b"there":
            raise NotFoundError("no")
        return self.inode

    def mknod(self, *_: object) -> Inode:
        self._may_raise()
        return self.inode

    def getattr(self, ino: int) -> Inode:
        self._may_raise()
        return self.inode

    def setxattr(self, ino: int, name: bytes, value: bytes, *, in_group: bool = True) -> None:
        self.in_group.append(in_group)

    def listxattr(self, ino: int) -> list[bytes]:
        return list(self.inode.xattrs or ())

    def read(self, ino: int, offset: int, size: int) -> bytes:
        return bytes(size)

    def note_access(self, ino: int) -> bool:
        self._may_raise()
        self.accesses += 1
        return False

    def write(self, ino: int, offset: int, data: bytes) -> int:
        self._may_raise()
        self.written.append(data)
        return len(data)

    def remember(self, ino: int, n: int = 1) -> None:
        self.remembered += n


class Scene:
    def __init__(self) -> None:
        self.vault = FakeVault()
        self.committer = FakeCommitter()
        self.fetched = 0
        self.adapter = PyfuseAdapter(cast(Any, self.vault), cast(Any, self.committer), RequestLoop())

    def absent(self) -> NotResident:
        def fetch() -> None:
            self.fetched += 1

        return NotResident(fetch)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def at_once(handler: Coroutine[Any, Any, Any]) -> Any:
    """What a handler answers; it must not suspend."""
    try:
        handler.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the handler went to the scheduler")


def in_trio(handler: Coroutine[Any, Any, Any]) -> Any:
    """What a handler answers that has to wait for something."""

    async def main() -> Any:
        return await handler

    return trio.run(main)


def refusal(handler: Coroutine[Any, Any, Any]) -> int:
    """The errno that a handler answers."""
    with pytest.raises(FUSEError) as refused:
        in_trio(handler)
    return refused.value.errno


def test_what_is_in_memory_is_answered_without_the_scheduler(scene: Scene) -> None:
    entry = at_once(scene.adapter.lookup(1, b"there", cast(Any, Caller)))
    assert (entry.st_ino, entry.st_uid, entry.st_gid, entry.st_size) == (7, 1, 2, 10)
    assert (entry.st_atime_ns, entry.st_mtime_ns) == (-1, 2_000_000_003)
    handle = at_once(scene.adapter.open(7, os.O_WRONLY, cast(Any, Caller)))
    assert at_once(scene.adapter.write(handle.fh, 0, b"data")) == 4
    at_once(scene.adapter.flush(handle.fh))
    at_once(scene.adapter.release(handle.fh))
    assert scene.committer.writers == 0
    assert scene.committer.touches == 1
    assert scene.vault.remembered == 1


def test_attributes_are_built_anew_only_after_a_change(scene: Scene) -> None:
    first = at_once(scene.adapter.getattr(7, cast(Any, Caller)))
    assert at_once(scene.adapter.getattr(7, cast(Any, Caller))) is first
    scene.vault.inode.size, scene.vault.inode.stamp = 11, 2
    assert at_once(scene.adapter.getattr(7, cast(Any, Caller))).st_size == 11


def test_a_name_that_is_not_there_is_remembered_by_the_kernel(scene: Scene) -> None:
    nowhere = at_once(scene.adapter.lookup(1, b"nothing", cast(Any, Caller)))
    assert nowhere.st_ino == 0
    assert nowhere.entry_timeout > 1000
    assert scene.vault.remembered == 0


def test_what_is_not_in_memory_is_fetched_and_the_call_repeated(scene: Scene) -> None:
    scene.vault.raising = [scene.absent(), scene.absent()]
    assert in_trio(scene.adapter.lookup(1, b"there", cast(Any, Caller))).st_ino == 7
    assert scene.fetched == 2
    scene.vault.raising = [scene.absent()]
    assert in_trio(scene.adapter.lookup(1, b"nothing", cast(Any, Caller))).st_ino == 0


def test_a_fetch_that_never_helps_ends_in_reading_on_the_spot(scene: Scene) -> None:
    scene.vault.raising = [scene.absent() for _ in range(10)]
    assert in_trio(scene.adapter.getattr(7, cast(Any, Caller))).st_ino == 7
    assert scene.fetched >= 9


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (NoSpaceError("full"), errno.ENOSPC),
        (DamagedError("flipped"), errno.EIO),
        (ExistsError("there"), errno.EEXIST),
        (OSError(errno.EMFILE, "too many"), errno.EMFILE),
        (MemoryError(), errno.ENOMEM),
    ],
)
def test_each_error_has_its_errno(scene: Scene, error: Exception, answer: int) -> None:
    scene.vault.raising = [error]
    assert refusal(scene.adapter.getattr(7, cast(Any, Caller))) == answer


@pytest.mark.expect_log("a request failed with ZeroDivisionError")
def test_a_defect_is_logged_and_costs_one_caller_eio(scene: Scene) -> None:
    scene.vault.raising = [ZeroDivisionError()]
    assert refusal(scene.adapter.getattr(7, cast(Any, Caller))) == errno.EIO
    assert in_trio(scene.adapter.getattr(7, cast(Any, Caller))).st_ino == 7


def test_access_times_are_asked_about_when_files_are_opened_for_reading_and_not_at_each_read(scene: Scene) -> None:
    context = cast(Any, Caller())
    for flags, accesses in ((os.O_RDONLY, 1), (os.O_WRONLY, 1), (os.O_RDONLY | os.O_NOATIME, 1), (os.O_RDWR, 2)):
        handle = at_once(scene.adapter.open(7, flags, context)).fh
        at_once(scene.adapter.read(handle, 0, 1))
        assert scene.vault.accesses == accesses
    scene.vault.notes_every_read = True
    handle = at_once(scene.adapter.open(7, os.O_RDONLY, context)).fh
    for _ in range(2):
        at_once(scene.adapter.read(handle, 0, 1))
    assert scene.vault.accesses == 5
    handle = at_once(scene.adapter.open(7, os.O_RDONLY | os.O_NOATIME, context)).fh
    at_once(scene.adapter.read(handle, 0, 1))
    assert scene.vault.accesses == 5


def test_where_too_much_has_gathered_access_times_are_let_go_and_readers_do_not_wait(scene: Scene) -> None:
    scene.committer.full = True
    at_once(scene.adapter.open(7, os.O_RDONLY, cast(Any, Caller())))
    assert scene.vault.accesses == 0


def test_close_reports_a_commit_that_failed_to_whoever_wrote(scene: Scene) -> None:
    scene.committer.error = NoSpaceError("full")
    assert refusal(scene.adapter.flush(7 << 1 | 1)) == errno.ENOSPC
    at_once(scene.adapter.flush(7 << 1))


def test_attributes_that_nobody_set_cost_no_more_than_a_look(scene: Scene) -> None:
    for name in (b"security.capability", b"user.none"):
        assert refusal(scene.adapter.getxattr(7, name, cast(Any, Caller))) == errno.ENODATA
    scene.vault.inode.xattrs = {b"security.capability": b"set"}
    assert at_once(scene.adapter.getxattr(7, b"security.capability", cast(Any, Caller))) == b"set"
    assert refusal(scene.adapter.getxattr(7, b"system.posix_acl_access", cast(Any, Caller))) == errno.ENODATA
    assert refusal(scene.adapter.getxattr(7, b"system.unknown", cast(Any, Caller))) == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("options", "kernel_checks", "known"),
    [({"default_permissions"}, True, True), (set(), False, True), ({"default_permissions", "noacl"}, False, False)],
)
def test_the_kernel_looks_after_acls_where_it_checks_permissions_unless_told_not_to(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, options: set[str], kernel_checks: bool, known: bool
) -> None:
    told: list[set[str]] = []
    monkeypatch.setattr(pyfuse3, "init", lambda _adapter, _mountpoint, wanted: told.append(wanted))
    monkeypatch.setattr(pyfuse3, "trio", trio)
    scene.vault.inode.xattrs = {acl.ACCESS: b"list", b"user.a": b""}
    scene.adapter.attach(Path("/nowhere"), frozenset(options))
    assert told[0] == {"fsname=atefs", "subtype=atefs", *options} - {"noacl"}
    assert scene.adapter.enable_acl == kernel_checks
    assert (acl.ACCESS in at_once(scene.adapter.listxattr(7, cast(Any, Caller)))) == known
    if not known:
        for refused in (
            scene.adapter.getxattr(7, acl.ACCESS, cast(Any, Caller)),
            scene.adapter.setxattr(7, acl.ACCESS, b"", cast(Any, Caller)),
            scene.adapter.removexattr(7, acl.ACCESS, cast(Any, Caller)),
        ):
            assert refusal(refused) == errno.EOPNOTSUPP


def test_who_is_of_a_file_s_group_is_asked_only_where_it_matters(scene: Scene) -> None:
    """A caller whose groups cannot be known is taken not to be of it: the set-group bit falls then."""

    class Stranger(Caller):
        pid = 0

    class Member(Stranger):
        gid = 2

    class Root(Stranger):
        uid = 0

    scene.adapter.enable_acl = True
    at_once(scene.adapter.setxattr(7, acl.ACCESS, b"", cast(Any, Stranger)))
    scene.vault.inode.mode |= 0o2000
    for caller in (Stranger, Member, Root):
        at_once(scene.adapter.setxattr(7, acl.ACCESS, b"", cast(Any, caller)))
    assert scene.vault.in_group == [True, False, True, True]


def test_a_file_that_was_made_since_the_kernel_looked_is_not_taken_for_a_new_one(scene: Scene) -> None:
    """The kernel cuts no file that it takes for new, nor does it check who may open it; told ESTALE, it looks anew."""
    for flags, answer in ((os.O_TRUNC, errno.ESTALE), (os.O_EXCL, errno.EEXIST)):
        for before in ([], [scene.absent()]):
            scene.vault.raising = [*before, ExistsError("there")]
            assert refusal(scene.adapter.create(1, b"there", 0o644, flags | os.O_WRONLY, cast(Any, Caller))) == answer
    assert (scene.vault.remembered, scene.committer.writers) == (0, 0)


def told(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[tuple[Any, ...]]:
    """Collects what the kernel is told; error: what each notice raises."""
    notices: list[tuple[Any, ...]] = []

    def notice(*what: Any) -> None:
        notices.append(what)
        if error is not None:
            raise error

    monkeypatch.setattr(pyfuse3, "invalidate_inode", notice)
    monkeypatch.setattr(pyfuse3, "invalidate_entry", notice)
    return notices


def test_the_kernel_is_told_of_attributes_and_content_before_names_for_which_it_may_wait_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices = told(monkeypatch)
    scene.adapter.outdate([5], [6], [(7, b"name")])
    assert notices == [(5, True), (6, False), (7, b"name")]


@pytest.mark.expect_log("the kernel did not take that something has changed: .*Cannot allocate memory")
def test_a_notice_that_the_kernel_does_not_take_is_logged_and_the_others_are_given(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notices = told(monkeypatch, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    scene.adapter.outdate([1, 2], [3], [(4, b"name")])
    assert len(notices) == 4
    assert len(caplog.records) == 1


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.ENODEV])
def test_that_the_kernel_has_nothing_to_forget_is_nothing_to_complain_about(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    notices = told(monkeypatch, OSError(code, os.strerror(code)))
    scene.adapter.outdate([1], [2], [(3, b"name")])
    assert len(notices) == 3


def test_every_request_of_pyfuse3_that_a_filesystem_needs_has_a_handler() -> None:
    """The negative twin of what the adapter's text lists as refused: nothing is left out by accident."""
    left_to_the_library = {"stacktrace", "poll"}
    named = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")}
    handlers = {name for name in named if callable(getattr(pyfuse3.Operations, name))}
    assert handlers - set(vars(PyfuseAdapter)) == left_to_the_library


def test_what_is_unknown_has_no_errno() -> None:
    assert errnos.errno_of(RuntimeError()) is None
