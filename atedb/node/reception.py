"""Where inquiries about accounts arrive: read, handed on, answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from atedb.account.audit import What
from atedb.account.messages import decode_member, decode_visitor, encode
from atedb.net.errors import RefusedError
from atedb.node.accounts import Holder
from atedb.node.desk import Desk, Origin
from atedb.node.members import Asked, Members
from atedb.node.visitors import Visitors

REFUSAL_SECONDS = 60.0
"""Of refused chains of one token, one in so long is noted."""


class Reception:
    """See `Desk` for what it is made with."""

    def __init__(
        self, data: Path, secret: bytes, used: Callable[[str], int], clock: Callable[[], float] = time.time
    ) -> None:
        self.desk = Desk(data, secret, used, clock)
        self.accounts = self.desk.accounts
        self._visitors = Visitors(self.desk)
        self._members = Members(self.desk)
        self._quiet: dict[bytes, float] = {}

    async def visitor(self, data: bytes, origin: Origin) -> bytes:
        """The reply to somebody who has no token. Raises RefusedError, InvalidError, RateError, StorageError."""
        return encode(await self._visitors.answer(decode_visitor(data), origin))

    async def member(self, data: bytes, origin: Origin, identity: bytes) -> bytes:
        """The reply to somebody who came by a token. Raises as `visitor`, LimitError."""
        inquiry = decode_member(data)
        holder = self.accounts.holder(identity, self.desk.clock())
        if holder is None:
            raise RefusedError("this needs a login: atefs login you@example.com")
        await self.desk.write_later()
        return encode(await self._members.answer(inquiry, Asked(holder, origin)))

    def refused_chain(self, holder: Holder, path: str, address: str) -> None:
        """A token has asked for a chain that it is not for."""
        identity, now = holder.token.token.identity, self.desk.clock()
        if self._quiet.get(identity, 0) <= now:
            self._quiet = {one: until for one, until in self._quiet.items() if until > now}
            self._quiet[identity] = now + REFUSAL_SECONDS
            self.desk.note_later(holder.account.email, What.CHAIN_REFUSED, f"{path}, token {holder.token.id}", address)
