"""Mount options: what `-o` and /etc/fstab say (man 8 mount, man 8 mount.fuse3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from atedb.errors import AteError, ExitCode
from atefs.vault.atime import AtimePolicy, AtimeRule

_IGNORED = frozenset(
    (
        "defaults",
        "auto",
        "noauto",
        "nofail",
        "fail",
        "_netdev",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "exec",
        "dev",
        "suid",
        "async",
        "default_permissions",
    )
)
"""For mount(8), systemd or the kernel alone; or what a vault does in any case."""
_KERNEL = frozenset(("nosuid", "nodev", "noexec", "sync", "dirsync"))
"""Handed on to the kernel as they are."""
_SWITCHES = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "allow_other": ("allow_other", True),
    "acl": ("acl", True),
    "noacl": ("acl", False),
    "nonempty": ("nonempty", True),
    "accept_rollback": ("accept_rollback", True),
    "relatime": ("atime", AtimeRule.RELATIME),
    "strictatime": ("atime", AtimeRule.STRICTATIME),
    "noatime": ("atime", AtimeRule.NOATIME),
    "nodiratime": ("diratime", False),
}
_PATHS = {
    "passphrase-file": "passphrase_file",
    "passphrase_file": "passphrase_file",
    "key-file": "key_file",
    "key_file": "key_file",
    "log-file": "log_file",
    "token-path": "token_path",
    "token_path": "token_path",
}
ID_MAX = (1 << 32) - 1
"""Numbers of users and groups are below; this one stands for none (man 2 chown)."""
DRIVERS = ("direct", "pyfuse3")
"""How the kernel is spoken to; the first is the default."""


class RecoveryMode(StrEnum):
    """What a mount of a chain on a server does about the server (docs/durability.md)."""

    ASYNC = "async"
    READONLY_ASYNC = "readonly-async"
    READONLY_SYNC = "readonly-sync"
    SYNC = "sync"

    @property
    def waits(self) -> bool:
        """fsync waits for the server."""
        return self in (RecoveryMode.SYNC, RecoveryMode.READONLY_SYNC)

    @property
    def needs_server(self) -> bool:
        """Nothing may be changed while there is no connection."""
        return self in (RecoveryMode.READONLY_ASYNC, RecoveryMode.READONLY_SYNC)


class OptionError(AteError):
    """A mount option that is not known, or a value it cannot have."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class MountOptions:
    """How a vault is to be mounted. uid, gid: who its owner is on this machine, if the numbers are others there."""

    read_only: bool = False
    allow_other: bool = False
    acl: bool = True
    nonempty: bool = False
    accept_rollback: bool = False
    atime: AtimeRule = AtimeRule.RELATIME
    diratime: bool = True
    passphrase_file: Path | None = None
    key_file: Path | None = None
    log_file: Path | None = None
    token_path: Path | None = None
    uid: int | None = None
    gid: int | None = None
    kernel: frozenset[str] = field(default_factory=frozenset)
    driver: str = DRIVERS[0]
    recovery: RecoveryMode = RecoveryMode.ASYNC

    @property
    def atime_policy(self) -> AtimePolicy:
        """What the vault is to do about access times; without diratime, those of folders are left alone."""
        return AtimePolicy(self.atime, self.atime if self.diratime else AtimeRule.NOATIME)


def parse(texts: Sequence[str], base: MountOptions | None = None, *, sloppy: bool = False) -> MountOptions:
    """The options named by comma-separated lists, the later one winning, over those of `base`.

    "x-…" and "comment=…" are comments (man 5 fstab). sloppy: an option that is not known is passed over; otherwise it
    raises OptionError.
    """
    options = base or MountOptions()
    kernel = set(options.kernel)
    for item in (item for text in texts for item in text.split(",") if item):
        name, equals, value = item.partition("=")
        if item in _SWITCHES:
            attribute, chosen = _SWITCHES[item]
            options = replace(options, **{attribute: chosen})  # type: ignore[arg-type]
        elif equals and name in _PATHS:
            options = replace(options, **{_PATHS[name]: Path(value)})  # type: ignore[arg-type]
        elif equals and name in ("uid", "gid") and value.isascii() and value.isdigit() and int(value) < ID_MAX:
            options = replace(options, **{name: int(value)})  # type: ignore[arg-type]
        elif name == "driver" and value in DRIVERS:
            options = replace(options, driver=value)
        elif name in ("recovery-mode", "recovery_mode") and value in list(RecoveryMode):
            options = replace(options, recovery=RecoveryMode(value))
        elif item in _KERNEL:
            kernel.add(item)
        elif not sloppy and item not in _IGNORED and not name.startswith(("x-", "X-")) and name != "comment":
            raise OptionError(
                f"mount option {item!r} is not known; nothing was mounted. "
                "The options are listed by: atefs mount --help"
            )
    return replace(options, kernel=frozenset(kernel))
