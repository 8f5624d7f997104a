"""What visitors and members of a node are answered with: its accounts, and the checks that both need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from atedb.account.audit import AuditEntry, What, seal_entry
from atedb.account.email import EmailError, require_email
from atedb.account.messages import ALL_CHAINS, NewToken, Rights, Signed, statement
from atedb.account.way import Question, WayKind, default_question
from atedb.crypto.hashing import derive
from atedb.crypto.signing import BadSignatureError, SigningKey, verify_signature
from atedb.crypto.slot import SALT_SIZE
from atedb.errors import InvalidError
from atedb.net.errors import RefusedError
from atedb.node.accounts import Account, Accounts, StoredToken
from atedb.node.audit_log import AuditLogs
from atedb.node.invitations import Invitations, new_code
from atedb.node.ladder import Ladder
from atedb.node.tenants import Tenants

LONGEST_SECONDS = 10 * 366 * 86_400
"""What a token may be let in for."""
WRONG = "the user, the password or the code of the authenticator is not right; nothing was changed"
MAX_LATER = 1000
"""Refusals that wait to be noted."""
_MAX_ABOUT = 300


class Origin(NamedTuple):
    """Where an inquiry comes from. conversation: the hash of the handshake. address: of the network."""

    conversation: bytes
    address: str


class Desk:
    """data: the node's folder. secret: 32 bytes of its own. used: bytes that the chains of a name store. clock: seconds
    since 1970.

    first_code: with which the first user registers, who is the administrator; empty once there is one.
    """

    def __init__(self, data: Path, secret: bytes, used: Callable[[str], int], clock: Callable[[], float]) -> None:
        self.accounts = Accounts(data)
        self.tenants = Tenants(data)
        self.invitations = Invitations(data)
        self.ladder = Ladder(data, derive("login attempts", secret), clock)
        self.audit = AuditLogs(data)
        self.clock = clock
        self.first_code = new_code() if self.accounts.fresh else ""
        self._secret = secret
        self._used = used
        self._later: list[tuple[str, AuditEntry]] = []

    def is_taken(self, name: str) -> bool:
        """Whether there is something on the server that would be theirs who register under this name."""
        return name in self.tenants.all() or self._used(name) > 0

    def question(self, email: str, kind: WayKind) -> Question:
        """What a client needs to make its keys; of a user that there is not, one that is always the same."""
        salt = derive("nobody", self._secret, email.encode(), str(kind).encode(), length=SALT_SIZE)
        nobody, account = default_question(kind, salt), self.accounts.all.get(email)
        return account.way(kind).question if account is not None else nobody

    def nobody(self, length: int) -> bytes:
        """Bytes that stand for those of a user that there is not."""
        return derive("nobody", self._secret, length=length)

    async def require_signed(
        self, email: str, kind: WayKind, request: Signed, origin: Origin, *, also: bool = True
    ) -> Account:  # fmt: skip
        """The account, if whoever knows its secret has signed the request, and `also` is so.

        Raises RefusedError in the same words and after the same work whatever is wrong, RateError.
        """
        self.ladder.require(email)
        account = self.accounts.all.get(email)
        public = SigningKey(derive("nobody", self._secret, email.encode())).public
        if account is not None:
            public = account.way(kind).login
        try:
            verify_signature(public, statement(request, origin.conversation), request.signature)
            signed = True
        except BadSignatureError:
            signed = False
        if account is None or not (signed and also):
            await self.refused(email, What.LOGIN_REFUSED, origin)
            raise RefusedError(WRONG)
        await self.ladder.succeeded(email)
        return account

    async def refused(self, email: str, what: What, origin: Origin) -> None:
        """An attempt has failed: it counts."""
        await self.ladder.failed(email)
        self.note_later(email, what, "", origin.address)

    def note_later(self, email: str, what: What, about: str, address: str) -> None:
        """As `note`, soon: what was refused takes no longer to say where there is an account to note it for."""
        if len(self._later) < MAX_LATER:
            self._later.append((email, self._entry(what, about, address)))

    async def write_later(self) -> None:
        """Put what was to be noted later into the audit logs. Raises StorageError."""
        later, self._later = self._later, []
        for email, entry in later:
            if email in self.accounts.all:
                await self._write(email, entry)

    async def note(self, email: str, what: What, about: str, address: str) -> None:
        """Put an entry into an account's audit log; durable on return. Raises StorageError."""
        await self.write_later()
        await self._write(email, self._entry(what, about, address))

    def _entry(self, what: What, about: str, address: str) -> AuditEntry:
        return AuditEntry(int(self.clock()), what, about[:_MAX_ABOUT], address[:64])

    async def _write(self, email: str, entry: AuditEntry) -> None:
        await self.audit.append(email, seal_entry(entry, self.accounts.all[email].card))

    def stored(self, token: NewToken, *, login: bool) -> StoredToken:
        """A token as it is kept. Raises InvalidError for one that is somebody's, or would be let in for too long."""
        now = self.clock()
        if self.accounts.holder(token.identity, 0) is not None:
            raise InvalidError("there is this token already; nothing was changed")
        if not now < token.expires <= now + LONGEST_SECONDS:
            raise InvalidError("a token's end must be in the future, and not more than ten years away")
        if not token.name.isprintable():
            raise InvalidError("a token's name has something that cannot be shown")
        if login and (token.chains != (ALL_CHAINS,) or token.rights is not Rights.WRITE):
            raise InvalidError("a login is for all chains")
        return StoredToken(token, login, int(now))


def email_of(text: str) -> str:
    """The address in its one form. Raises InvalidError."""
    try:
        return require_email(text)
    except EmailError as error:
        raise InvalidError(str(error)) from None
