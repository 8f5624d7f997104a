"""A storm over one chain: machines work on it while links, drivers and the server fail at random.

What each machine does, and what fails when, follows from a seed and from nothing else; how the two meet is up to the
processes. Each machine has one thread that works in a folder that all of them use, and one that runs programs in a
folder of its own (`storm_programs`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.system.links import Relay
from tests.system.mounted import until
from tests.system.replicas import Replica
from tests.system.storm_journal import Journal

NOREPLACE, EXCHANGE = 1, 2
TOKEN = re.compile(rb"<([a-z0-9.-]+)>")
_AT_FDCWD, _AT_EMPTY_PATH, _AT_STATX_FORCE_SYNC = -100, 0x1000, 0x2000
_STATX_NLINK, _STATX_SIZE = 0x4, 0x200
_libc = ctypes.CDLL(None, use_errno=True)
_GONE = {errno.ENOTCONN, errno.ECONNABORTED}
_RACES = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.ELOOP, errno.EINVAL,
    errno.EHOSTUNREACH,
}  # fmt: skip
"""What an operation may say when another machine was quicker, or when what it needs is on a server out of reach."""


def rename(old: Path, new: Path, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(old))


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all of it is written."""
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def opened_directly(path: Path) -> Iterator[int]:
    """A descriptor, for `content_now`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        yield fd
    finally:
        os.close(fd)


def names_now(fd: int) -> int:
    """How many names the vault has for a file."""
    about = ctypes.create_string_buffer(256)
    if _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_FORCE_SYNC, _STATX_NLINK | _STATX_SIZE, about):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int.from_bytes(about.raw[16:20], sys.byteorder)


def content_now(fd: int) -> bytes:
    """What the vault has in a file: of what others have just done, the kernel may not have been told yet."""
    names_now(fd)  # and the size
    pieces: list[bytes] = []
    while piece := os.pread(fd, 1 << 20, sum(map(len, pieces))):
        pieces.append(piece)
    return b"".join(pieces)


class Shell:
    """A shell that was started before any file in a vault was open."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def run(self, command: Sequence[str | Path]) -> None:
        """Run a command, which has to succeed."""
        assert self._process.stdin
        assert self._process.stdout
        line = shlex.join([os.fspath(word) for word in command])
        self._process.stdin.write(f"{line} </dev/null; echo; echo ended $?\n")
        self._process.stdin.flush()
        said: list[str] = []
        for answer in self._process.stdout:
            if answer.startswith("ended "):
                assert answer == "ended 0\n", f"{line}:\n{''.join(said)}"
                return
            said.append(answer)
        raise AssertionError(f"the shell has ended: {''.join(said)}")

    def close(self) -> None:
        """End it."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()


class Station:
    """A machine in the storm: its mount, its own link to the server, and what was done there.

    destroyed: tokens that somebody, anywhere, has deleted after having read them. killed: lives that ended by a kill.
    """

    def __init__(self, replica: Replica, relay: Relay, destroyed: set[str], *options: str) -> None:
        self.replica = replica
        self.relay = relay
        self.name = replica.name
        self.destroyed = destroyed
        self.options = options
        self.life = 0
        self.killed: set[int] = set()
        self.troubles: list[str] = []
        self.journals: list[Journal] = []
        self.stop = threading.Event()
        self.up = threading.Event()
        self.at_work = {"shared": threading.Lock(), "programs": threading.Lock()}
        self.link = threading.Lock()
        self._shell = Shell(replica.env)

    def mount(self) -> None:
        """Mount it, and let its threads go on.

        By the shell: what this process forks has its open files, and closing them may wait for a driver that was killed
        and cannot end, until this very command has seen to it (`atefs.mount.preflight`).
        """
        url = f"ws://127.0.0.1:{self.relay.port}/db/you@example.com/vault"
        self._shell.run([*self.replica.command, "mount", *self.options, self.replica.path, url])
        self.replica.pid = self.replica.status()["pid"]
        self.life += 1
        self.up.set()

    def close(self) -> None:
        """The storm is over."""
        self.relay.close()
        self._shell.close()

    def kill(self) -> None:
        """End the driver as a crash would."""
        self.up.clear()
        self.killed.add(self.life)
        self.replica.kill()

    def abandon(self) -> None:
        """The machine is lost for good, and all that was on it only."""
        self.kill()
        self.killed.update(range(self.life + 1))

    def umount(self) -> None:
        """Unmount in order, between two operations, with whatever is queued."""
        self.up.clear()
        with self.at_work["shared"], self.at_work["programs"]:
            self.replica.umount("--leave-queued")

    @contextmanager
    def turn(self, thread: str) -> Iterator[int]:
        """One operation: the machine is up when it begins, and not unmounted before it ends; the life it is in.

        What fails because the driver was killed, or because of what others do, is no trouble; what else fails is.
        """
        self.up.wait()
        with self.at_work[thread]:
            life = self.life
            try:
                yield life
            except OSError as error:
                if error.errno in _GONE or not self.undisturbed(life):
                    self.stop.wait(0.05)
                elif error.errno not in _RACES:
                    self.troubles.append(f"{self.name}: {thread}: {traceback.format_exc()}")
            except Exception:
                if self.undisturbed(life):
                    self.troubles.append(f"{self.name}: {thread}: {traceback.format_exc()}")

    def note(self, what: str) -> None:
        """For whoever looks into where something has gone: beside the machine's home, with the time."""
        with self.replica.home.with_name(f"{self.name}.trace").open("a") as trace:
            trace.write(f"{time.time():.3f} {what}\n")

    def undisturbed(self, life: int) -> bool:
        """Whether the machine has been up all the time since that life began."""
        return self.up.is_set() and self.life == life

    @contextmanager
    def writing(self, journal: Journal, token: str, life: int) -> Iterator[None]:
        """What is inside writes the token."""
        place = journal.begin(token, life)
        yield
        if self.undisturbed(life):
            journal.done(place)

    def sync(self, journal: Journal, life: int) -> None:
        """fsync(2) of everything."""
        self.replica.sync()
        if self.undisturbed(life):
            journal.synced(life)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nothing of the others arrives."""
        with self.link:
            self.relay.cut()
            try:
                until(self.replica.is_state("offline"), f"{self.name} to notice that it is alone")
                yield
            finally:
                self.relay.mend()


Operation = Callable[["SharedWork", int], None]


class SharedWork:
    """What one machine does in the folder that all use. Tokens are appended; who deletes a file reads it first."""

    def __init__(self, station: Station, seed: str) -> None:
        self.station = station
        self.journal = Journal(f"{station.name}/shared")
        self.chance = random.Random(f"{seed}/{station.name}/shared")
        self.top = station.replica / "shared"
        self.bin = station.replica / "bin"
        self.number = 0

    def run(self) -> None:
        """One operation after the other, until the end."""
        station = self.station
        while not station.stop.is_set():
            operation = self.chance.choices(list(_OPERATIONS), list(_OPERATIONS.values()))[0]
            self.number += 1
            station.note(f"{self.number} {operation.__name__}")
            with station.turn("shared") as life:
                operation(self, life)
            station.stop.wait(self.chance.random() * 0.03)

    def path(self) -> Path:
        """One of few names, in one of few folders."""
        folder = self.chance.choice(["", "", "", "d0", "d1", "d2", "d0/d1", "d1/d2"])
        return self.top / folder / f"f{self.chance.randrange(8)}"

    def folder(self) -> Path:
        """One of few folders."""
        return self.top / self.chance.choice(["d0", "d1", "d2", "d0/d1", "d1/d2", "d2/d0"])

    def token(self) -> tuple[str, bytes]:
        """A new token, and what is to be written with it: a little mostly, sometimes more than a block."""
        name = f"{self.station.name}.{self.number}"
        size = self.chance.choice([10, 10, 100, 100, 3000, 9000, 200_000])
        return name, b"<%s>" % name.encode() + self.chance.randbytes(size // 2).hex().encode() + b"\n"

    def append(self, life: int, *, sync: bool = False) -> None:
        path, (token, data) = self.path(), self.token()
        with path.open("ab", buffering=0) as file:
            with self.station.writing(self.journal, token, life):
                write_all(file.fileno(), data)
            if not names_now(file.fileno()):  # somebody else has deleted it since it was opened
                self.destroy(data)
        if sync:
            self.station.sync(self.journal, life)

    def append_synced(self, life: int) -> None:
        self.append(life, sync=True)

    def make(self, life: int) -> None:
        path, (token, data) = self.path(), self.token()
        with path.open("xb", buffering=0) as file, self.station.writing(self.journal, token, life):
            write_all(file.fileno(), data)

    def throw_away(self, life: int) -> None:
        self.discard(self.path())

    def discard(self, path: Path) -> None:
        """Delete exactly what has this name now: it is taken aside, read, deleted, and read once more."""
        aside = self.bin / f"{self.station.name}.{self.number}"
        rename(path, aside, NOREPLACE)
        if not aside.is_file():
            rename(aside, path, NOREPLACE)
            return
        with opened_directly(aside) as fd:
            self.destroy(content_now(fd))
            aside.unlink()
            self.destroy(content_now(fd))

    def destroy(self, content: bytes) -> None:
        """What is in there is deleted on purpose, or will have been."""
        found = {token.decode() for token in TOKEN.findall(content)}
        self.station.note(f"{self.number} destroys {' '.join(sorted(found))}")
        self.station.destroyed.update(found)

    def move(self, life: int) -> None:
        rename(self.path(), self.path(), NOREPLACE)

    def exchange(self, life: int) -> None:
        rename(self.path(), self.path(), EXCHANGE)

    def link(self, life: int) -> None:
        os.link(self.path(), self.path())

    def make_folder(self, life: int) -> None:
        self.folder().mkdir()

    def remove_folder(self, life: int) -> None:
        self.folder().rmdir()

    def move_folder(self, life: int) -> None:
        rename(self.folder(), self.folder(), self.chance.choice([NOREPLACE, EXCHANGE]))

    def change_attributes(self, life: int) -> None:
        path = self.path()
        os.chmod(path, self.chance.choice([0o600, 0o644, 0o750]))
        os.utime(path, ns=(0, self.chance.randrange(10**18)))
        os.setxattr(path, f"user.{self.station.name}", self.chance.randbytes(20))

    def tidy(self, life: int) -> None:
        """Delete one of what merges have kept beside."""
        for folder, _, names in os.walk(self.top):
            beside = [name for name in sorted(names) if ".conflict-" in name]
            if beside:
                self.discard(Path(folder, self.chance.choice(beside)))
                return

    def replace_alone(self, life: int) -> None:
        """As editors save, while nobody else can change what is replaced between looking and replacing."""
        path, (token, data) = self.path(), self.token()
        new = self.bin / f"{self.station.name}.new"
        with self.station.alone():
            with opened_directly(path) as fd:
                old = content_now(fd)
            new.write_bytes(b"")
            with new.open("wb", buffering=0) as file:
                write_all(file.fileno(), data)
            self.destroy(old)
            with self.station.writing(self.journal, token, life):
                os.rename(new, path)


_OPERATIONS: dict[Operation, int] = {
    SharedWork.append: 30, SharedWork.append_synced: 4, SharedWork.make: 20, SharedWork.throw_away: 20,
    SharedWork.move: 8, SharedWork.exchange: 4, SharedWork.link: 5, SharedWork.make_folder: 6,
    SharedWork.remove_folder: 3, SharedWork.move_folder: 3, SharedWork.change_attributes: 8, SharedWork.tidy: 6,
    SharedWork.replace_alone: 1,
}  # fmt: skip
