"""Getting a connection to the kernel: mounting as root, or by fusermount3 for everybody else."""

from __future__ import annotations

import array
import ctypes
import os
import socket
import subprocess
from pathlib import Path

from atefs.mount import mountinfo
from atefs.mount.preflight import DEVICE, NoFuseError

SOURCE = "atefs"
_FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024, "nodiratime": 2048,
}  # fmt: skip
"""man 2 mount."""
_ALWAYS = frozenset(("nosuid", "nodev"))

_libc = ctypes.CDLL(None, use_errno=True)


def connect(mountpoint: Path, options: frozenset[str]) -> int:
    """Mount, and return the descriptor on which the kernel's requests arrive (man 4 fuse).

    options: for the kernel: names of flags (man 8 mount), `default_permissions`, `allow_other`. Raises NoFuseError.
    """
    try:
        if os.geteuid() == 0:
            return _mount(mountpoint, options | _ALWAYS)
        return _fusermount(mountpoint, options)
    except PermissionError as error:
        fix = "a container needs --cap-add SYS_ADMIN, and --security-opt apparmor=unconfined where there is AppArmor"
        raise _refused(mountpoint, error.strerror or str(error), fix) from error
    except OSError as error:
        raise _refused(mountpoint, error.strerror or str(error)) from error


def _refused(
    mountpoint: Path, reason: str, fix: str = "see what fuse says: fusermount3 -V; ls -l /dev/fuse"
) -> NoFuseError:
    return NoFuseError(f"the kernel refused to mount {mountpoint} ({reason}); the vault is closed and whole; {fix}")


def _mount(mountpoint: Path, options: frozenset[str]) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        mode = os.stat(mountpoint).st_mode
        words = [f"fd={fd}", f"rootmode={mode & 0o170000:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
        words += sorted(options - _FLAGS.keys())
        flags = sum(_FLAGS[name] for name in options if name in _FLAGS)
        done = _libc.mount(
            SOURCE.encode(), os.fsencode(mountpoint), mountinfo.FSTYPE.encode(), ctypes.c_ulong(flags),
            ",".join(words).encode(),
        )  # fmt: skip
        if done:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fusermount(mountpoint: Path, options: frozenset[str]) -> int:
    """fusermount3 mounts, and sends the descriptor through the socket that _FUSE_COMMFD names."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [f"fsname={SOURCE}", f"subtype={mountinfo.FSTYPE.partition('.')[2]}", *sorted(options)]
        command = ["fusermount3", "-o", ",".join(words), "--", os.fspath(mountpoint)]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        done = subprocess.run(
            command, env=environment, pass_fds=[theirs.fileno()], capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise _refused(mountpoint, done.stderr.strip() or f"fusermount3 ended with {done.returncode}")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received = array.array("i", data[:4])[0]
            os.set_inheritable(received, False)
            return received
    raise _refused(mountpoint, "fusermount3 sent no descriptor")
