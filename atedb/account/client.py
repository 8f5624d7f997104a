"""What a client does about an account, over a connection to its server: the secrets stay on this side."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import msgspec

from atedb.account.audit import BEGINNING, AuditEntry, Mark, marks, open_entry
from atedb.account.messages import (
    ALL_CHAINS,
    AskWay,
    AuditIs,
    BundleIs,
    CardIs,
    ChangePassword,
    Entered,
    GetAudit,
    GetBundle,
    GetCard,
    Granted,
    Invite,
    Invited,
    Leave,
    ListTokens,
    Login,
    MakeToken,
    Me,
    MemberInquiry,
    NewToken,
    Recover,
    Register,
    Reply,
    RevokeToken,
    Rights,
    Signed,
    Sudo,
    TokenInfo,
    TokensAre,
    Unseal,
    VisitorInquiry,
    WayIs,
    WhoAmI,
    decode_reply,
    encode,
    statement,
)
from atedb.account.root import AccountRoot, Card
from atedb.account.token import Token
from atedb.account.way import WayKeys, WayKind, make_way
from atedb.crypto.recovery_code import generate_code
from atedb.crypto.secret import Secret
from atedb.crypto.totp import new_totp_secret
from atedb.errors import InvalidError, RolledBackError

R = TypeVar("R", bound=Reply)
S = TypeVar("S", bound=Signed)


class Conversation(Protocol):
    """A connection to a server, before a chain is open; `atedb.net.client.ServerConnection` is one."""

    @property
    def conversation(self) -> bytes: ...
    async def inquire(self, data: bytes) -> bytes: ...


class Entry(NamedTuple):
    """What a login gives. token: by which the server knows us from now on."""

    token: Token
    root: AccountRoot


class Enrolment(NamedTuple):
    """A new account, or one that was got back. totp: the authenticator's secret. recovery: the new code."""

    entry: Entry
    totp: bytes
    recovery: str


class Audit(NamedTuple):
    """What a server has noted: entries after the place `first`, up to `last`."""

    first: Mark
    last: Mark
    entries: list[AuditEntry]


