"""Where a chain is on a network: `ws://server:5000/db/you@example.com/vault`, and how people write it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from atedb.errors import AteError, ExitCode

DEFAULT_PORT = 5000
RESOURCE = "/db"
"""What stands before a chain's path, and all of the address that is sent in clear."""

FINGERPRINT_SIZE = 32
MAX_PATH = 255
_PART = re.compile(r"[A-Za-z0-9@._+-]{1,100}")
_MAX_PARTS = 8


class UrlError(AteError):
    """An address that is not one."""

    exit_code = ExitCode.USAGE


class ServerUrl(NamedTuple):
    """A chain on a server. tls: `wss`. path: "/you@example.com/vault". pin: the fingerprint that the address names."""

    tls: bool
    host: str
    port: int
    path: str
    pin: bytes | None

    @classmethod
    def parse(cls, text: str) -> ServerUrl:
        """`ws[s]://HOST[:PORT]/db/PATH[#FINGERPRINT]`, the fingerprint in 64 hexadecimal digits. Raises UrlError."""
        if not text.isprintable() or " " in text:
            raise _refusal(text, "it has a space, or something that cannot be seen")
        try:
            split = urlsplit(text)
            port = split.port
        except ValueError:
            raise _refusal(text, "host or port cannot be read") from None
        if split.scheme not in ("ws", "wss"):
            raise _refusal(text, "it begins with neither ws:// nor wss://")
        if not split.hostname or "@" in split.netloc or "%" in split.hostname:
            raise _refusal(text, "after the two slashes there must be the server's name, without a user or password")
        if split.query:
            raise _refusal(text, "it has a question mark")
        if not split.path.startswith(RESOURCE + "/"):
            raise _refusal(text, f"the path must begin with {RESOURCE}/")
        path = require_path(split.path[len(RESOURCE) :])
        return cls(
            split.scheme == "wss", split.hostname, port or DEFAULT_PORT, path, _fingerprint(text, split.fragment)
        )

    @classmethod
    def parse_server(cls, text: str) -> ServerUrl:
        """`ws[s]://HOST[:PORT][#FINGERPRINT]`, or the address of a chain there; without a path. Raises UrlError."""
        address, mark, pin = text.partition("#")
        if RESOURCE + "/" not in address:
            address = address.rstrip("/") + f"{RESOURCE}/server/name"
        return cls.parse(address + mark + pin)._replace(path="")

    @property
    def server(self) -> str:
        """Which server, without the chain: `ws://host:port`. What a known key is remembered for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}"

    def __str__(self) -> str:
        """The address without the fingerprint."""
        return f"{self.server}{RESOURCE}{self.path}"


def is_path(path: str) -> bool:
    """Whether `path` can name a chain: "/tenant/name", two to eight parts of letters, digits and @._+-."""
    parts = path.split("/")
    return (
        len(path) <= MAX_PATH
        and parts[0] == ""
        and 2 <= len(parts) - 1 <= _MAX_PARTS
        and all(_PART.fullmatch(part) and part.strip(".") for part in parts[1:])
    )


def require_path(path: str) -> str:
    """`path`. Raises UrlError unless `is_path`."""
    if not is_path(path):
        raise UrlError(
            f"{path!r} does not name a chain: a path has two to eight parts after a slash each, such as "
            "/you@example.com/vault, of letters, digits and @._+-"
        )
    return path


def _fingerprint(text: str, fragment: str) -> bytes | None:
    if not fragment:
        return None
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * FINGERPRINT_SIZE}}}", fragment):
        raise _refusal(text, f"a fingerprint has {2 * FINGERPRINT_SIZE} hexadecimal digits")
    return bytes.fromhex(fragment)


def _refusal(text: str, why: str) -> UrlError:
    return UrlError(
        f"{text!r} is no address of a chain: {why}; one looks like ws://server:5000/db/you@example.com/vault"
    )
