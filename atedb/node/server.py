"""`atedb solo`: one process that serves the chains of one data folder, from its start to its orderly end."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import trio

from atedb.chain.disk import RealDisk
from atedb.crypto.hashing import derive
from atedb.crypto.kem import KemKey
from atedb.daemon.notify import notify
from atedb.engine.files import FileEngine
from atedb.errors import AteError
from atedb.net.host import Guest
from atedb.net.session import serve_connection
from atedb.net.transport import Transport
from atedb.net.websocket import listen
from atedb.node import addresses, lobby, reports
from atedb.node.certificate import ServerCertificate
from atedb.node.config import Config
from atedb.node.data_folder import CHAINS, INDEX, held
from atedb.node.guests import Guests
from atedb.node.hosts import Hosts
from atedb.node.http import HttpServer
from atedb.node.lobby import Lobby
from atedb.node.memory import return_large_memory
from atedb.node.reception import Reception
from atedb.node.server_key import load_or_make
from atedb.node.supervisor import Service, Supervisor
from atedb.node.tenants import Tenants

log = logging.getLogger(__name__)

STOP_SECONDS = 20.0
"""How long clients have, at the end, to get the answers to what they have asked."""


class Running(NamedTuple):
    """A server that serves. addresses: where, for chains, at `port`. http_port: on loopback, health and metrics.

    closed: only tenants are let in. tls: clients for chains come by TLS. first_code: with which the first user
    registers; empty once there is one.
    """

    addresses: Sequence[str]
    port: int
    http_port: int
    fingerprint: bytes
    closed: bool
    tls: bool
    first_code: str


def run(config: Config, ready: Callable[[Running], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what clients have asked, and return.

    A server that other machines can reach lets in tenants only, also as long as there is none.

    ready: called once, when clients can connect. Raises ConfigError for an address that is none here and for a
    certificate that is none, OwnerError, InUseError for a port or data folder of another server, DamagedError,
    StorageError; nothing was served then.
    """
    _allow_many_files()
    return_large_memory()
    with held(config.data):
        node = _Node(config, load_or_make(config.data), ready)
        try:
            trio.run(node.run)
        except BaseExceptionGroup as group:
            raise _only(group) from None


class _Node:
    def __init__(self, config: Config, key: KemKey, ready: Callable[[Running], None]) -> None:
        self._config = config
        self._key = key
        self._ready = ready
        self._lobby = Lobby(config.connections)
        self._stopping = trio.Event()
        self._port, self._http_port = config.port, config.http_port
        self._certificate = ServerCertificate.of(config)

    async def run(self) -> None:
        """The node's life."""
        config = self._config
        centralized = config.trust == "centralized"
        self._hosts = Hosts(FileEngine(RealDisk(), config.data / CHAINS), config.data / INDEX, centralized=centralized)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            try:
                tenants = Tenants(config.data)
                self._addresses = await addresses.resolve(config.listen)
                if not addresses.are_loopback(self._addresses):
                    tenants.require()
                self._reception = Reception(config.data, derive("reception", self._key.private), self._hosts.used)
                self._guests = Guests(tenants, config, self._hosts, self._reception)
                await self._serve(signals)
                await self._reception.desk.write_later()
                await self._reception.accounts.write_uses()
            finally:
                with trio.CancelScope(shield=True):
                    await self._hosts.aclose()

    async def _serve(self, signals: AsyncIterator[int]) -> None:
        """Serve until a signal, then let the clients finish, until another one."""
        async with trio.open_nursery() as impatience:
            async with trio.open_nursery() as clients:
                self._clients = clients
                async with trio.open_nursery() as services:
                    await self._start(services)
                    await anext(signals)
                    notify("STOPPING=1")
                    log.info("stopping: no new connections, %d open ones are finished", self._lobby.count)
                    services.cancel_scope.cancel()
                self._stopping.set()
                self._lobby.close()
                clients.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
                impatience.start_soon(self._hurry, signals)
            impatience.cancel_scope.cancel()
        log.info("stopped")

    async def _start(self, services: trio.Nursery) -> None:
        work: dict[str, Service] = {
            "chains": self._listen, "http": self._report, "tenants": self._guests.watch, "housekeeping": self._tidy,
            "accounts": self._reception.accounts.watch,
        }  # fmt: skip
        if self._certificate is not None:
            work["certificate"] = self._certificate.watch
        supervisor = Supervisor(work)
        pages = reports.routes(self._config.data, supervisor.states, self._lobby, self._guests, self._hosts)
        self._http = HttpServer(pages)
        await services.start(supervisor.run)
        self._ready(
            Running(
                self._addresses, self._port, self._http_port, self._key.fingerprint, self._guests.closed,
                self._certificate is not None, self._reception.desk.first_code,
            )
        )  # fmt: skip
        notify("READY=1")

    async def _hurry(self, signals: AsyncIterator[int]) -> None:
        await anext(signals)
        log.warning("a second signal: connections are ended at once")
        self._clients.cancel_scope.cancel()

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The service for chains. What is connected stays when it fails."""
        listeners = await addresses.bind(self._addresses, self._port)
        self._port = addresses.port_of(listeners[0])
        certificate = self._certificate
        tls = None if certificate is None else lambda: certificate.context
        await listen(listeners, self._attend, self._clients, gate=self._lobby.gate, tls=tls, task_status=task_status)

    async def _attend(self, transport: Transport) -> None:
        """One connection."""
        visit = lobby.current()

        def authenticate(identity: bytes) -> Guest:
            if not identity:
                return self._guests.visit(transport.peer)
            guest = self._guests.admit(identity, visit.end, transport.peer)
            visit.introduce()
            return guest

        await serve_connection(transport, self._key, authenticate, self._hosts, stopping=self._stopping)

    async def _report(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The service for health and metrics."""
        listeners = await addresses.bind([addresses.LOOPBACK], self._http_port)
        self._http_port = addresses.port_of(listeners[0])
        task_status.started()
        await trio.serve_listeners(self._http.answer, listeners)

    async def _tidy(self, *, task_status: trio.TaskStatus[None]) -> None:
        """The service that closes chains that nobody uses."""
        task_status.started()
        await self._hosts.run()


def _allow_many_files() -> None:
    """A connection is an open file, and so is a segment that is read: take all that the system allows us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a start failed for, out of the groups that trio wraps it in; the group, when it is more than one error."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, AteError) else group