class AccountClient:
    """Made with a connection: of a visitor for what comes before a login, of whoever has a token for the rest.

    Every call raises what the server refuses with (RefusedError, RateError), ConnectionLostError, and InvalidError for
    a server that replies with something else than it was asked for.
    """

    def __init__(self, connection: Conversation) -> None:
        self._connection = connection

    async def ask(self, inquiry: VisitorInquiry | MemberInquiry, wanted: type[R]) -> R:
        """Make an inquiry; the reply must be a `wanted`."""
        reply = decode_reply(await self._connection.inquire(encode(inquiry)))
        if not isinstance(reply, wanted):
            raise InvalidError("the server replies with something else than it was asked for; nothing was changed here")
        return reply

    # -- visitors

    async def register(self, invitation: str, email: str, password: Secret, login: NewToken, token: Token) -> Enrolment:
        """Make an account, and be logged in. login: what is said of `token`, as `login_token` makes it."""
        root, totp, code = AccountRoot.generate(), new_totp_secret(), generate_code()
        with Secret.recovery_code(code) as recovery:
            await self.ask(
                Register(
                    invitation, email, make_way(WayKind.PASSWORD, password, email, root),
                    make_way(WayKind.RECOVERY, recovery, email, root), totp, root.card(email), login,
                ),
                Entered,
            )  # fmt: skip
        return Enrolment(Entry(token, root), totp, code)

    async def log_in(self, email: str, password: Secret, code: str, login: NewToken, token: Token) -> Entry:
        """Let a token in. code: of the authenticator. Raises CheapPasswordError, DamagedError."""
        keys = await self._keys(email, WayKind.PASSWORD, password)
        entered = await self.ask(self._signed(keys, Login(email, code, login, b"")), Entered)
        return Entry(token, keys.open(entered.sealed, email))

    async def recover(self, email: str, old: Secret, password: Secret, login: NewToken, token: Token) -> Enrolment:
        """Get an account back by its recovery code. Raises CheapPasswordError, DamagedError."""
        totp, code = new_totp_secret(), generate_code()
        keys = await self._keys(email, WayKind.RECOVERY, old)
        entered = await self.ask(self._signed(keys, Unseal(email, b"")), Entered)
        root = keys.open(entered.sealed, email)
        with Secret.recovery_code(code) as recovery:
            request = Recover(
                email, make_way(WayKind.PASSWORD, password, email, root),
                make_way(WayKind.RECOVERY, recovery, email, root), totp, login, b"",
            )  # fmt: skip
        await self.ask(self._signed(keys, request), Entered)
        return Enrolment(Entry(token, root), totp, code)

    # -- members

    async def me(self) -> Me:
        """Who the server says we are; the card is verified. Raises BadSignatureError."""
        me = await self.ask(WhoAmI(), Me)
        me.card.verify()
        return me

    async def bundle(self) -> bytes:
        """The keys that this token gives, sealed."""
        return (await self.ask(GetBundle(), BundleIs)).bundle

    async def leave(self) -> None:
        """Be let in by this token no more."""
        await self.ask(Leave(), Granted)

    async def make_token(self, token: NewToken) -> None:
        """Let one more token in."""
        await self.ask(MakeToken(token), Granted)

    async def tokens(self) -> list[TokenInfo]:
        """All that are let in, the oldest first."""
        found: list[TokenInfo] = []
        while True:
            part = await self.ask(ListTokens(found[-1].id if found else ""), TokensAre)
            found += part.tokens
            if not (part.more and part.tokens):
                return sorted(found, key=lambda one: one.created)

    async def revoke(self, token: str) -> None:
        """Let a token, named by its id, in no more."""
        await self.ask(RevokeToken(token), Granted)

    async def sudo(self, code: str) -> None:
        """Give the second factor."""
        await self.ask(Sudo(code), Granted)

    async def change_password(self, email: str, root: AccountRoot, old: Secret, new: Secret) -> None:
        """Another password from now on. After `sudo`. Raises CheapPasswordError."""
        keys = await self._keys(email, WayKind.PASSWORD, old)
        way = make_way(WayKind.PASSWORD, new, email, root)
        await self.ask(self._signed(keys, ChangePassword(way, b"")), Granted)

    async def invite(self, email: str) -> Invited:
        """A code for somebody, or, if `email` is empty, for anybody. After `sudo`."""
        return await self.ask(Invite(email), Invited)

    async def card(self, email: str) -> Card:
        """What another user says of themselves; whether it is them, only a comparison of the fingerprint tells.

        Raises BadSignatureError for a card that its key has not signed, InvalidError for another user's.
        """
        card = (await self.ask(GetCard(email), CardIs)).card
        card.verify()
        if card.email != email:
            raise InvalidError(f"the server gives another user's card for {email}; nothing was changed")
        return card

    async def audit(self, email: str, root: AccountRoot, seen: Mark) -> Audit:
        """What the server has noted. seen: the end of the log as it was shown last, or BEGINNING.

        Raises RolledBackError for a log that has lost or altered what was shown; DamagedError for an entry that is not
        for this account.
        """
        key, number = root.kem(), 0
        first, at, entries = BEGINNING, BEGINNING, list[AuditEntry]()
        met = seen == BEGINNING
        while True:
            part = await self.ask(GetAudit(number), AuditIs)
            start = Mark(part.number, part.hash)
            if not number:
                first = at = start
                met = met or start == seen or start.number > seen.number
            if start != at:
                raise RolledBackError("the server's audit log does not follow from itself; somebody has changed it")
            for sealed, place in zip(part.entries, marks(start, part.entries), strict=True):
                entries.append(open_entry(sealed, key, email))
                at = place
                met = met or place == seen
            number = at.number
            if not (part.more and part.entries):
                break
        if not met:
            raise RolledBackError(
                f"the server's audit log has not what it showed before, entry {seen.number}: entries were taken away "
                "or altered, or an older copy of the server was put back; ask whoever runs it"
            )
        return Audit(first, at, entries)

    async def _keys(self, email: str, kind: WayKind, secret: Secret) -> WayKeys:
        question = (await self.ask(AskWay(email, kind), WayIs)).question
        question.verify(kind)
        return WayKeys.of(secret, email, kind, question)

    def _signed(self, keys: WayKeys, request: S) -> S:
        signature = keys.login.sign(statement(request, self._connection.conversation))
        signed: S = msgspec.structs.replace(request, signature=signature)
        return signed


def login_token(token: Token, name: str, expires: int) -> NewToken:
    """What is said of a login's token: it is for everything. expires: seconds since 1970."""
    return NewToken(token.identity.public, name, expires, (ALL_CHAINS,), Rights.WRITE, b"")
