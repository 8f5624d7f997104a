"""What hostile bytes reach: decoders, and both ends of a conversation. A target raises for whatever must not happen.

A target takes any bytes. Decoders take them as they are; for the two ends they are a script (`script`), because nobody
gets anything past the seal of a record by chance: what arrives is sealed by somebody who has the keys.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import trio
import trio.testing
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol as WebSocketServer

from atedb.chain.frame import decode_frame
from atedb.chain.header import parse_header
from atedb.chain.slim import slim_form
from atedb.crypto.slot_file import SlotTable
from atedb.errors import AteError, DamagedError, InvalidError, LimitError
from atedb.net.client import ServerConnection, connect_transport
from atedb.net.connection import ClientProtocol, ServerProtocol
from atedb.net.errors import ConnectionLostError, ProtocolError
from atedb.net.messages import Follow, GetBodies, Message, Open, Ping, decode_answer, decode_request, encode
from atedb.net.websocket import WebSocketTransport
from atedb.node.checking import check_whole
from atedb.testing.links import Link
from tests.engine.frames import Author
from tests.net.test_messages import ANSWERS, REQUESTS
from tests.net.wire import FILES, IDENTITY, KEY, PATH, ListChain, Node, run, serving

Target = Callable[[bytes], None]


def messages(data: bytes) -> None:
    """What is inside of records."""
    for decode in (decode_request, decode_answer):
        with suppress(ProtocolError):
            decode(data)


def frames(data: bytes) -> None:
    """Batches, as a replica and as a node look at them first."""
    with suppress(DamagedError):
        slim_form(decode_frame(data), data)
    with suppress(InvalidError, LimitError):
        check_whole([data])


def documents(data: bytes) -> None:
    """A chain's header and its key slots, which a server gives to clients."""
    for parse in (parse_header, lambda text: SlotTable.parse(text, "what the server has")):
        with suppress(AteError):
            parse(data)


def websocket(data: bytes) -> None:
    """What comes over a socket, the upgrade included."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        transport = WebSocketTransport(ours, WebSocketServer())
        await theirs.send_all(data)
        await theirs.send_eof()
        with suppress(ProtocolError, ConnectionLostError):
            await transport.accept()
            while True:
                await transport.receive()

    run(main)


def script(data: bytes, known: list[Message]) -> Iterator[bytes]:
    """Plaintexts of records. Each step is two bytes, what to do and how long its piece is, and the piece."""
    at = 0
    while at + 2 <= len(data):
        what, length = data[at], data[at + 1]
        piece = data[at + 2 : at + 2 + length]
        at += 2 + length
        match what % 8:
            case 0:
                yield piece
            case 1:
                yield b"\0" + piece
            case 2:
                yield b"\1" + piece
            case 3:
                yield b"\1" + len(piece).to_bytes(4, "little") + piece
            case _:
                yield _altered(known[what // 8 % len(known)], piece)


def _altered(message: Message, piece: bytes) -> bytes:
    """The record of a short message, with the piece's pairs of bytes (place, value) put in."""
    encoded = bytearray(encode(message)[:60_000])
    for place, value in zip(piece[::2], piece[1::2], strict=False):
        encoded[place % len(encoded)] = value
    return (b"\1" + len(encoded).to_bytes(4, "little") if message.bulk else b"\0") + bytes(encoded)


