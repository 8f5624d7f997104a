"""Random file operations in two roots, as a state machine (hypothesis): few names, so that operations meet."""

from __future__ import annotations

import os
import stat
from functools import reduce
from operator import or_
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.system.two_roots import USER, TwoRoots

BLOCK, REGION = 128 * 1024, 8 * 1024 * 1024
"""Where content changes its form in a vault, see docs/architecture.md."""
NOREPLACE, EXCHANGE = 1, 2

processes = st.sampled_from([0, 0, 1])
names = st.sampled_from(["a", "b", "d"])
paths = st.one_of(
    names,
    names,
    st.builds("{}/{}".format, names, names),
    st.builds("{}/{}".format, names, names),
    st.sampled_from(["a", "b", "d", "d/d/a", "a/", "d/.", "d/..", ".", "d/a/..", "n" * 255, "n" * 256, ""]),
)
numbers = st.integers(0, 2)
picks = st.integers(0, 100)
modes = st.sampled_from([0o644, 0o755, 0o600, 0o777, 0o000, 0o4755, 0o2755, 0o2644, 0o6777, 0o1777, 0o2770, 0o666])
owners = st.sampled_from([-1, 0, USER])
follows = st.booleans()
flags = st.builds(
    lambda access, extra: reduce(or_, extra, access),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_CREAT]),
    st.lists(
        st.sampled_from(
            [os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_SYNC]
        ),
        max_size=3,
    ),
)
edges = st.sampled_from([0, 0, 4096, 8192, BLOCK, 2 * BLOCK, REGION])
offsets = st.builds(lambda edge, nudge: max(0, edge + nudge), edges, st.sampled_from([-4097, -1, 0, 1, 3, 511, 5000]))
lengths = st.sampled_from([0, 1, 2, 100, 511, 4095, 4096, 4097, 8192, 20_000, BLOCK, BLOCK + 1])
fills = st.integers(1, 255)
instants = st.sampled_from(
    [-1, -1_500_000_001, -(10**18), 0, 1, 999_999_999, 1_234_567_890_123_456_789, 4_102_444_800_000_000_000]
)
attributes = st.sampled_from(["user.a", "user.a", "user.b", "trusted.a", "user." + "n" * 250])
values = st.sampled_from([b"", b"v", b"\0\xff", b"x" * 3000])


