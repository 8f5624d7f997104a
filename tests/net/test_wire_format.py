"""A client written from docs/protocol.md alone, which shares no code with ours, is understood by our server."""

from __future__ import annotations

import os
import struct
from typing import Any

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from atedb.net.connection import ServerProtocol
from atedb.net.messages import Append, Batches, Ping, Pong
from tests.net.wire import KEY

SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)


class Independent:
    """A client of `server`, called directly. keys: to the server, to the client."""

    def __init__(self, server: ServerProtocol) -> None:
        self.server = server
        self.sent = self.received = 0
        self.heard: list[object] = []

    def deliver(self, data: bytes) -> None:
        self.heard += self.server.receive(data)

    def fetch(self) -> bytes:
        return self.server.next_to_send() or b""

    def shake(self, fingerprint: bytes, identity: Ed25519PrivateKey) -> None:
        first = b"ATEWIRE\n" + struct.pack("<HH", 1, 1) + os.urandom(32)
        self.deliver(first)
        second = self.fetch()
        assert (len(first), len(second)) == (44, 1262)
        assert second[:14] == b"ATEWIRE\n" + struct.pack("<HHH", 1, 1, 1)
        theirs = second[46:]
        assert blake3(b"atedb v1 server key" + theirs).digest() == fingerprint
        t2 = self.transcript(blake3(b"atedb v1 wire").digest(), first, second)
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        own = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        public = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(theirs[:1184]), X25519PublicKey.from_public_bytes(theirs[1184:])
        )
        r1 = os.urandom(32)
        third = own + SUITE.encrypt(r1, public, info=b"atedb v1 wire client secret" + t2 + own)
        self.deliver(third)
        fourth = self.fetch()
        assert (len(third), len(fourth)) == (2384, 1168)
        t3 = self.transcript(t2, third)
        private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        r2 = SUITE.decrypt(fourth, private, info=b"atedb v1 wire server secret" + t3)
        t4 = self.transcript(t3, fourth)
        material = r1 + r2 + struct.pack("<I", 32) + t4
        keys = blake3(material, derive_key_context="atedb v1 wire keys").digest(length=64)
        self.up, self.down = ChaCha20Poly1305(keys[:32]), ChaCha20Poly1305(keys[32:])
        signature = identity.sign(b"atedb v1 wire client" + t4)
        self.say(b"\0" + msgspec.msgpack.encode([1, 1, identity.public_key().public_bytes_raw(), signature]))

    @staticmethod
    def transcript(before: bytes, *messages: bytes) -> bytes:
        for message in messages:
            before = blake3(before + message).digest()
        return before

    def say(self, plaintext: bytes) -> None:
        self.deliver(self.up.encrypt(self.sent.to_bytes(12, "little"), plaintext, None))
        self.sent += 1

    def hear(self) -> bytes:
        plaintext = self.down.decrypt(self.received.to_bytes(12, "little"), self.fetch(), None)
        self.received += 1
        return plaintext

    def hear_message(self) -> Any:
        plaintext = self.hear()
        assert plaintext[0] == 0
        return msgspec.msgpack.decode(plaintext[1:])


def test_a_client_written_from_the_document_is_understood() -> None:
    server = ServerProtocol(KEY)
    client = Independent(server)
    identity = Ed25519PrivateKey.generate()
    client.shake(KEY.fingerprint, identity)
    assert server.identity == identity.public_key().public_bytes_raw()
    server.welcome(17)
    assert client.hear_message() == [32, 1, 17]
    client.say(b"\0" + msgspec.msgpack.encode([14, 2]))
    assert client.heard[-1] == Ping(2)
    server.send(Pong(2))
    assert client.hear_message() == [42, 2]


def test_large_messages_are_cut_as_the_document_says() -> None:
    server = ServerProtocol(KEY)
    client = Independent(server)
    client.shake(KEY.fingerprint, Ed25519PrivateKey.generate())
    server.welcome(17)
    client.hear()
    frame = os.urandom(150_000)
    message = msgspec.msgpack.encode([8, 2, [frame]])
    client.say(b"\1" + struct.pack("<I", len(message)) + message[:65536])
    client.say(b"\0" + msgspec.msgpack.encode([14, 3]))
    client.say(b"\1" + message[65536:131072])
    client.say(b"\1" + message[131072:])
    assert client.heard[1:] == [Ping(3), Append(2, [frame])]
    server.send(Batches(5, [frame]))
    first = client.hear()
    assert first[:1] == b"\1"
    (length,) = struct.unpack("<I", first[1:5])
    joined = first[5:]
    assert len(joined) == 65536
    while len(joined) < length:
        piece = client.hear()
        assert piece[:1] == b"\1"
        assert len(piece) - 1 == min(65536, length - len(joined))
        joined += piece[1:]
    assert msgspec.msgpack.decode(joined) == [36, 5, [frame]]
