"""What a node does for somebody who has no key yet: registering, logging in, getting an account back.

Whoever asks about a user that there is not gets the answers, and costs the work, of one who gives a wrong password.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from atedb import threads
from atedb.account.audit import What
from atedb.account.messages import (
    AskWay,
    Entered,
    Login,
    Recover,
    Register,
    Reply,
    Unseal,
    VisitorInquiry,
    WayIs,
)
from atedb.account.way import WayKind
from atedb.crypto.hashing import digest
from atedb.crypto.totp import TOTP_SECRET_SIZE, accepted_step
from atedb.errors import InvalidError
from atedb.net.errors import RefusedError
from atedb.node.accounts import Account
from atedb.node.desk import WRONG, Desk, Origin, email_of
from atedb.node.invitations import Invitation, plain_code

log = logging.getLogger(__name__)

_NO_INVITATION = (
    "this invitation is not good, or not for this user; nothing was changed; whoever runs the server makes another: "
    "atefs user invite, or, there, atedb invite"
)


class Visitors:
    """Answers visitors' inquiries. Each may raise RefusedError, RateError, InvalidError, StorageError."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._registering = trio.Lock()

    async def answer(self, inquiry: VisitorInquiry, origin: Origin) -> Reply:
        """The reply to one."""
        email = email_of(inquiry.email)
        match inquiry:
            case AskWay():
                return WayIs(self._desk.question(email, inquiry.kind))
            case Register():
                async with self._registering:  # or one invitation would do for two
                    return await self._register(email, inquiry, origin)
            case Login():
                return await self._login(email, inquiry, origin)
            case Unseal():
                account = await self._desk.require_signed(email, WayKind.RECOVERY, inquiry, origin)
                return Entered(account.recovery.sealed)
            case Recover():
                return await self._recover(email, inquiry, origin)

    async def _login(self, email: str, login: Login, origin: Origin) -> Reply:
        desk, now = self._desk, self._desk.clock()
        known = desk.accounts.all.get(email)
        secret, used = (known.totp, known.totp_step) if known is not None else (desk.nobody(TOTP_SECRET_SIZE), 0)
        step = accepted_step(secret, login.code, now, used)
        account = await desk.require_signed(email, WayKind.PASSWORD, login, origin, also=step is not None)
        token = desk.stored(login.token, login=True)

        def logged_in(account: Account) -> Account:
            assert step is not None
            if account.totp_step >= step:  # somebody else was quicker with this very code
                raise RefusedError(WRONG)
            return msgspec.structs.replace(account.with_token(token, now), totp_step=step)

        await desk.note(email, What.LOGGED_IN, token.id, origin.address)
        await desk.accounts.change(email, logged_in)
        log.info("%s has logged in; token %s", email, token.id)
        return Entered(account.password.sealed)

    async def _register(self, email: str, register: Register, origin: Origin) -> Reply:
        desk, now = self._desk, self._desk.clock()
        invitation = self._invited(register.invitation, email, now)
        if email in desk.accounts.all:
            raise RefusedError(f"there is an account {email} already; nothing was changed; log in: atefs login {email}")
        if not invitation.admin and invitation.email != email and desk.is_taken(email):
            raise RefusedError(_NO_INVITATION)
        if register.card.email != email:
            raise InvalidError("the card is another user's")
        register.card.verify()
        account = Account(
            email=email, created=int(now), admin=invitation.admin, password=register.password,
            recovery=register.recovery, totp=register.totp, totp_step=0, card=register.card,
            tokens=(desk.stored(register.token, login=True),),
        )  # fmt: skip
        if plain_code(register.invitation) == plain_code(desk.first_code):
            desk.first_code = ""
        else:
            await threads.run(desk.invitations.use, register.invitation)
        await threads.run(desk.tenants.add, email, (), {})
        await desk.accounts.add(account)
        await desk.note(email, What.REGISTERED, account.tokens[0].id, origin.address)
        log.info("%s has registered%s", email, ", and is the administrator" if account.admin else "")
        return Entered(account.password.sealed)

    def _invited(self, code: str, email: str, now: float) -> Invitation:
        """Whom a code is for. Raises RefusedError."""
        first = plain_code(self._desk.first_code)
        if first and digest(plain_code(code).encode()) == digest(first.encode()):  # tells nothing of how much fits
            return Invitation("", True, 0)
        invitation = self._desk.invitations.find(code, now)
        if invitation is None or invitation.email not in ("", email):
            raise RefusedError(_NO_INVITATION)
        return invitation

    async def _recover(self, email: str, recover: Recover, origin: Origin) -> Reply:
        account = await self._desk.require_signed(email, WayKind.RECOVERY, recover, origin)
        token = self._desk.stored(recover.token, login=True)

        def recovered(account: Account) -> Account:
            return msgspec.structs.replace(
                account, password=recover.password, recovery=recover.recovery, totp=recover.totp, totp_step=0,
                tokens=(token,),
            )  # fmt: skip

        await self._desk.note(email, What.RECOVERED, token.id, origin.address)
        await self._desk.accounts.change(email, recovered)
        log.info("%s has recovered the account; all tokens before have ended", email)
        return Entered(account.recovery.sealed)