class TwoRootsMachine(RuleBasedStateMachine):
    """Random operations. `roots` and how often an example may mount anew are set by a subclass."""

    roots: TwoRoots
    mounts = 1

    def __init__(self) -> None:
        super().__init__()
        self.roots.begin()
        self.opened: set[tuple[int, int]] = set()
        self.mapped: set[tuple[int, int]] = set()
        self.ever_mapped = False
        self.mounts_left = self.mounts

    def teardown(self) -> None:
        try:
            if self.roots.alike:
                self.roots.compare()
        finally:
            self.roots.finish()

    def both(self, process: int, operation: str, *arguments: Any) -> bool:
        """See `TwoRoots.both`. True: it went well."""
        return not self.roots.both(process, operation, *arguments)[0]

    def handle(self, pick: int) -> tuple[int, int]:
        """Some open handle, by process and number."""
        found = sorted(self.opened)
        return found[pick % len(found)]

    @initialize(content=st.binary(max_size=20))
    def something_to_start_with(self, content: bytes) -> None:
        self.both(0, "mkdir", "d", 0o777)
        self.both(0, "open", 0, "a", os.O_RDWR | os.O_CREAT, 0o666)
        self.both(0, "write", 0, content * 300)
        self.both(0, "utimens", "a", (1, 2), True)
        self.opened.add((0, 0))

    # Handles

    @rule(process=processes, number=numbers, path=paths, flags=flags, mode=modes)
    def open_file(self, process: int, number: int, path: str, flags: int, mode: int) -> None:
        if self.both(process, "open", number, path, flags, mode):
            self.opened.add((process, number))

    @precondition(lambda self: self.opened)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        process, number = self.handle(pick)
        self.both(process, "close", number)
        self.opened.discard((process, number))

    @precondition(lambda self: self.opened)
    @rule(pick=picks, offset=st.none() | offsets, length=lengths, fill=fills)
    def write(self, pick: int, offset: int | None, length: int, fill: int) -> None:
        process, number = self.handle(pick)
        data = bytes([fill]) * length
        if offset is None:
            self.both(process, "write", number, data)
        else:
            self.both(process, "pwrite", number, data, offset)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, pages=st.lists(st.integers(0, 31), max_size=40), step=st.sampled_from([1, 5, 4096]), fill=fills)
    def write_scattered(self, pick: int, pages: list[int], step: int, fill: int) -> None:
        """Many small overwrites of one block, each written out: it is patched, and merged at some point."""
        process, number = self.handle(pick)
        for page in pages:
            self.both(process, "pwrite", number, bytes([fill]) * min(step, 4096), page * step)
            self.both(process, "fsync", number, True)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, offset=offsets, length=lengths)
    def read(self, pick: int, offset: int, length: int) -> None:
        process, number = self.handle(pick)
        self.both(process, "pread", number, length, offset)
        self.both(process, "seek_end", number)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, size=offsets)
    def ftruncate(self, pick: int, size: int) -> None:
        process, number = self.handle(pick)
        self.both(process, "ftruncate", number, size)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, source=numbers, length=lengths, offset=offsets, to=offsets)
    def copy_range(self, pick: int, source: int, length: int, offset: int, to: int) -> None:
        process, number = self.handle(pick)
        if (process, source) in self.opened:
            self.both(process, "copy_range", source, number, length, offset, to)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, how=st.sampled_from(["fsync", "fdatasync", "evict", "evict"]))
    def fsync(self, pick: int, how: str) -> None:
        process, number = self.handle(pick)
        if how == "evict":
            self.both(process, "evict", number)
        else:
            self.both(process, "fsync", number, how == "fdatasync")

    @precondition(lambda self: self.opened)
    @rule(pick=picks, mode=modes, uid=owners, gid=owners, change=st.sampled_from(["mode", "owner", "times", "none"]),
          atime=instants, mtime=instants)  # fmt: skip
    def attributes_of_a_handle(
        self, *, pick: int, mode: int, uid: int, gid: int, change: str, atime: int, mtime: int
    ) -> None:
        process, number = self.handle(pick)
        if change == "mode":
            self.both(process, "fchmod", number, mode)
        elif change == "owner" and not uid == gid == -1:
            self.both(process, "fchown", number, uid, gid)
        elif change == "times":
            self.both(process, "futimens", number, atime, mtime)
        self.both(process, "fstat", number)

    @precondition(lambda self: self.opened)
    @rule(pick=picks, name=names, folder=st.booleans())
    def make_in_an_open_folder(self, pick: int, name: str, folder: bool) -> None:
        process, number = self.handle(pick)
        self.both(process, "make_at", number, name, folder)

    # Mappings

    @precondition(lambda self: self.opened)
    @rule(pick=picks, writable=st.booleans())
    def map(self, pick: int, writable: bool) -> None:
        process, number = self.handle(pick)
        if self.roots.map(process, number, writable):
            self.mapped.add((process, number))
            self.ever_mapped = True

    @precondition(lambda self: self.mapped)
    @rule(pick=picks, offset=offsets, length=lengths, fill=fills, sync=st.booleans(), drop=st.booleans())
    def store(self, *, pick: int, offset: int, length: int, fill: int, sync: bool, drop: bool) -> None:
        found = sorted(self.mapped)
        process, number = found[pick % len(found)]
        self.both(process, "fetch", number, offset, length)
        self.both(process, "store", number, offset, bytes([fill]) * length, sync)
        if drop:
            self.both(process, "unmap", number)
            self.mapped.discard((process, number))

    # Names

    @rule(process=processes, path=paths, mode=modes)
    def mkdir(self, process: int, path: str, mode: int) -> None:
        self.both(process, "mkdir", path, mode)

    @rule(process=processes, path=paths, kind=st.sampled_from([0, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]),
          mode=modes)  # fmt: skip
    def mknod(self, process: int, path: str, kind: int, mode: int) -> None:
        self.both(process, "mknod", path, kind | mode, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)

    @rule(process=processes, path=paths, to=st.sampled_from(["a", "b", "d", "../a", "d/a", ".", "t" * 4095]))
    def symlink(self, process: int, path: str, to: str) -> None:
        self.both(process, "symlink", to, path)
        self.both(process, "readlink", path)

    @rule(process=processes, path=paths, new=paths)
    def link(self, process: int, path: str, new: str) -> None:
        self.both(process, "link", path, new)

    @rule(process=processes, path=paths, operation=st.sampled_from(["unlink", "rmdir", "listing", "readlink"]))
    def remove_or_look(self, process: int, path: str, operation: str) -> None:
        self.both(process, operation, path)

    @rule(process=processes, path=paths, new=paths, flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE, 3, 8]))
    def rename(self, process: int, path: str, new: str, flags: int) -> None:
        self.both(process, "rename", path, new, flags)

    # Attributes

    @rule(process=processes, path=paths, follow=follows)
    def look(self, process: int, path: str, follow: bool) -> None:
        self.both(process, "stat", path, follow)

    @rule(process=processes, path=paths, size=offsets)
    def truncate(self, process: int, path: str, size: int) -> None:
        self.both(process, "truncate", path, size)

    @rule(process=processes, path=paths, mode=modes)
    def chmod(self, process: int, path: str, mode: int) -> None:
        self.both(process, "chmod", path, mode)

    @rule(process=processes, path=paths, uid=owners, gid=owners, follow=follows)
    def chown(self, process: int, path: str, uid: int, gid: int, follow: bool) -> None:
        if uid == gid == -1:
            return  # of a file with set-id bits this is EPERM for others than its owner, and FUSE does not ask
        self.both(process, "chown", path, uid, gid, follow)

    @rule(process=processes, path=paths, times=st.none() | st.tuples(instants, instants), follow=follows)
    def utimens(self, process: int, path: str, times: tuple[int, int] | None, follow: bool) -> None:
        self.both(process, "utimens", path, times, follow)

    @rule(process=processes, path=paths, name=attributes, value=values, follow=follows,
          flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]))  # fmt: skip
    def setxattr(self, *, process: int, path: str, name: str, value: bytes, follow: bool, flags: int) -> None:
        self.both(process, "setxattr", path, name, value, flags, follow)

    @rule(process=processes, path=paths, name=st.sampled_from(["user.", "nonsense"]))
    def setxattr_without_a_name(self, process: int, path: str, name: str) -> None:
        """Without flags: with them, pyfuse3 looks for the attribute first, and getxattr finds none of any name."""
        self.both(process, "setxattr", path, name, b"v", 0, True)

    @rule(process=processes, path=paths, name=attributes, follow=follows, remove=st.booleans())
    def look_at_or_remove_xattr(self, process: int, path: str, name: str, follow: bool, remove: bool) -> None:
        self.both(process, "getxattr", path, name, follow)
        if remove:
            self.both(process, "removexattr", path, name, follow)
        self.both(process, "listxattr", path, follow)

    # The whole

    @rule()
    def compare(self) -> None:
        self.roots.compare()

    @precondition(lambda self: self.mounts_left)
    @rule(how=st.sampled_from(["remount", "kill", "kill after syncfs", "drop caches"]))
    def begin_anew(self, how: str) -> None:
        self.mounts_left -= 1
        if how == "drop caches":
            self.roots.drop_caches()
            return
        self.opened.clear()
        self.mapped.clear()
        if how == "remount":
            self.roots.remount()
        else:
            # What went through a mapping without a handle is the kernel's until it writes it back.
            self.roots.kill(kernel=self.ever_mapped or how != "kill")
