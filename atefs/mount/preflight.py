"""What has to be so before anything is mounted, each with a clear refusal."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import threading
from enum import Enum, auto
from pathlib import Path

from atedb.errors import AteError, ExitCode, InUseError, StoreNotFoundError
from atefs.mount import client, kernel, mountinfo

log = logging.getLogger(__name__)

DEVICE = Path("/dev/fuse")
_FUSE_NUMBER = (10, 229)
PROBE_SECONDS = 3.0
END_SECONDS = 10.0


class NoFuseError(AteError):
    """The kernel's FUSE device or its helper cannot be used."""

    errno = errno.ENODEV
    exit_code = ExitCode.NO_FUSE


class MountPointError(AteError):
    """The mount point cannot be used."""

    exit_code = ExitCode.BUSY


class Pulse(Enum):
    """How a mount answers. STUCK: its driver was killed and cannot end (`client.killed_driver`)."""

    ALIVE = auto()
    DEAD = auto()
    HUNG = auto()
    STUCK = auto()


ENDED = (Pulse.DEAD, Pulse.STUCK)
"""There is no driver any more: `clear_mountpoint` takes away what it has left."""


def pulse(mountpoint: Path) -> Pulse:
    """Whether a mount has a driver that answers, one that does not, one that was killed, or none.

    Asked in a thread that is left behind when no answer comes.
    """
    found = [Pulse.HUNG]

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            found[0] = Pulse.DEAD if error.errno in (errno.ENOTCONN, errno.ECONNABORTED) else Pulse.ALIVE
        else:
            found[0] = Pulse.ALIVE

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS)
    if found[0] is Pulse.HUNG and client.killed_driver(mountpoint):
        return Pulse.STUCK
    return found[0]


def require_fuse(device: Path = DEVICE) -> None:
    """Raise NoFuseError unless the kernel's FUSE device is there and we may use it."""
    fix = "the vault was not touched; "
    try:
        info = device.stat()
    except OSError:
        raise NoFuseError(
            f"there is no {device}; {fix}load the module (modprobe fuse), or in a container pass --device {device}"
        ) from None
    if not stat.S_ISCHR(info.st_mode) or (os.major(info.st_rdev), os.minor(info.st_rdev)) != _FUSE_NUMBER:
        raise NoFuseError(f"{device} is not the FUSE device; {fix}make it anew: mknod {device} c 10 229")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise NoFuseError(f"fusermount3 is not installed; {fix}install it: apt install fuse3")
    if os.geteuid() == 0 and not os.access(device, os.R_OK | os.W_OK):
        raise NoFuseError(f"{device} may not be opened; {fix}a container needs --device {device} --cap-add SYS_ADMIN")


def clear_mountpoint(mountpoint: Path) -> bool:
    """Make sure that nothing is mounted at the place; what a driver that died has left there is taken away.

    True: something was. Raises InUseError when a vault is mounted and answers, MountPointError for a foreign mount.
    """
    mount = mountinfo.find(mountpoint)
    if mount is None:
        return False
    if not mount.ours:
        raise MountPointError(
            f"{mountpoint} is the mount point of something else ({mount.fstype} from {mount.source}); "
            f"nothing was changed; choose another folder"
        )
    state = pulse(mountpoint)
    if state is Pulse.ALIVE:
        raise InUseError(f"a vault is mounted at {mountpoint} already; see: atefs status {mountpoint}")
    if state is Pulse.HUNG:
        raise InUseError(
            f"the vault mounted at {mountpoint} does not answer; nothing was changed; "
            f"see what its driver does: atefs status {mountpoint}"
        )
    log.warning("the driver of %s had ended without unmounting; the stale mount is taken away", mountpoint)
    if state is Pulse.STUCK:
        _let_end(mount)
    kernel.unmount(mountpoint, lazily=True)
    return True


def _let_end(mount: mountinfo.Mount) -> None:
    """Have a driver that was killed come to its end, so that its vault is free. Raises InUseError."""
    pid = client.killed_driver(mount.mountpoint)
    try:
        watch = client.Watch(pid) if pid else None
    except ProcessLookupError:
        return
    try:
        kernel.abort(mount)
        ended = watch is None or watch.ended(END_SECONDS)
    except OSError as error:
        raise InUseError(
            f"the driver of {mount.mountpoint} was killed and cannot end, because its connection to the kernel could "
            f"not be ended ({error.strerror}); nothing was changed; as root: umount -f {mount.mountpoint}"
        ) from None
    finally:
        if watch is not None:
            watch.close()
    if not ended:
        raise InUseError(f"the driver of {mount.mountpoint} (process {pid}) was killed and has not ended; try again")


def require_mountpoint(mountpoint: Path, *, nonempty: bool = False) -> None:
    """Raise unless the path is a folder that may be mounted over."""
    try:
        info = mountpoint.stat()
        names = os.listdir(mountpoint) if stat.S_ISDIR(info.st_mode) else []
    except FileNotFoundError:
        raise StoreNotFoundError(
            f"the mount point {mountpoint} does not exist; nothing was changed; make it first: mkdir -p {mountpoint}"
        ) from None
    except OSError as error:
        raise MountPointError(f"{mountpoint} cannot be looked at: {error.strerror}; nothing was changed") from error
    if not stat.S_ISDIR(info.st_mode):
        raise MountPointError(f"{mountpoint} is not a folder; nothing was changed; name a folder to mount on")
    if names and not nonempty:
        raise MountPointError(
            f"{mountpoint} is not empty, and a mount would hide what is in it; nothing was changed; "
            "choose an empty folder, or allow it with: -o nonempty"
        )
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise MountPointError(
            f"{mountpoint} belongs to somebody else, and only its owner may mount there; nothing was changed; "
            "choose a folder of your own"
        )
