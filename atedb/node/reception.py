"""Registering, logging in and tokens: what a server does when it is asked about accounts.

Whoever asks about a user that there is not gets the answers, and costs the work, of one who gives a wrong password.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from atedb import threads
from atedb.account.email import EmailError, require_email
from atedb.account.messages import (
    ALL_CHAINS,
    AskWay,
    BundleIs,
    ChangePassword,
    Entered,
    GetBundle,
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
    TokensAre,
    WayIs,
    WhoAmI,
    decode_member,
    decode_visitor,
    encode,
    statement,
)
from atedb.account.way import Question, WayKind, default_question
from atedb.crypto.hashing import derive, digest
from atedb.crypto.signing import BadSignatureError, SigningKey, verify_signature
from atedb.crypto.slot import SALT_SIZE
from atedb.crypto.totp import TOTP_SECRET_SIZE, accepted_step
from atedb.errors import InvalidError
from atedb.net.errors import RefusedError
from atedb.net.url import is_path
from atedb.node.accounts import Account, Accounts, Holder, StoredToken
from atedb.node.invitations import Invitation, Invitations, new_code, plain_code
from atedb.node.ladder import Ladder
from atedb.node.tenants import Tenants

log = logging.getLogger(__name__)

SUDO_SECONDS = 900
TOKENS_SHOWN = 8
"""In one reply, which they fit into with as many chains as a token can have."""
LONGEST_SECONDS = 10 * 366 * 86_400
"""What a token may be let in for."""
_WRONG = "the user, the password or the code of the authenticator is not right; nothing was changed"
_NO_INVITATION = (
    "this invitation is not good, or not for this user; nothing was changed; whoever runs the server makes another: "
    "atefs user invite, or, there, atedb invite"
)


class _Asked(NamedTuple):
    """Who asks, and in which conversation."""

    holder: Holder
    conversation: bytes


class Reception:
    """Answers inquiries. data: the node's folder. secret: 32 bytes of its own. used: bytes that the chains of a name
    store. clock: seconds since 1970.

    first_code: with which the first user registers, who is the administrator; empty once there is one.
    """

    def __init__(
        self, data: Path, secret: bytes, used: Callable[[str], int], clock: Callable[[], float] = time.time
    ) -> None:
        self.accounts = Accounts(data)
        self._tenants = Tenants(data)
        self._invitations = Invitations(data)
        self._secret = secret
        self._ladder = Ladder(data, derive("login attempts", secret), clock)
        self._used = used
        self._clock = clock
        self._sudo: dict[bytes, float] = {}
        self.first_code = new_code() if self.accounts.fresh else ""

    # -- visitors

    async def visitor(self, data: bytes, conversation: bytes) -> bytes:
        """The reply to somebody who has no token. Raises RefusedError, InvalidError, RateError, StorageError."""
        inquiry = decode_visitor(data)
        email = _email(inquiry.email)
        if isinstance(inquiry, AskWay):
            return encode(WayIs(self._question(email, inquiry.kind)))
        if isinstance(inquiry, Register):
            return encode(await self._register(email, inquiry))
        self._ladder.require(email)
        account = self.accounts.all.get(email)
        if isinstance(inquiry, Login):
            return encode(await self._login(email, account, inquiry, conversation))
        await self._require_signed(email, account, WayKind.RECOVERY, inquiry, conversation)
        assert account is not None
        if isinstance(inquiry, Recover):
            await self._recover(account, inquiry)
        return encode(Entered(account.recovery.sealed))

    def _question(self, email: str, kind: WayKind) -> Question:
        nobody = default_question(
            kind, derive("nobody", self._secret, email.encode(), str(kind).encode(), length=SALT_SIZE)
        )
        account = self.accounts.all.get(email)
        if account is None:
            return nobody
        return (account.password if kind is WayKind.PASSWORD else account.recovery).question

    async def _login(self, email: str, account: Account | None, login: Login, conversation: bytes) -> Reply:
        now = self._clock()
        secret = account.totp if account is not None else derive("nobody", self._secret, length=TOTP_SECRET_SIZE)
        step = accepted_step(secret, login.code, now, account.totp_step if account is not None else 0)
        await self._require_signed(email, account, WayKind.PASSWORD, login, conversation, also=step is not None)
        assert account is not None
        token = self._token(login.token, login=True)

        def logged_in(account: Account) -> Account:
            assert step is not None
            if account.totp_step >= step:  # somebody else was quicker with this very code
                raise RefusedError(_WRONG)
            return msgspec.structs.replace(account.with_token(token, now), totp_step=step)

        await self.accounts.change(email, logged_in)
        log.info("%s has logged in; token %s", email, token.id)
        return Entered(account.password.sealed)

    async def _require_signed(
        self, email: str, account: Account | None, kind: WayKind, request: Signed, conversation: bytes, *,
        also: bool = True,
    ) -> None:  # fmt: skip
        """Raise RefusedError unless whoever knows the user's secret has signed the request, and `also` is so."""
        nobody = SigningKey(derive("nobody", self._secret, email.encode())).public
        public = nobody
        if account is not None:
            public = (account.password if kind is WayKind.PASSWORD else account.recovery).login
        try:
            verify_signature(public, statement(request, conversation), request.signature)
            signed = account is not None
        except BadSignatureError:
            signed = False
        if not (signed and also):
            await self._ladder.failed(email)
            raise RefusedError(_WRONG)
        await self._ladder.succeeded(email)

    async def _register(self, email: str, register: Register) -> Reply:
        now = self._clock()
        invitation = self._invited(register.invitation, email, now)
        if email in self.accounts.all:
            raise RefusedError(f"there is an account {email} already; nothing was changed; log in: atefs login {email}")
        if not invitation.admin and invitation.email != email and self._is_taken(email):
            raise RefusedError(_NO_INVITATION)
        if register.card.email != email:
            raise InvalidError("the card is another user's")
        register.card.verify()
        account = Account(
            email=email, created=int(now), admin=invitation.admin, password=register.password,
            recovery=register.recovery, totp=register.totp, totp_step=0, card=register.card,
            tokens=(self._token(register.token, login=True),),
        )  # fmt: skip
        if register.invitation and plain_code(register.invitation) == plain_code(self.first_code):
            self.first_code = ""
        else:
            await threads.run(self._invitations.use, register.invitation)
        await threads.run(self._tenants.add, email, (), {})
        await self.accounts.add(account)
        log.info("%s has registered%s", email, ", and is the administrator" if account.admin else "")
        return Entered(account.password.sealed)

    def _invited(self, code: str, email: str, now: float) -> Invitation:
        """Whom a code is for. Raises RefusedError."""
        first = plain_code(self.first_code)
        if first and digest(plain_code(code).encode()) == digest(first.encode()):  # tells nothing of how much fits
            return Invitation("", True, 0)
        invitation = self._invitations.find(code, now)
        if invitation is None or invitation.email not in ("", email):
            raise RefusedError(_NO_INVITATION)
        return invitation

    def _is_taken(self, name: str) -> bool:
        """Whether there is something on the server that would be theirs who register under this name."""
        return name in self._tenants.all() or self._used(name) > 0

    async def _recover(self, account: Account, recover: Recover) -> None:
        token = self._token(recover.token, login=True)

        def recovered(account: Account) -> Account:
            return msgspec.structs.replace(
                account, password=recover.password, recovery=recover.recovery, totp=recover.totp, totp_step=0,
                tokens=(token,),
            )  # fmt: skip

        await self.accounts.change(account.email, recovered)
        log.info("%s has recovered the account; all tokens before have ended", account.email)

    # -- members

    async def member(self, data: bytes, conversation: bytes, identity: bytes) -> bytes:
        """The reply to somebody who came by a token. Raises RefusedError, InvalidError, RateError, StorageError."""
        inquiry = decode_member(data)
        holder = self.accounts.holder(identity, self._clock())
        if holder is None:
            raise RefusedError("this needs a login: atefs login you@example.com")
        return encode(await self._answer(inquiry, _Asked(holder, conversation)))

    async def _answer(self, inquiry: MemberInquiry, asked: _Asked) -> Reply:
        answers: Mapping[type, Callable[[Any, _Asked], Any]] = {
            AskWay: self._ask_way, WhoAmI: self._who_am_i, GetBundle: self._get_bundle, Leave: self._leave,
            MakeToken: self._make_token, ListTokens: self._list_tokens, RevokeToken: self._revoke_token,
            Sudo: self._start_sudo, ChangePassword: self._change_password, Invite: self._invite,
        }  # fmt: skip
        reply: Reply = await answers[type(inquiry)](inquiry, asked)
        return reply

    async def _ask_way(self, inquiry: AskWay, asked: _Asked) -> Reply:
        return WayIs(self._question(asked.holder.account.email, inquiry.kind))

    async def _who_am_i(self, _: WhoAmI, asked: _Asked) -> Reply:
        account, token = asked.holder
        left = self._sudo.get(token.token.identity, 0) - self._clock()
        return Me(account.email, account.admin, token.info, account.card, max(0, int(left)))

    async def _get_bundle(self, _: GetBundle, asked: _Asked) -> Reply:
        return BundleIs(asked.holder.token.token.bundle)

    async def _leave(self, _: Leave, asked: _Asked) -> Reply:
        await self._revoke(asked, asked.holder.token.id)
        return Granted()

    async def _make_token(self, inquiry: MakeToken, asked: _Asked) -> Reply:
        account = self._require_login(asked)
        new = inquiry.token
        for path in new.chains:
            if path != ALL_CHAINS and not (is_path(path) and path.startswith(f"/{account.email}/")):
                raise InvalidError(f"a token of {account.email} cannot be for {path!r}; nothing was changed")
        token = self._token(new, login=False)
        await self.accounts.change(account.email, lambda now: now.with_token(token, self._clock()))
        log.info("%s has made the token %s", account.email, token.id)
        return Granted()

    async def _list_tokens(self, inquiry: ListTokens, asked: _Asked) -> Reply:
        await self.accounts.write_uses()
        account, now = self.accounts.all[self._require_login(asked).email], self._clock()
        tokens = [one.info for one in account.tokens if one.token.expires > now and one.id > inquiry.after]
        tokens.sort(key=lambda info: info.id)
        return TokensAre(tokens[:TOKENS_SHOWN], len(tokens) > TOKENS_SHOWN)

    async def _revoke_token(self, inquiry: RevokeToken, asked: _Asked) -> Reply:
        account = self._require_login(asked)
        if all(token.id != inquiry.id for token in account.tokens):
            raise InvalidError(f"there is no token {inquiry.id}; nothing was changed; see: atefs token list")
        await self._revoke(asked, inquiry.id)
        return Granted()

    async def _start_sudo(self, inquiry: Sudo, asked: _Asked) -> Reply:
        account = self._require_login(asked)
        self._ladder.require(account.email)
        now = self._clock()
        step = accepted_step(account.totp, inquiry.code, now, account.totp_step)
        if step is None:
            await self._ladder.failed(account.email)
            raise RefusedError(
                "this is not the authenticator's code of now, or it was used before; nothing was changed"
            )

        def noted(account: Account) -> Account:
            if account.totp_step >= step:
                raise RefusedError("this code was used before; nothing was changed; wait for the next one")
            return msgspec.structs.replace(account, totp_step=step)

        await self.accounts.change(account.email, noted)
        await self._ladder.succeeded(account.email)
        self._sudo = {one: until for one, until in self._sudo.items() if until > now}
        self._sudo[asked.holder.token.token.identity] = now + SUDO_SECONDS
        return Granted()

    async def _change_password(self, inquiry: ChangePassword, asked: _Asked) -> Reply:
        account = self._require_sudo(asked)
        self._ladder.require(account.email)
        await self._require_signed(account.email, account, WayKind.PASSWORD, inquiry, asked.conversation)
        await self.accounts.change(account.email, lambda now: msgspec.structs.replace(now, password=inquiry.password))
        log.info("%s has changed the password", account.email)
        return Granted()

    async def _invite(self, inquiry: Invite, asked: _Asked) -> Reply:
        if not self._require_sudo(asked).admin:
            raise RefusedError("only an administrator of the server may invite; nothing was changed")
        email = _email(inquiry.email) if inquiry.email else ""
        code, invitation = await threads.run(self._invitations.make, email, self._clock())
        return Invited(code, invitation.expires)

    async def _revoke(self, asked: _Asked, token: str) -> None:
        email, own = asked.holder.account.email, asked.holder.token.id
        await self.accounts.change(email, lambda now: now.without_token(token), quietly=token == own)
        log.info("%s has revoked the token %s", email, token)

    def _require_login(self, asked: _Asked) -> Account:
        if not asked.holder.token.login:
            raise RefusedError("a token may not do that; nothing was changed; log in: atefs login you@example.com")
        return asked.holder.account

    def _require_sudo(self, asked: _Asked) -> Account:
        account = self._require_login(asked)
        if self._sudo.get(asked.holder.token.token.identity, 0) <= self._clock():
            raise RefusedError("this needs the second factor; nothing was changed; first say: atefs token sudo")
        return account

    def _token(self, token: NewToken, *, login: bool) -> StoredToken:
        """Raises InvalidError for a token that is somebody's, or would be let in for too long."""
        now = self._clock()
        if self.accounts.holder(token.identity, 0) is not None:
            raise InvalidError("there is this token already; nothing was changed")
        if not now < token.expires <= now + LONGEST_SECONDS:
            raise InvalidError("a token's end must be in the future, and not more than ten years away")
        if not token.name.isprintable():
            raise InvalidError("a token's name has something that cannot be shown")
        if login and (token.chains != (ALL_CHAINS,) or token.rights is not Rights.WRITE):
            raise InvalidError("a login is for all chains")
        return StoredToken(token, login, int(now))


def _email(text: str) -> str:
    try:
        return require_email(text)
    except EmailError as error:
        raise InvalidError(str(error)) from None
