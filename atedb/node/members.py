"""What a node does for whoever came by a token: looking at their account, and changing it."""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec

from atedb import threads
from atedb.account.audit import What
from atedb.account.messages import (
    ALL_CHAINS,
    AskWay,
    AuditIs,
    BundleIs,
    CardIs,
    ChangePassword,
    GetAudit,
    GetBundle,
    GetCard,
    Granted,
    Invite,
    Invited,
    Leave,
    ListTokens,
    MakeToken,
    Me,
    MemberInquiry,
    Reply,
    RevokeToken,
    Sudo,
    TokensAre,
    WayIs,
    WhoAmI,
)
from atedb.account.way import WayKind
from atedb.crypto.totp import accepted_step
from atedb.errors import InvalidError
from atedb.net.errors import RefusedError
from atedb.net.url import is_path
from atedb.node.accounts import Account, Holder
from atedb.node.desk import Desk, Origin, email_of

log = logging.getLogger(__name__)

SUDO_SECONDS = 900
TOKENS_SHOWN = 8
"""In one reply, which they fit into with as many chains as a token can have."""
AUDIT_BYTES = 32 << 10
"""Of entries in one reply."""


class Asked(NamedTuple):
    """Whose token it is, and where the inquiry comes from."""

    holder: Holder
    origin: Origin

    @property
    def email(self) -> str:
        """Of the account."""
        return self.holder.account.email

    @property
    def token(self) -> str:
        """The token's id."""
        return self.holder.token.id

    @property
    def identity(self) -> bytes:
        """The token's public key: ids are short, and somebody could look for a token that has the same one."""
        return self.holder.token.token.identity


