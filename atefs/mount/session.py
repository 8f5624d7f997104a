"""Who we are to a server: by a token that was named, by a login, or by this machine's own key.

Logins are kept in `logins` in the configuration folder, closed to others. What is there opens what the account opens.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from atedb.account.root import AccountRoot
from atedb.account.token import Token
from atedb.chain.disk import RealDisk
from atedb.crypto.signing import SigningKey
from atedb.errors import DamagedError, StoreNotFoundError
from atefs.mount import places
from atefs.mount.identity import identity

VARIABLE = "ATE_TOKEN_FILE"
_MOST = 4096
"""Bytes of a file that holds a token."""


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """token: its text. account: the account's root, 32 bytes."""

    email: str
    token: str
    account: bytes

    def __repr__(self) -> str:
        return f"Login(email={self.email!r})"


class Session(NamedTuple):
    """identity: the key that the server knows us by. token: that whose key it is. account: what a login opens.

    email: of the login.
    """

    identity: SigningKey
    token: Token | None = None
    account: AccountRoot | None = None
    email: str = ""


def logins_file() -> Path:
    """Where logins are kept."""
    return places.config_home() / "logins"


def token_file() -> Path:
    """The token that is taken where no other is named and nobody has logged in."""
    return places.config_home() / "token"


def logins() -> Mapping[str, Login]:
    """By server ("ws://host:port"). Raises DamagedError for a file that is not what was written, StorageError."""
    path = logins_file()
    if not path.exists():
        return {}
    try:
        return msgspec.json.decode(RealDisk().read_bytes(path), type=dict[str, Login])
    except msgspec.MsgspecError:
        raise DamagedError(
            f"{path} is not what was written; nothing was sent; move it away and log in: atefs login you@example.com"
        ) from None


def keep(server: str, login: Login) -> None:
    """Be logged in from now on, instead of who was before. Durable on return."""
    _write({**logins(), server: login})


def forget(server: str) -> None:
    """Be logged in there no more."""
    _write({name: login for name, login in logins().items() if name != server})


def session_for(server: str, token_path: Path | None = None) -> Session:
    """Who we are to a server. token_path: a token's file; else that which ATE_TOKEN_FILE names, the login, the file
    `token` in the configuration folder, or this machine's own key.

    Raises TokenError, StoreNotFoundError, DamagedError, StorageError.
    """
    named = token_path or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    login = logins().get(server)
    if named is None and login is not None:
        token = Token.parse(login.token)
        return Session(token.identity, token, AccountRoot(login.account), login.email)
    if named is None and not token_file().exists():
        return Session(identity())
    token = read_token(named or token_file())
    return Session(token.identity, token)


def read_token(path: Path) -> Token:
    """The token in a file. Raises TokenError, StoreNotFoundError, StorageError."""
    if not path.exists():
        raise StoreNotFoundError(
            f"there is no token file {path}; nothing was sent; make a token: atefs create-token > {path}"
        )
    return Token.parse(RealDisk().read_bytes(path)[:_MOST].decode("utf-8", "replace"))


def is_open_to_others(path: Path) -> bool:
    """Whether other users can read a file."""
    mode = path.stat().st_mode
    return stat.S_ISREG(mode) and bool(mode & 0o077)


def bundle_cache(token: Token) -> Path:
    """Where the keys that the server keeps for a token, sealed, are kept here: for mounts without a connection."""
    return places.state_home() / "bundles" / token.id


def _write(found: Mapping[str, Login]) -> None:
    places.write_private(logins_file(), msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
