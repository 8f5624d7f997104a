"""What a node tells of itself over HTTP: whether it is well, and its numbers. No name, no key, no address."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from atedb.node import metrics
from atedb.node.guests import Guests
from atedb.node.hosts import Hosts
from atedb.node.http import Page, Route, json_page
from atedb.node.lobby import Lobby
from atedb.node.metrics import Metric, Sample, counter, gauge
from atedb.node.supervisor import ServiceState


def routes(
    data: Path, states: Mapping[str, ServiceState], lobby: Lobby, guests: Guests, hosts: Hosts
) -> dict[str, Route]:
    """The pages of a node."""
    process, services = _Process(data), _services(states)

    def numbers() -> Page:
        sources = (process.metrics, services, lambda: _connections(lobby, guests), lambda: _chains(hosts))
        return Page(200, metrics.CONTENT_TYPE, metrics.render(sources).encode())

    return {"/health": lambda: _health(states), "/metrics": numbers}


def _health(states: Mapping[str, ServiceState]) -> Page:
    """200 when every service does its work, else 503. error: of each service's last failure, as ServiceState says."""
    well = all(state.running for state in states.values())
    return json_page(200 if well else 503, {"status": "ok" if well else "failing", "services": states})


def _services(states: Mapping[str, ServiceState]) -> Callable[[], Iterator[Metric]]:
    def source() -> Iterator[Metric]:
        running = [Sample(int(state.running), {"service": name}) for name, state in states.items()]
        yield Metric("service_up", "gauge", "Whether the service does its work.", running)
        restarts = [Sample(state.restarts, {"service": name}) for name, state in states.items()]
        yield Metric("service_restarts_total", "counter", "How often it was started again.", restarts)

    return source


class _Process:
    """The process and the disk."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._start = time.time()
        self._page_size = os.sysconf("SC_PAGE_SIZE")
        self._version = version("atefs")

    def metrics(self) -> Iterator[Metric]:
        disk = os.statvfs(self._data)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield Metric("info", "gauge", "The version that runs.", [Sample(1, {"version": self._version})])
        yield gauge("start_time_seconds", "When the node was started, since 1970.", self._start)
        yield gauge("resident_memory_bytes", "Memory of the process.", pages * self._page_size)
        yield gauge("open_files", "Open files and sockets.", len(os.listdir("/proc/self/fd")))
        yield gauge("disk_free_bytes", "What the data folder's disk can still take.", disk.f_bavail * disk.f_frsize)


def _connections(lobby: Lobby, guests: Guests) -> Iterator[Metric]:
    yield gauge("connections", "Connections, whether or not they have said who they are.", lobby.count)
    yield gauge("clients", "Connections of clients that were let in.", guests.connected)
    yield gauge("tenants", "Tenants that are let in.", len(guests.known))
    yield counter("connections_turned_away_total", "Connections ended for want of room.", lobby.turned_away)
    yield counter("clients_refused_total", "Clients that proved a key and were not let in.", guests.refused)


def _chains(hosts: Hosts) -> Iterator[Metric]:
    stats = hosts.stats()
    yield gauge("chains_open", "Chains that are open.", stats.open)
    yield gauge("stored_bytes", "Bytes of all chains.", stats.stored)
    yield counter("appends_total", "Appends that were made durable.", stats.appends)
    yield counter("batches_total", "Batches in them.", stats.batches)
    yield counter("appended_bytes_total", "Bytes in them.", stats.bytes)
