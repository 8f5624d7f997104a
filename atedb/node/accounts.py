"""Who has an account: a file for each, `DATA/accounts/<email>.json`, and all of them in memory.

Nothing in them decrypts anything: public keys, what is sealed for its owner, and the secret of the second factor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from atedb import threads
from atedb.account.email import require_email
from atedb.account.messages import ALL_CHAINS, NewToken, Rights, TokenInfo
from atedb.account.root import Card
from atedb.account.token import token_id
from atedb.account.way import Way, WayKind
from atedb.chain.disk import RealDisk
from atedb.errors import AteError, LimitError
from atedb.node.data_folder import made

log = logging.getLogger(__name__)

FOLDER = "accounts"
MAX_TOKENS = 200
"""Of one account, the expired ones not counted."""
USE_SECONDS = 60
"""How often it is written down that tokens were used."""


class StoredToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that is let in. login: it was made by logging in. used: seconds since 1970, 0 for never."""

    token: NewToken
    login: bool
    created: int
    used: int = 0
    address: str = ""

    @property
    def id(self) -> str:
        """What lists call it."""
        return token_id(self.token.identity)

    @property
    def info(self) -> TokenInfo:
        """What its owner is shown."""
        token = self.token
        return TokenInfo(
            self.id, token.name, self.login, self.created, token.expires, token.chains, token.rights, self.used,
            self.address,
        )  # fmt: skip


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One account. totp_step: of the newest code of the second factor that was accepted."""

    email: str
    created: int
    admin: bool
    password: Way
    recovery: Way
    totp: bytes
    totp_step: int
    card: Card
    tokens: tuple[StoredToken, ...] = ()

    def way(self, kind: WayKind) -> Way:
        """What is known of the password, or of the recovery code."""
        return self.password if kind is WayKind.PASSWORD else self.recovery

    def with_token(self, token: StoredToken, now: float) -> Account:
        """And this token; those that have expired are forgotten. Raises LimitError."""
        kept = [one for one in self.tokens if one.token.expires > now and one.id != token.id]
        if len(kept) >= MAX_TOKENS:
            raise LimitError(
                f"there are {MAX_TOKENS} tokens already; nothing was changed; revoke one: atefs token revoke ID"
            )
        return msgspec.structs.replace(self, tokens=(*kept, token))

    def without_token(self, token: str) -> Account:
        """But not the token that has this id."""
        return msgspec.structs.replace(self, tokens=tuple(one for one in self.tokens if one.id != token))


class Holder(NamedTuple):
    """Whose token it is, and which."""

    account: Account
    token: StoredToken

    @property
    def may_write(self) -> bool:
        """Whether it may change chains."""
        return self.token.token.rights is Rights.WRITE

    def opens(self, path: str) -> bool:
        """Whether it is for the chain at a path."""
        return path in self.token.token.chains or ALL_CHAINS in self.token.token.chains


class Accounts:
    """All accounts of a data folder.

    changed: called when tokens may be let in no more. fresh: there never was an account.
    """

    def __init__(self, data: Path) -> None:
        self.folder = data / FOLDER
        self.changed: Callable[[], None] = lambda: None
        self._disk = RealDisk()
        self._turn = trio.Lock()
        self._accounts: dict[str, Account] = {}
        self._owners: dict[bytes, str] = {}
        self._uses: dict[bytes, tuple[int, str]] = {}
        for account in _load(self.folder):
            self._take(account)
        self.fresh = not (self.folder.is_dir() and any(self.folder.iterdir()))

    @property
    def all(self) -> Mapping[str, Account]:
        """By e-mail address."""
        return self._accounts

    def holder(self, identity: bytes, now: float) -> Holder | None:
        """Whose token this public key is; None when it is nobody's, or has expired. now: seconds since 1970."""
        account = self._accounts.get(self._owners.get(identity, ""))
        if account is None:
            return None
        token = next(one for one in account.tokens if one.token.identity == identity)
        return Holder(account, token) if token.token.expires > now else None

    async def add(self, account: Account) -> None:
        """A new one. Durable on return; nothing has changed when it raises StorageError."""
        async with self._turn:
            assert account.email not in self._accounts
            await threads.run(self._save, account)
            self._take(account)

    async def change(self, email: str, how: Callable[[Account], Account], *, quietly: bool = False) -> None:
        """Put `how` of an account in its place. Durable on return; nothing has changed when it raises.

        quietly: `changed` is not called, so that who asked for it can still be answered.
        """
        async with self._turn:
            account = how(self._accounts[email])
            await threads.run(self._save, account)
            self._take(account)
        if not quietly:
            self.changed()

    def used(self, identity: bytes, now: float, address: str) -> None:
        """A token is used; `write_uses` keeps that."""
        if identity in self._owners:
            self._uses[identity] = int(now), address

    async def write_uses(self) -> None:
        """Keep when, and from where, tokens were used last. Raises StorageError."""
        uses, self._uses = self._uses, {}
        for email in {self._owners[identity] for identity in uses if identity in self._owners}:
            await self.change(email, lambda account: _with_uses(account, uses), quietly=True)

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """`write_uses` for ever. A service; see `supervisor`."""
        task_status.started()
        while True:
            await trio.sleep(USE_SECONDS)
            await self.write_uses()

    def _take(self, account: Account) -> None:
        before = self._accounts.get(account.email)
        for one in before.tokens if before is not None else ():
            self._owners.pop(one.token.identity, None)
        self._accounts[account.email] = account
        for one in account.tokens:
            self._owners[one.token.identity] = account.email

    def _save(self, account: Account) -> None:
        made(self.folder.parent, FOLDER)
        data = msgspec.json.format(msgspec.json.encode(account), indent=1) + b"\n"
        self._disk.replace(self.folder / f"{account.email}.json", data)


def _with_uses(account: Account, uses: Mapping[bytes, tuple[int, str]]) -> Account:
    def noted(one: StoredToken) -> StoredToken:
        used, address = uses.get(one.token.identity, (one.used, one.address))
        return msgspec.structs.replace(one, used=used, address=address)

    return msgspec.structs.replace(account, tokens=tuple(map(noted, account.tokens)))


def _load(folder: Path) -> list[Account]:
    """All that can be read; of the others is said that nobody is let in by them."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            account = msgspec.json.decode(RealDisk().read_bytes(path), type=Account)
            if require_email(account.email) != path.name.removesuffix(".json"):
                raise ValueError("it is another one's")
            found.append(account)
        except (AteError, msgspec.MsgspecError, ValueError) as error:
            log.warning("the account %s cannot be used, and nobody is let in by it: %s", path, error)
    return found