class Members:
    """Answers members' inquiries. Each may raise RefusedError, RateError, InvalidError, LimitError, StorageError."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._sudo: dict[bytes, float] = {}

    async def answer(self, inquiry: MemberInquiry, asked: Asked) -> Reply:
        """The reply to one."""
        match inquiry:
            case AskWay():
                return WayIs(self._desk.question(asked.email, inquiry.kind))
            case WhoAmI():
                return self._who_am_i(asked)
            case GetBundle():
                return BundleIs(asked.holder.token.token.bundle)
            case ListTokens():
                return await self._list_tokens(inquiry, asked)
            case GetAudit():
                return await self._get_audit(inquiry, asked)
            case GetCard():
                return self._get_card(inquiry)
            case Invite():
                return await self._invite(inquiry, asked)
            case Leave():
                await self._revoke(asked, asked.token, What.LOGGED_OUT)
            case MakeToken():
                await self._make_token(inquiry, asked)
            case RevokeToken():
                await self._revoke_token(inquiry, asked)
            case Sudo():
                await self._start_sudo(inquiry, asked)
            case ChangePassword():
                await self._change_password(inquiry, asked)
        return Granted()

    def _who_am_i(self, asked: Asked) -> Reply:
        account, token = asked.holder
        left = self._sudo.get(asked.identity, 0) - self._desk.clock()
        return Me(account.email, account.admin, token.info, account.card, max(0, int(left)))

    async def _list_tokens(self, inquiry: ListTokens, asked: Asked) -> Reply:
        self._require_login(asked)
        await self._desk.accounts.write_uses()
        now, account = self._desk.clock(), self._desk.accounts.all[asked.email]
        tokens = [one.info for one in account.tokens if one.token.expires > now and one.id > inquiry.after]
        tokens.sort(key=lambda info: info.id)
        return TokensAre(tokens[:TOKENS_SHOWN], len(tokens) > TOKENS_SHOWN)

    async def _get_audit(self, inquiry: GetAudit, asked: Asked) -> Reply:
        self._require_login(asked)
        start, entries, more = await self._desk.audit.read(asked.email, inquiry.after, AUDIT_BYTES)
        return AuditIs(start.number, start.hash, entries, more)

    def _get_card(self, inquiry: GetCard) -> Reply:
        account = self._desk.accounts.all.get(email_of(inquiry.email))
        if account is None:
            raise RefusedError(f"there is no user {inquiry.email} on this server; nothing was changed")
        return CardIs(account.card)

    async def _make_token(self, inquiry: MakeToken, asked: Asked) -> None:
        account = self._require_login(asked)
        for path in inquiry.token.chains:
            if path != ALL_CHAINS and not (is_path(path) and path.startswith(f"/{account.email}/")):
                raise InvalidError(f"a token of {account.email} cannot be for {path!r}; nothing was changed")
        token = self._desk.stored(inquiry.token, login=False)
        await self._note(asked, What.TOKEN_MADE, token.id)
        await self._desk.accounts.change(account.email, lambda now: now.with_token(token, self._desk.clock()))
        log.info("%s has made the token %s", account.email, token.id)

    async def _revoke_token(self, inquiry: RevokeToken, asked: Asked) -> None:
        account = self._require_login(asked)
        if all(token.id != inquiry.id for token in account.tokens):
            raise InvalidError(f"there is no token {inquiry.id}; nothing was changed; see: atefs token list")
        await self._revoke(asked, inquiry.id, What.TOKEN_REVOKED)

    async def _revoke(self, asked: Asked, token: str, what: What) -> None:
        await self._note(asked, what, token)
        own = token == asked.token  # who asks is answered before the connection ends
        await self._desk.accounts.change(asked.email, lambda now: now.without_token(token), quietly=own)
        log.info("%s has revoked the token %s", asked.email, token)

    async def _start_sudo(self, inquiry: Sudo, asked: Asked) -> None:
        account, desk = self._require_login(asked), self._desk
        desk.ladder.require(account.email)
        now = desk.clock()
        step = accepted_step(account.totp, inquiry.code, now, account.totp_step)
        if step is None:
            await desk.refused(account.email, What.FACTOR_REFUSED, asked.origin)
            raise RefusedError("this is not the authenticator's code of now, or was used before; nothing was changed")

        def noted(account: Account) -> Account:
            if account.totp_step >= step:
                raise RefusedError("this code was used before; nothing was changed; wait for the next one")
            return msgspec.structs.replace(account, totp_step=step)

        await desk.accounts.change(account.email, noted)
        await desk.ladder.succeeded(account.email)
        await self._note(asked, What.SECOND_FACTOR, asked.token)
        self._sudo = {one: until for one, until in self._sudo.items() if until > now}
        self._sudo[asked.identity] = now + SUDO_SECONDS

    async def _change_password(self, inquiry: ChangePassword, asked: Asked) -> None:
        account = self._require_sudo(asked)
        await self._desk.require_signed(account.email, WayKind.PASSWORD, inquiry, asked.origin)
        await self._note(asked, What.PASSWORD_CHANGED, asked.token)
        await self._desk.accounts.change(
            account.email, lambda now: msgspec.structs.replace(now, password=inquiry.password)
        )
        log.info("%s has changed the password", account.email)

    async def _invite(self, inquiry: Invite, asked: Asked) -> Reply:
        if not self._require_sudo(asked).admin:
            raise RefusedError("only an administrator of the server may invite; nothing was changed")
        email = email_of(inquiry.email) if inquiry.email else ""
        await self._note(asked, What.INVITED, email or "anybody")
        code, invitation = await threads.run(self._desk.invitations.make, email, self._desk.clock())
        return Invited(code, invitation.expires)

    async def _note(self, asked: Asked, what: What, about: str) -> None:
        await self._desk.note(asked.email, what, about, asked.origin.address)

    def _require_login(self, asked: Asked) -> Account:
        if not asked.holder.token.login:
            raise RefusedError("a token may not do that; nothing was changed; log in: atefs login you@example.com")
        return asked.holder.account

    def _require_sudo(self, asked: Asked) -> Account:
        account = self._require_login(asked)
        if self._sudo.get(asked.identity, 0) <= self._desk.clock():
            raise RefusedError("this needs the second factor; nothing was changed; first say: atefs token sudo")
        return account
