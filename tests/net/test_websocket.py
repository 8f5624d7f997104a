"""Records over real sockets: WebSocket with and without TLS, and what arrives instead of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from atedb.net.client import connect
from atedb.net.connection import MAX_RECORD
from atedb.net.errors import ConnectionLostError, ProtocolError
from atedb.net.session import serve_connection
from atedb.net.transport import Transport
from atedb.net.url import ServerUrl
from atedb.net.websocket import WebSocketTransport, listen, open_transport
from tests.net.certificates import certificate
from tests.net.wire import FILES, IDENTITY, KEY, Node


@contextmanager
def no_gate(scope: trio.CancelScope) -> Iterator[None]:
    yield


@asynccontextmanager
async def listening(
    node: Node, *, open_timeout: float = 10.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[ServerUrl, trio.CancelScope]]:
    """A server on a port of loopback, and the scope that ends its listening."""

    async def handler(transport: Transport) -> None:
        await serve_connection(transport, KEY, node.authenticate, node)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = ServerUrl(False, "127.0.0.1", listeners[0].socket.getsockname()[1], "/you@example.com/vault", None)
    asked = None if tls is None else lambda: tls
    async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
        accept = partial(listen, listeners, handler, handlers, gate=no_gate, tls=asked, open_timeout=open_timeout)
        await nursery.start(accept)
        yield url, nursery.cancel_scope
        nursery.cancel_scope.cancel()
        handlers.cancel_scope.cancel()


def test_a_client_and_a_server_talk_over_a_real_socket() -> None:
    async def main() -> None:
        node = Node()
        async with listening(node) as (url, accepting):
            async with connect(url, IDENTITY, KEY.fingerprint) as connection:
                await connection.open(url.path, create=FILES)
                frame = bytes(range(256)) * 20_000
                assert (await connection.append([frame])).sequence == 1
                assert await anext(connection.follow(1)) == [frame]
                accepting.cancel()
                assert await connection.ping() < 5  # who is in stays in
            with pytest.raises(ConnectionLostError):
                async with connect(url, IDENTITY, KEY.fingerprint):
                    raise AssertionError

    trio.run(main)


def test_nothing_but_the_resource_goes_over_the_wire_in_clear() -> None:
    async def main() -> None:
        node = Node()
        said = bytearray()
        async with listening(node) as (url, _):

            async def relay(stream: trio.SocketStream) -> None:
                server = await trio.open_tcp_stream(url.host, url.port)

                async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
                    async for data in source:
                        said.extend(data)
                        await target.send_all(data)

                async with server, trio.open_nursery() as nursery:
                    nursery.start_soon(copy, stream, server)
                    nursery.start_soon(copy, server, stream)

            proxies = await trio.open_tcp_listeners(0, host="127.0.0.1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, relay, proxies)
                through = url._replace(port=proxies[0].socket.getsockname()[1])
                async with connect(through, IDENTITY, None) as connection:
                    await connection.open(url.path, create=FILES)
                    await connection.append([b"canary of a frame"])
                    nursery.cancel_scope.cancel()
        assert b"GET /db HTTP" in said
        for secret in (b"canary", b"you@example.com", b"vault", FILES.header, IDENTITY.public):
            assert secret not in said

    trio.run(main)


@pytest.mark.parametrize(
    "said",
    [
        b"GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET /db HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /db HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"GET /" + b"a" * 20_000,
        b"GET /db HTTP/1.1\r\n" + b"a: b\r\n" * 1000,
        b"\x00" * 100_000,
        b"",
    ],
)
def test_whoever_speaks_something_else_is_gone_in_time_and_others_stay(said: bytes) -> None:
    async def main() -> None:
        node = Node()
        async with listening(node, open_timeout=0.3) as (url, _), connect(url, IDENTITY, None) as connection:
            stream = await trio.open_tcp_stream(url.host, url.port)
            with trio.fail_after(5):
                try:
                    await stream.send_all(said)
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            assert await connection.ping() < 5
            await stream.aclose()

    trio.run(main)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"220 mail\r\n", b"", b"HTTP/1.1 302"]
)
def test_a_server_of_another_kind_is_named_so(answer: bytes) -> None:
    async def main() -> None:
        async def other(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = ServerUrl(False, "127.0.0.1", listeners[0].socket.getsockname()[1], "/a/b", None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, other, listeners)
            with pytest.raises((ConnectionLostError, ProtocolError)):
                async with open_transport(url, timeout=5):
                    raise AssertionError
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_server_that_is_not_there_or_says_nothing_is_given_up_in_time() -> None:
    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = ServerUrl(False, "127.0.0.1", listeners[0].socket.getsockname()[1], "/a/b", None)
        with pytest.raises(ConnectionLostError, match="has not answered"):
            async with open_transport(url, timeout=0.2):
                raise AssertionError
        for listener in listeners:
            await listener.aclose()
        with pytest.raises(ConnectionLostError, match=r"cannot be reached: .*refused"):
            async with open_transport(url, timeout=5):
                raise AssertionError

    trio.run(main)


def pair() -> tuple[WebSocketTransport, trio.testing.MemoryReceiveStream, trio.testing.MemorySendStream]:
    """A server's transport with the upgrade done, and what a client's stream would send and receive."""
    stream, other = trio.testing.memory_stream_pair()
    protocol = ServerProtocol(max_size=MAX_RECORD)
    client = ClientProtocol(parse_uri("ws://host/db"))
    client.send_request(client.connect())
    protocol.receive_data(b"".join(client.data_to_send()))
    (request,) = protocol.events_received()
    protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    protocol.data_to_send()
    return WebSocketTransport(stream, protocol), other.receive_stream, other.send_stream


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=True)


def test_a_message_that_arrives_together_with_the_end_is_not_lost() -> None:
    async def main() -> None:
        transport, _, send = pair()
        await send.send_all(frame(Opcode.BINARY, b"last") + frame(Opcode.CLOSE, b"\x03\xe8"))
        assert await transport.receive() == b"last"
        with pytest.raises(ConnectionLostError):
            await transport.receive()

    trio.run(main)


def test_fragments_are_joined_and_empty_ones_cost_nothing() -> None:
    async def main() -> None:
        transport, _, send = pair()
        await send.send_all(frame(Opcode.BINARY, b"one", fin=False) + frame(Opcode.CONT, b"", fin=False) * 5000)
        await send.send_all(frame(Opcode.PING, b"") + frame(Opcode.CONT, b" two"))
        await send.send_all(frame(Opcode.BINARY, b"three"))
        assert await transport.receive() == b"one two"
        assert await transport.receive() == b"three"
        assert transport._pieces == []

    trio.run(main)


@pytest.mark.parametrize(
    "said",
    [
        frame(Opcode.TEXT, b"text"),
        frame(Opcode.BINARY, bytes(MAX_RECORD + 1)),
        frame(Opcode.BINARY, bytes(MAX_RECORD), fin=False) + frame(Opcode.CONT, b"x"),
        frame(Opcode.CONT, b"x"),
        b"\xff\xff",
        Frame(Opcode.BINARY, b"not masked").serialize(mask=False),
    ],
    ids=["text", "too large", "too large in parts", "a part of nothing", "noise", "not masked"],
)
def test_frames_that_no_end_sends_are_a_protocol_error(said: bytes) -> None:
    async def main() -> None:
        transport, _, send = pair()
        await send.send_all(said)
        with pytest.raises(ProtocolError):
            await transport.receive()

    trio.run(main)


def test_who_was_cancelled_in_the_middle_of_sending_can_send_no_more() -> None:
    async def main() -> None:
        transport, _, _ = pair()

        async def never() -> None:
            await trio.sleep_forever()

        transport._stream.send_stream.send_all_hook = never  # type: ignore[attr-defined]
        with trio.move_on_after(0.01):
            await transport.send(b"half")
        with pytest.raises(ConnectionLostError):
            await transport.send(b"more")
        await transport.aclose()

    trio.run(main)


def test_what_was_said_before_the_end_arrives_although_the_other_end_is_still_sending() -> None:
    async def main() -> None:
        async def handler(transport: Transport) -> None:
            await transport.send(b"why")
            await transport.aclose()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = ServerUrl(False, "127.0.0.1", listeners[0].socket.getsockname()[1], "/a/b", None)
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(listen, listeners, handler, nursery, gate=no_gate))
            for _ in range(20):
                async with open_transport(url, timeout=5) as transport:
                    for _ in range(5):
                        await transport.send(bytes(60_000))
                        await trio.sleep(0.001)
                    assert await transport.receive() == b"why"
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("trusted", [True, False])
def test_inside_of_tls_only_a_server_with_a_certificate_is_talked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    path = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def main() -> None:
        node = Node()
        async with listening(node, tls=context) as (url, _):
            secure = url._replace(tls=True)
            if not trusted:
                with pytest.raises(ConnectionLostError, match="certificate"):
                    async with connect(secure, IDENTITY, KEY.fingerprint):
                        raise AssertionError
                return
            async with connect(secure, IDENTITY, KEY.fingerprint) as connection:
                await connection.open(url.path, create=FILES)
                assert (await connection.append([bytes(1 << 20)])).sequence == 1

    trio.run(main)


def test_tls_is_asked_for_where_the_address_says_so() -> None:
    async def main() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        url = ServerUrl(True, "127.0.0.1", listeners[0].socket.getsockname()[1], "/a/b", None)
        said = bytearray()

        async def other(stream: trio.SocketStream) -> None:
            said.extend(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, other, listeners)
            with pytest.raises(ConnectionLostError):
                async with open_transport(url, timeout=5):
                    raise AssertionError
            nursery.cancel_scope.cancel()
        assert said[:3] == b"\x16\x03\x01"
        assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED

    trio.run(main)
