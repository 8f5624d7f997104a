"""Records over WebSocket (RFC 6455), with or without TLS: the only module that knows of it.

A record is one binary message. Nothing is read before it is asked for, so that a connection holds one record and one
read of the socket, and no more. There is nothing in the background, and a connection that is dropped is gone at once.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from atedb.net.connection import MAX_RECORD
from atedb.net.errors import ConnectionLostError, ProtocolError
from atedb.net.transport import Transport
from atedb.net.url import RESOURCE, ServerUrl

_READ = 64 << 10
_CLOSE_SECONDS = 1.0
_UNSENT = 128 << 10

_log = logging.getLogger(__name__)
_wire_log = logging.getLogger(__name__ + ".wire")
# Who connects and leaves is nobody's business unless it goes wrong, and then it is told here.
_wire_log.setLevel(logging.CRITICAL)

Gate = Callable[[trio.CancelScope], AbstractContextManager[None]]
"""Entered by each raw connection for as long as it lasts, with the scope that ends it at once when it is cancelled."""


Tls = Callable[[], ssl.SSLContext]
"""The certificate of a server, as it is now."""


class WebSocketTransport:
    """A Transport over a stream: `accept` or `request` the upgrade first."""

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol | ServerProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._sending = trio.Lock()
        self._half_sent = False
        self._closed = False
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._whole: deque[bytes] = deque()
        self._request: Request | None = None

    @property
    def peer(self) -> str:
        """As of Transport: an IP address."""
        stream = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        try:
            return str(stream.socket.getpeername()[0]) if isinstance(stream, trio.SocketStream) else ""
        except OSError:  # it is gone already
            return ""

    async def accept(self) -> None:
        """A server's upgrade. Raises ConnectionLostError, ProtocolError for what is no upgrade."""
        assert isinstance(self._protocol, ServerProtocol)
        while self._request is None:
            await self._read()
        if self._request.path == RESOURCE:
            response = self._protocol.accept(self._request)
        else:
            response = self._protocol.reject(404, "There is nothing here.\n")
        self._protocol.send_response(response)
        await self._flush()
        if self._protocol.state is not OPEN:
            raise ProtocolError("what was asked for is no upgrade to WebSocket")

    async def request(self) -> None:
        """A client's upgrade. Raises ConnectionLostError, ProtocolError for what is no server of this kind."""
        assert isinstance(self._protocol, ClientProtocol)
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while self._protocol.state is not OPEN:
            await self._read()

    async def send(self, data: bytes) -> None:
        """As of Transport. Cancelled in the middle, it leaves a connection of no use."""
        if self._protocol.state is not OPEN or self._half_sent:
            raise ConnectionLostError("the connection is closed")
        self._protocol.send_binary(data)
        await self._flush()

    async def receive(self) -> bytes:
        """As of Transport."""
        while not self._whole:
            if self._closed:
                raise ConnectionLostError("the other end closed the connection")
            await self._read()
        return self._whole.popleft()

    async def aclose(self) -> None:
        """As of Transport. Everything that was sent before is given a second to arrive."""
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            try:
                await self._part()
            except (ConnectionLostError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await trio.aclose_forcefully(self._stream)

    async def _part(self) -> None:
        """Say that this is the end, and wait for the other end's.

        A socket that is closed with input unread is reset, and then the other end's system throws away what it has
        received and not read yet: an answer, or why the connection ends.
        """
        if self._protocol.state is not OPEN or self._half_sent or self._sending.locked():
            return
        self._protocol.send_close(1000)
        await self._flush()
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        while await self._stream.receive_some(_READ):
            pass

    async def _read(self) -> None:
        try:
            data = await self._stream.receive_some(_READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise _broken(exc) from None
        if not data:
            raise ConnectionLostError("the other end closed the connection")
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            self._take(event)
        if self._closed:
            return  # what came before the end is still to be received: mostly it says why
        # The answers to pings, and what is said to somebody who breaks the rules.
        await self._flush()
        if self._protocol.handshake_exc is not None or self._protocol.parser_exc is not None:
            raise ProtocolError("what arrives is not WebSocket, or is more at once than allowed")

    def _take(self, event: object) -> None:
        if isinstance(event, Request):
            self._request = event
        if not isinstance(event, Frame) or event.opcode in (Opcode.PING, Opcode.PONG):
            return
        if event.opcode is Opcode.CLOSE:
            self._closed = True
            return
        if event.opcode is Opcode.TEXT:
            raise ProtocolError("text arrives; there is none in this protocol")
        # Empty pieces of one message count towards no limit.
        if event.data:
            self._pieces.append(event.data)
        if event.fin:
            self._whole.append(b"".join(self._pieces))
            self._pieces.clear()

    async def _flush(self) -> None:
        async with self._sending:
            for data in self._protocol.data_to_send():
                self._half_sent = True
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    raise _broken(exc) from None
                self._half_sent = False


def _trusting(authorities: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except OSError as exc:  # ssl.SSLError among them
            raise ConnectionLostError(f"there are no certificates that can be read in {authorities}: {exc}") from None
    return context


def _reason(exc: Exception) -> str:
    """What lies behind an error of a stream: of several attempts, the first."""
    reason = exc.__cause__ or exc
    while isinstance(reason, BaseExceptionGroup):
        reason = reason.exceptions[0]
    if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError) and (reason.errno or 0) > 0:
        return os.strerror(reason.errno or 0)
    return str(reason)


def _broken(exc: Exception) -> ConnectionLostError:
    return ConnectionLostError(f"the connection broke: {_reason(exc)}")


@asynccontextmanager
async def open_transport(
    url: ServerUrl, *, timeout: float, authorities: Path | None = None
) -> AsyncIterator[Transport]:
    """A transport to the server of `url`, closed with the block. Raises ConnectionLostError, ProtocolError.

    timeout: seconds for everything before the block. With `wss`, the server's certificate must be one that this
    system trusts, or somebody in the file `authorities` (PEM) vouches for, for the host's name.
    """
    stream: trio.abc.Stream | None = None
    try:
        with trio.move_on_after(timeout) as bound:
            try:
                stream = await trio.open_tcp_stream(url.host, url.port)
                _hold_back(stream)
                if url.tls:
                    stream = trio.SSLStream(
                        stream, _trusting(authorities), server_hostname=url.host, https_compatible=True
                    )
                    await stream.do_handshake()
                protocol = ClientProtocol(parse_uri(url.server + RESOURCE), max_size=MAX_RECORD, logger=_wire_log)
                transport = WebSocketTransport(stream, protocol)
                await transport.request()
            except (OSError, trio.BrokenResourceError, WebSocketException) as exc:
                raise ConnectionLostError(f"{url.server} cannot be reached: {_reason(exc)}") from None
        if bound.cancelled_caught:
            raise ConnectionLostError(f"{url.server} has not answered for {timeout:.0f} seconds")
        try:
            yield transport
        finally:
            await transport.aclose()
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def listen(
    listeners: Sequence[trio.SocketListener],
    handler: Callable[[Transport], Awaitable[None]],
    handlers: trio.Nursery,
    *,
    gate: Gate,
    tls: Tls | None = None,
    open_timeout: float = 10.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take connections from `listeners` for ever, and run `handler` for each in the nursery `handlers`.

    To stop in peace: cancel this, then wait until `handlers` is empty. An error of a handler is logged and ends its
    connection only. gate: around the whole life of each connection, TLS and the upgrade included. tls: asked for each
    connection; without, there is no TLS. open_timeout: seconds for these two.
    """
    serve = partial(_serve_stream, handler=handler, gate=gate, tls=tls, open_timeout=open_timeout)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_listeners, serve, list(listeners), handler_nursery=handlers))
        task_status.started()


async def _serve_stream(
    stream: trio.abc.Stream,
    *,
    handler: Callable[[Transport], Awaitable[None]],
    gate: Gate,
    tls: Tls | None,
    open_timeout: float,
) -> None:
    """One raw connection, from the first byte to the last."""
    try:
        with trio.CancelScope() as scope, gate(scope):
            transport = None
            with trio.move_on_after(open_timeout):
                transport = await _upgraded(stream, tls)
            if transport is not None:
                await handler(transport)
    except (ConnectionLostError, ProtocolError, trio.BrokenResourceError) as exc:
        _log.debug("a connection ended before it was one: %s", exc)
    except Exception:
        _log.exception("a connection was ended by an error of this program")
    finally:
        await trio.aclose_forcefully(stream)


def _hold_back(stream: trio.abc.Stream) -> None:
    """Leave little unsent with the system: an upload's pieces in its buffer would delay what is urgent."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, _UNSENT)


async def _upgraded(stream: trio.abc.Stream, tls: Tls | None) -> WebSocketTransport:
    _hold_back(stream)
    if tls is not None:
        stream = trio.SSLStream(stream, tls(), server_side=True, https_compatible=True)
        await stream.do_handshake()
    # Browsers say on whose behalf they come (RFC 6455 section 10.2); web pages have no business with a server here.
    protocol = ServerProtocol(origins=[None], max_size=MAX_RECORD, logger=_wire_log)
    transport = WebSocketTransport(stream, protocol)
    await transport.accept()
    return transport
