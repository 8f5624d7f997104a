"""The servers that this user knows, and which of them a store follows.

Known servers have a line each: the address, a space, and the fingerprint of the server's key in hexadecimal, pinned
when it is first spoken to. Whoever runs a server knows its fingerprint; a line may also be written by hand before. A
store that follows a server says in its file `server` which chain there it is a replica of.
"""

from __future__ import annotations

import re
from pathlib import Path

from atedb.chain.disk import RealDisk
from atedb.errors import DamagedError
from atedb.net.url import ServerUrl, UrlError
from atefs.mount import places

SERVER = "server"
READER = "reader"
"""An empty file in a store whose server lets us read it only: so that nothing is changed without the server either."""
_LINE = re.compile(r"(\S+) ([0-9a-f]{64})")


def servers_file() -> Path:
    """Where they are kept."""
    return places.config_home() / "servers"


def known_servers() -> dict[str, bytes]:
    """Address ("ws://host:port") -> fingerprint. Raises DamagedError for a line that is neither that nor a comment."""
    path = servers_file()
    if not path.exists():
        return {}
    known = {}
    for number, line in enumerate(RealDisk().read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise DamagedError(f"{path}, line {number}, is no server and its fingerprint; nothing was sent; mend it")
        known[match[1]] = bytes.fromhex(match[2])
    return known


def pin(server: str, fingerprint: bytes) -> None:
    """Know a server from now on. Nothing changes when it is known already, whatever its fingerprint was."""
    if server in known_servers():
        return
    path = servers_file()
    before = RealDisk().read_bytes(path) if path.exists() else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    places.write_private(path, before + f"{server} {fingerprint.hex()}\n".encode())


def authorities() -> Path | None:
    """A file with certificates of those who vouch for `wss` servers, besides the ones that the system knows, in PEM.

    None where there is no `authorities.pem` in the configuration folder.
    """
    path = places.config_home() / "authorities.pem"
    return path if path.exists() else None


def attach(store: Path, url: ServerUrl) -> None:
    """The store follows the chain at `url` from now on."""
    RealDisk().replace(store / SERVER, f"{url}\n".encode())


def may_write(store: Path) -> bool:
    """Whether the server let us change the vault when it was met last."""
    return not (store / READER).exists()


def note_rights(store: Path, *, writable: bool) -> None:
    """Remember whether the server lets us change the vault. Raises StorageError."""
    if writable == may_write(store):
        return
    if writable:
        RealDisk().unlink(store / READER)
    else:
        RealDisk().replace(store / READER, b"")


def attached(store: Path) -> ServerUrl | None:
    """What the store follows; None for a local vault. Raises DamagedError."""
    path = store / SERVER
    if not path.exists():
        return None
    try:
        return ServerUrl.parse(RealDisk().read_bytes(path).decode("utf-8", "replace").strip())
    except UrlError:
        raise DamagedError(
            f"{path} is not what was written; the vault is whole; say where its server is: atefs mount MOUNTPOINT URL"
        ) from None
