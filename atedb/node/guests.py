"""Who is connected: which tenant a proven key is, how much that tenant may do, and until when it is let in.

A key is a tenant's by the folder of tenants, or a token of an account. Whoever has none is a visitor, who may register
or log in.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from atedb import threads
from atedb.errors import LimitError
from atedb.net.budget import ByteBudget
from atedb.net.errors import RefusedError
from atedb.net.host import Access
from atedb.node.accounts import Holder
from atedb.node.config import Config
from atedb.node.desk import Origin
from atedb.node.rates import TokenBucket
from atedb.node.reception import Reception
from atedb.node.tenants import Tenant, Tenants

log = logging.getLogger(__name__)

MEMORY = 320 << 20
"""Bytes that the connections of one tenant may have in memory together: a frame of the largest size, and some more.
Those of all tenants may have half of the machine's memory together."""
LEAST_COST = 4096
"""Bytes that a request counts as at least: what a barrier writes, and about what any request costs in time."""
REREAD_SECONDS = 1.0
_RECENT_NS = 2_000_000_000

ANYBODY = ""
"""The tenant that all are on a server that takes anybody."""
VISITOR_MEMORY = 1 << 20
VISITOR_RATE, VISITOR_BURST = 1.0, 20.0
"""Inquiries a second of the visitors from one network, and at once after a pause."""
VISITOR_NETWORKS = 4096


class Usage(Protocol):
    """Who knows what a tenant stores: the node's `Hosts`."""

    def used(self, tenant: str) -> int:
        """Bytes that the chains below "/tenant/" store."""


class _Party:
    """What the connections of one tenant share."""

    def __init__(self, tenant: Tenant, config: Config, memory: ByteBudget) -> None:
        self._config = config
        self.memory = ByteBudget(MEMORY, within=memory)
        self.guests: set[NodeGuest] = set()
        self.bucket = TokenBucket(config.tenant_rate, config.tenant_rate)
        self.limit(tenant)

    def limit(self, tenant: Tenant) -> None:
        """Take over what the tenant's file says now."""
        rate = tenant.rate or self._config.tenant_rate
        self.bucket.change(rate, rate)
        self.tenant = tenant
        self.connections = tenant.connections or self._config.tenant_connections


class NodeGuest:
    """One connection of a client that has proven its key. See `atedb.net.host.Guest`. holder: of its token, if the key
    is one's.
    """

    def __init__(
        self, name: str, identity: bytes, party: _Party, *, holder: Holder | None, address: str, reception: Reception,
        usage: Usage, dismiss: Callable[[], None],
    ) -> None:  # fmt: skip
        self.identity = identity
        self.dismiss = dismiss
        self.memory = party.memory
        self._name = name
        self._party = party
        self._holder = holder
        self._address = address
        self._reception = reception
        self._usage = usage
        self._tenant = name
        party.guests.add(self)

    def authorize(self, path: str) -> Access:
        """What this client may do with the chain at `path`. Raises RefusedError."""
        tenant = path.split("/")[1] if path.startswith("/") else ""
        holder = self._holder
        if not tenant or self._name not in (ANYBODY, tenant) or (holder is not None and not holder.opens(path)):
            if holder is not None:
                self._reception.refused_chain(holder, path, self._address)
            raise RefusedError("there is no chain here that this identity may open; ask whoever runs the server")
        self._tenant = tenant
        may_write = holder is None or holder.may_write
        return Access(quota=self._party.tenant.quota, may_create=may_write, may_write=may_write)

    async def spend(self, cost: int) -> None:
        """Wait for the tenant's rate. Raises RateError."""
        await self._party.bucket.take(max(LEAST_COST, cost))

    def used(self) -> int:
        """Bytes that the tenant stores."""
        return self._usage.used(self._tenant)

    async def inquire(self, data: bytes, conversation: bytes) -> bytes:
        """The reply to what is asked about accounts."""
        return await self._reception.member(data, Origin(conversation, self._address), self.identity)

    def close(self) -> None:
        """The connection has ended."""
        self._party.guests.discard(self)


class Visitor:
    """One connection of somebody who has no key yet. See `atedb.net.host.Guest`."""

    def __init__(self, address: str, bucket: TokenBucket, reception: Reception) -> None:
        self.memory = ByteBudget(VISITOR_MEMORY)
        self._address = address
        self._bucket = bucket
        self._reception = reception

    def authorize(self, path: str) -> Access:
        """Raises RefusedError."""
        raise RefusedError("whoever has not logged in may open no chain here; say: atefs login you@example.com")

    async def spend(self, cost: int) -> None:
        """Wait for the rate of all visitors from this network. Raises RateError."""
        await self._bucket.take(1.0)

    async def inquire(self, data: bytes, conversation: bytes) -> bytes:
        """The reply to what is asked about accounts."""
        return await self._reception.visitor(data, Origin(conversation, self._address))

    def used(self) -> int:
        """Visitors store nothing."""
        return 0

    def close(self) -> None:
        """The connection has ended."""


