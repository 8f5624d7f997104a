"""Where things are kept: chains, configuration, remembered heads, logs, control sockets.

The folders follow the XDG base directory specification; `ATE_HOME` and `ATE_CONFIG` go before it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from atedb.chain.disk import RealDisk
from atedb.crypto.hashing import digest
from atefs.mount import mountinfo

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.")


def _home() -> Path:
    """The caller's home, from the password database where HOME is not set (a mount at boot)."""
    named = os.environ.get("HOME")
    return Path(named) if named else Path(pwd.getpwuid(os.getuid()).pw_dir)


def _xdg(variable: str, fallback: str) -> Path:
    named = os.environ.get(variable, "")
    return Path(named) if named.startswith("/") else _home() / fallback


def chains_home() -> Path:
    """The folder of local chains: $ATE_HOME, else the XDG data folder."""
    named = os.environ.get("ATE_HOME")
    return Path(os.path.abspath(named)) if named else _xdg("XDG_DATA_HOME", ".local/share") / "ate"


def config_home() -> Path:
    """The configuration folder: $ATE_CONFIG, else the XDG one."""
    named = os.environ.get("ATE_CONFIG")
    return Path(os.path.abspath(named)) if named else _xdg("XDG_CONFIG_HOME", ".config") / "ate"


def state_home() -> Path:
    """What this machine remembers between runs."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "ate"


def heads_folder(replica: Path | None = None) -> Path:
    """The last head seen of each chain, against rollback.

    replica: a store that follows a server. Of one chain there may be several on a machine, each at its own place.
    """
    heads = state_home() / "heads"
    return heads if replica is None else heads / f"replica-{escape(replica)}"


def log_file(mountpoint: Path) -> Path:
    """The log of the driver that serves the mount point."""
    return state_home() / "log" / f"{escape(mountpoint)}.log"


def runtime_folders() -> Iterator[Path]:
    """Folders where a control socket may lie, the preferred one first."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if named.startswith("/") and os.path.isdir(named):
        yield Path(named) / "ate"
    session = Path(f"/run/user/{os.getuid()}")
    if session.is_dir():
        yield session / "ate"
    if os.getuid() == 0:
        yield Path("/run/ate")
    yield state_home() / "run"


def socket_name(mountpoint: Path) -> str:
    """The name of a mount point's control socket: short, since a socket's path may have 107 bytes only."""
    return digest(os.fsencode(mountpoint)).hex()[:20] + ".sock"


def private_folder(path: Path) -> Path:
    """Make the folder, closed to others, unless it is there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Make a file hold `data`, durably and all at once, closed to others as its folder is. Raises StorageError."""
    private_folder(path.parent)
    RealDisk().replace(path, data)


def escape(path: Path) -> str:
    """The path as one file name, as `systemd-escape --path` writes it: "/root/vault" is "root-vault"."""
    raw = b"/".join(part for part in os.fsencode(path).split(b"/") if part)
    if not raw:
        return "-"
    out = []
    for position, byte in enumerate(raw):
        if byte == 0x2F:
            out.append("-")
        elif byte in _PLAIN and not (position == 0 and byte == 0x2E):
            out.append(chr(byte))
        else:
            out.append(f"\\x{byte:02x}")
    return "".join(out)


def vault_of(mountpoint: Path) -> Path:
    """The store of the local vault that belongs to the mount point."""
    return chains_home() / escape(mountpoint)


def names_server(url: str) -> bool:
    """Whether a URL names a chain on a server, and not a store's folder."""
    return "://" in url and not url.startswith("file://")


def store_of(mountpoint: Path, url: str | None) -> Path:
    """The store folder that a mount point and an optional URL name.

    A replica of a chain on a server lies where a local vault of the mount point would.
    """
    if url is None or names_server(url):
        return vault_of(mountpoint)
    return Path(os.path.abspath(url.removeprefix("file://")))


def canonical(mountpoint: str | Path) -> Path:
    """The mount point as the kernel names it.

    The last component is not looked at when something is mounted there: a driver that died or hangs must not stop
    the command that is to clear it away.
    """
    absolute = os.path.abspath(mountpoint)
    parent, name = os.path.split(absolute)
    path = Path(os.path.realpath(parent)) / name
    return path if mountinfo.find(path) else Path(os.path.realpath(path))