class _Errors(logging.Handler):
    """Errors that are logged because they were unforeseen."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record)


def _watched(main: Callable[[], Awaitable[None]]) -> None:
    """Run it; an error of the program that was caught and logged counts like one that was not."""
    errors = _Errors()
    log = logging.getLogger("atedb")
    log.addHandler(errors)
    try:
        run(main)
    finally:
        log.removeHandler(errors)
    for record in errors.found:
        raise AssertionError(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)


_OPENING: list[Message] = [Open(2, PATH, FILES), Follow(3, 1, True, 1000), GetBodies(4, [(1, 1)]), Ping(5)]


def session(data: bytes) -> None:
    """A node's end: somebody who was let in says anything."""

    async def main() -> None:
        link = Link(capacity=1 << 16)
        node = Node({PATH: ListChain([b"one", b"two"], documents={"chain": (b"h", 1), "keys": (b"k", 1)})})
        async with serving(node, link):
            client = ClientProtocol(IDENTITY, None)
            with suppress(ConnectionLostError):
                while not client.ready:
                    while (said := client.next_to_send()) is not None:
                        await link.client.send(said)
                    client.receive(await link.client.receive())
                assert client._sealer is not None
                if data[:1] > b"\x40":
                    await link.client.send(client._sealer.seal(b"\1" + _bulk(encode(_OPENING[0]))))
                for plaintext in script(data[1:], [*_OPENING, *REQUESTS]):
                    await link.client.send(client._sealer.seal(plaintext))
                    await trio.lowlevel.checkpoint()
                await trio.sleep(1)
        assert (node.guests, node.open_now, node.memory.free) == (node.closed, 0, node.memory.total)

    _watched(main)


def _bulk(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


async def _serve_nonsense(link: Link, data: bytes) -> None:
    """A server that lets the client in, and then says what the script says."""
    server = ServerProtocol(KEY)
    with suppress(ConnectionLostError, ProtocolError):
        while not server.ready:
            server.receive(await link.server.receive())
            if server.identity is not None:
                server.welcome(1)
            while (said := server.next_to_send()) is not None:
                await link.server.send(said)
        await trio.sleep(1)  # all that the client asks has been asked
        assert server._sealer is not None
        for plaintext in script(data, ANSWERS):
            await link.server.send(server._sealer.seal(plaintext))
            await trio.lowlevel.checkpoint()
    await link.server.aclose()


async def _use(connection: ServerConnection) -> None:
    """All that a client asks, at the same time."""

    async def ask(question: Callable[[], Awaitable[object]]) -> None:
        with suppress(AteError):
            await question()

    async def follow() -> None:
        async for _ in connection.follow(1):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, lambda: connection.open(PATH, create=(b"h", b"k")))
        nursery.start_soon(ask, follow)
        nursery.start_soon(ask, lambda: connection.append([b"frame"]))
        nursery.start_soon(ask, lambda: connection.bodies([(1, 1), (1, 2)]))
        nursery.start_soon(ask, lambda: connection.document("keys"))
        nursery.start_soon(ask, connection.stats)
        nursery.start_soon(ask, connection.ping)


def client(data: bytes) -> None:
    """A client's end: a server that has its key says anything. Nothing is waited for when the connection has ended."""

    async def main() -> None:
        link = Link(capacity=1 << 16)
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve_nonsense, link, data)
                async with connect_transport(link.client, IDENTITY, KEY.fingerprint) as connection:
                    await _use(connection)
                    assert connection.lost

    _watched(main)


def _upgrade() -> bytes:
    lines = (
        "GET /db HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )  # fmt: skip
    return "\r\n".join((*lines, "", "")).encode()


def _seeds() -> dict[str, list[bytes]]:
    author = Author()
    batch = author.frame(author.meta("a", bytes(60)), author.blob("b", bytes(900)), author.end("c"))
    steps = b"".join(bytes([4 + 8 * number, 0]) for number in range(30))
    return {
        "messages": [encode(message)[:400] for message in REQUESTS + ANSWERS],
        "frames": [batch, author.frame()],
        "documents": [author.files.header, b'{"version": 1}', b"[]"],
        "websocket": [_upgrade(), _upgrade() + Frame(Opcode.BINARY, b"record").serialize(mask=True)],
        "session": [b"\xff" + steps, b"\0" + steps, b"\xff\x04\x04\x01\x09\x02\x03"],
        "client": [steps, bytes([4 + 8 * 3, 2, 1, 3]) + steps],
    }


SEEDS = _seeds()
"""Something that is right, for each target, to begin with."""
TARGETS: dict[str, Target] = {
    "messages": messages, "frames": frames, "documents": documents, "websocket": websocket, "session": session,
    "client": client,
}  # fmt: skip