class Guests:
    """Lets clients in as the folder of tenants and the accounts say, and puts those out who are no longer in them.

    A server that was once closed stays so while it runs. refused: connections that proved a key and were not let in.
    """

    def __init__(self, tenants: Tenants, config: Config, usage: Usage, reception: Reception) -> None:
        self._tenants = tenants
        self._config = config
        self._usage = usage
        self._accounts = reception.accounts
        self._reception = reception
        self._clock = reception.desk.clock
        self._visitors: OrderedDict[str, TokenBucket] = OrderedDict()
        self._accounts.changed = self._dismiss_strangers
        self._memory = ByteBudget(max(MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2))
        self._parties: dict[str, _Party] = {}
        self._names: dict[bytes, str] = {}
        self._folder_mark = (0, 0)
        self._changes = 0
        self.known: Mapping[str, Tenant] = {}
        self.closed = False
        self.refused = 0
        self._take_over(*self._read())

    @property
    def connected(self) -> int:
        """Connections that have been let in and not ended."""
        return sum(len(party.guests) for party in self._parties.values())

    def admit(self, identity: bytes, dismiss: Callable[[], None], address: str = "") -> NodeGuest:
        """Who the owner of a proven key is. dismiss: ends the connection at once, should the tenant be removed, or the
        token revoked or expire. address: where it comes from.

        Raises RefusedError, LimitError for more connections than the tenant may have, StorageError.
        """
        if self._folder_changed() and (identity not in self._names or not self.closed):
            self._take_over(*self._read())
        name = self._name_of(identity) if self.closed else ANYBODY
        if name is None:
            self.refused += 1
            raise RefusedError(
                "this identity is not let in here, or no longer; log in: atefs login you@example.com, or ask whoever "
                "runs the server"
            )
        party = self._party(name)
        if len(party.guests) >= party.connections:
            self.refused += 1
            raise LimitError(f"there are {party.connections} connections of this tenant already; close one of them")
        holder = self._accounts.holder(identity, self._clock())
        self._accounts.used(identity, self._clock(), address)
        return NodeGuest(
            name, identity, party, holder=holder, address=address, reception=self._reception, usage=self._usage,
            dismiss=dismiss,
        )  # fmt: skip

    def visit(self, address: str) -> Visitor:
        """Somebody who has no key yet."""
        network = _network(address)
        bucket = self._visitors.pop(network, None) or TokenBucket(VISITOR_RATE, VISITOR_BURST)
        self._visitors[network] = bucket
        if len(self._visitors) > VISITOR_NETWORKS:
            self._visitors.popitem(last=False)
        return Visitor(address, bucket, self._reception)

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """`renew` for ever. A service; see `supervisor`."""
        task_status.started()
        while True:
            await trio.sleep(REREAD_SECONDS)
            await self.renew()
            self._dismiss_strangers()
            await self._reception.desk.write_later()

    async def renew(self) -> None:
        """Take over what has changed in the folder of tenants. Raises StorageError."""
        before = self._changes
        found = await threads.run(self._read)
        if self._changes == before:  # else somebody came in meanwhile, and what is known is newer
            self._take_over(*found)

    def _party(self, name: str) -> _Party:
        party = self._parties.get(name)
        if party is None:
            tenant = self.known[name] if name != ANYBODY else Tenant(connections=self._config.connections)
            party = self._parties[name] = _Party(tenant, self._config, self._memory)
        return party

    def _read(self) -> tuple[tuple[int, int], bool, Mapping[str, Tenant]]:
        """The folder as it is now: what tells it from what it was, whether it is there, and what is in it."""
        mark = self._mark()
        return mark, self._tenants.required(), self._tenants.all()

    def _take_over(self, mark: tuple[int, int], required: bool, known: Mapping[str, Tenant]) -> None:
        self._changes += 1
        self._folder_mark = mark
        if required and not self.closed:
            self.closed = True
            log.info("only tenants are let in")
        if not self.closed:
            return
        self.known = known
        self._names = {}
        for name, tenant in sorted(known.items()):
            for key in tenant.keys:
                self._names.setdefault(
                    bytes.fromhex(key), name
                )  # where files written by hand name it twice, the first one has it
        for name, party in list(self._parties.items()):
            party.limit(known.get(name, Tenant()))
            if not party.guests and name not in known:  # others stay: what they owe of their rate is not forgotten
                del self._parties[name]
        self._dismiss_strangers()

    def _dismiss_strangers(self) -> None:
        """End the connections of keys that are let in no more."""
        for name, party in self._parties.items() if self.closed else ():
            for guest in list(party.guests):
                if self._name_of(guest.identity) != name:
                    guest.dismiss()

    def _name_of(self, identity: bytes) -> str | None:
        """Which tenant a key is; None for none."""
        name = self._names.get(identity)
        if name is not None:
            return name
        holder = self._accounts.holder(identity, self._clock())
        return holder.account.email if holder is not None and holder.account.email in self.known else None

    def _mark(self) -> tuple[int, int]:
        try:
            about = os.stat(self._tenants.folder)
        except FileNotFoundError:
            return (0, 0)
        return (about.st_ino, about.st_mtime_ns)

    def _folder_changed(self) -> bool:
        """Whether the folder may have other names in it. The clock of file times is coarse: what is recent may have."""
        mark = self._mark()
        return mark != self._folder_mark or abs(time.time_ns() - mark[1]) < _RECENT_NS


def _network(address: str) -> str:
    """What one party can choose addresses in: of IPv6, the first 64 bits; and of IPv4, a single address."""
    try:
        number = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is None:
        return str(ipaddress.ip_network((number, 64), strict=False))
    return str(number)
