"""What is asked of the kernel beside its requests: write-back of cached pages, tuning, unmounting."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import time
from pathlib import Path

from atedb.errors import AteError, ExitCode
from atefs.mount import mountinfo

log = logging.getLogger(__name__)

READ_AHEAD_KB = 1024
MAX_BACKGROUND = 64
_UMOUNT_NOFOLLOW = 8
_MNT_FORCE = 1
_MNT_DETACH = 2
_AT_FDCWD = -100
_CLOCK_REALTIME_COARSE = 5
_OPEN_TREE = 428
_OPEN_TREE_CLONE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def clock() -> int:
    """Now, in nanoseconds since 1970, by the clock that the kernel stamps files with (man 2 clock_gettime).

    It goes in ticks. With a finer one, a file would look older than another that was made before it: the kernel stamps
    what is written to files, and the driver what happens to names.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class BusyError(AteError):
    """The mount point is in use and cannot be unmounted."""

    exit_code = ExitCode.BUSY


def _checked(result: int, path: Path) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(path))
    return result


def _private_root(mountpoint: Path) -> int | None:
    """The mount's root through a mount of our own (man 2 open_tree), which keeps nobody from unmounting.

    None where we may not: that takes CAP_SYS_ADMIN.
    """
    tree = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(mountpoint), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if tree < 0:
        return None
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)


def write_back(mountpoint: Path) -> None:
    """Have the kernel write the pages that it caches for the mount (man 2 syncfs).

    Blocks until the driver has taken them: never to be called by the thread that answers requests. Raises OSError.
    """
    fd = _private_root(mountpoint)
    if fd is None:
        fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_libc.syncfs(fd), mountpoint)
    finally:
        os.close(fd)


def unmount(mountpoint: Path, *, lazily: bool = False) -> None:
    """Take the mount away; lazily: from the tree of names at once, from those who use it when they are done.

    Raises BusyError when somebody uses it, OSError or AteError for anything else.
    """
    if os.geteuid() == 0:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)
        try:
            _checked(_libc.umount2(os.fsencode(mountpoint), flags), mountpoint)
        except OSError as error:
            if error.errno == 16:
                raise _busy(mountpoint) from None
            raise
        return
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", os.fspath(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        if "busy" in done.stderr:
            raise _busy(mountpoint)
        raise AteError(f"fusermount3 could not unmount {mountpoint}: {done.stderr.strip()}")


def abort(mount: mountinfo.Mount) -> None:
    """End the connection between a mount and its driver: whoever waits for an answer gets ENOTCONN (ECONNABORTED).

    By fusectl, or, where that is not mounted, by umount2(2) with MNT_FORCE, which root may use. Raises OSError.
    """
    try:
        Path(f"/sys/fs/fuse/connections/{mount.minor}/abort").write_text("1\n")
    except OSError:
        if os.geteuid() != 0:
            raise
        _libc.umount2(os.fsencode(mount.mountpoint), _UMOUNT_NOFOLLOW | _MNT_FORCE)  # says EBUSY, and has done it


def _busy(mountpoint: Path) -> BusyError:
    return BusyError(f"{mountpoint} is in use; it stays mounted, and all that was written is safe")


def tune(mount: mountinfo.Mount) -> list[str]:
    """Larger read-ahead and more requests in the background, where we may. The names of what was set."""
    settings = {
        Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb"): READ_AHEAD_KB,
        Path(f"/sys/fs/fuse/connections/{mount.minor}/max_background"): MAX_BACKGROUND,
    }
    done = []
    for path, value in settings.items():
        try:
            path.write_text(f"{value}\n")
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error.strerror)
        else:
            done.append(path.name)
    return done
