"""Health and metrics over HTTP/1.1 (RFC 9112), for the machine that the node runs on: a request a connection.

Nothing here names a tenant, a chain or an address, since whoever has an account on the machine may ask.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import h11
import msgspec
import trio

log = logging.getLogger(__name__)

REQUEST_MAX = 8192
REQUEST_SECONDS = 5.0
CONNECTIONS_MAX = 32


class Page(NamedTuple):
    """What is answered. status: of HTTP."""

    status: int
    content_type: str
    body: bytes


Route = Callable[[], Page]


def json_page(status: int, value: object) -> Page:
    """A page for programs."""
    return Page(status, "application/json", msgspec.json.encode(value) + b"\n")


def _plain(status: int, text: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", text.encode() + b"\n")


class HttpServer:
    """Answers GET and HEAD for the paths of `routes`."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._open = 0

    async def answer(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, in bounded time and memory; closes it. A connection that fails costs only itself."""
        async with stream:
            if self._open >= CONNECTIONS_MAX:
                return
            self._open += 1
            try:
                with trio.move_on_after(REQUEST_SECONDS):
                    await self._exchange(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer has gone
            finally:
                self._open -= 1

    async def _exchange(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_MAX)
        try:
            event = connection.next_event()
            while event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(REQUEST_MAX)))
                event = connection.next_event()
            if not isinstance(event, h11.Request):
                return  # closed before it asked
            page, with_body = self._page(event), event.method != b"HEAD"
        except h11.RemoteProtocolError as error:
            page, with_body = _plain(error.error_status_hint, "this is no request"), True
        if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await stream.send_all(_encode(connection, page, with_body=with_body))

    def _page(self, request: h11.Request) -> Page:
        if request.method not in (b"GET", b"HEAD"):
            return _plain(405, "only GET and HEAD are answered")
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        route = self._routes.get(path)
        if route is None:
            return _plain(404, "there are: " + " ".join(sorted(self._routes)))
        try:
            return route()
        except Exception:
            log.exception("the page %s could not be made", path)
            return _plain(500, "the page could not be made; the log says why")


def _encode(connection: h11.Connection, page: Page, *, with_body: bool) -> bytes:
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
    ]
    parts = [
        connection.send(h11.Response(status_code=page.status, headers=headers)),
        connection.send(h11.Data(data=page.body if with_body else b"")),
        connection.send(h11.EndOfMessage()),
    ]
    return b"".join(part for part in parts if part)
