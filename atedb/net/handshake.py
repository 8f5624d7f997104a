"""How two ends agree on keys: four messages of fixed sizes, each covered by everything before it.

The server is known by its long-lived key: only its owner can read the client's secret r1. The server's secret r2 is
sealed to a key that the client made for this connection and forgets: who gets hold of the server's key later can read
nothing of it. Both keys are hybrid (X25519 and ML-KEM-768). `docs/protocol.md` has every field.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from atedb.crypto.aead import SealBrokenError, random_bytes
from atedb.crypto.hashing import derive, digest
from atedb.crypto.kem import KEM_PUBLIC_SIZE, BadKeyError, KemKey, fingerprint, seal_to, sealed_size
from atedb.errors import UnsupportedError
from atedb.net.errors import ProtocolError, WrongServerError

MAGIC = b"ATEWIRE\n"
VERSION = 1
_SECRET = 32
_CLIENT_HELLO = struct.Struct("<8sHH32s")
_SERVER_HELLO = struct.Struct(f"<8sHHH32s{KEM_PUBLIC_SIZE}s")
_CLIENT_KEY = struct.Struct(f"<{KEM_PUBLIC_SIZE}s{sealed_size(_SECRET)}s")
SERVER_KEY_SIZE = sealed_size(_SECRET)
MAX_HANDSHAKE = max(_SERVER_HELLO.size, _CLIENT_KEY.size, SERVER_KEY_SIZE)
"""Bytes of the largest message of a handshake."""


class ChannelKeys(NamedTuple):
    """What both ends have afterwards. transcript: the hash of all that was said, which the client signs."""

    to_server: bytes
    to_client: bytes
    transcript: bytes


class _Transcript:
    """The hash of a conversation so far: 32 bytes."""

    def __init__(self) -> None:
        self.hash = digest(b"atedb v1 wire")

    def add(self, message: bytes) -> None:
        self.hash = digest(self.hash + message)


class ClientHandshake:
    """The client's side. pin: the fingerprint that the server's key must have, or None to take any.

    fingerprint: of the server's key, once it has said hello. It is proven by the first record that the server seals.
    """

    def __init__(self, pin: bytes | None, versions: tuple[int, int] = (VERSION, VERSION)) -> None:
        self.fingerprint = b""
        self._pin = pin
        self._versions = versions
        self._transcript = _Transcript()
        self._own = KemKey.generate()
        self._secret = random_bytes(_SECRET)

    def hello(self) -> bytes:
        """The first message."""
        message = _CLIENT_HELLO.pack(MAGIC, *self._versions, random_bytes(32))
        self._transcript.add(message)
        return message

    def server_hello(self, data: bytes) -> bytes:
        """The answer to the server's hello. Raises UnsupportedError, WrongServerError, ProtocolError."""
        if len(data) != _SERVER_HELLO.size:
            raise ProtocolError("what answers is no server of this protocol")
        magic, version, lowest, highest, _nonce, public = _SERVER_HELLO.unpack(data)
        if magic != MAGIC:
            raise ProtocolError("what answers is no server of this protocol")
        if not self._versions[0] <= version <= self._versions[1]:
            raise UnsupportedError(
                f"the server speaks versions {lowest} to {highest} of the protocol, this program {self._versions[0]} "
                f"to {self._versions[1]}; nothing was sent; use a newer version of the older of the two"
            )
        self.fingerprint = fingerprint(public)
        if self._pin is not None and self.fingerprint != self._pin:
            raise WrongServerError(self._pin, self.fingerprint)
        self._transcript.add(data)
        try:
            sealed = seal_to(public, self._secret, _purpose(b"client", self._transcript, self._own.public))
        except BadKeyError:
            raise ProtocolError("the server's key is not one") from None
        message = _CLIENT_KEY.pack(self._own.public, sealed)
        self._transcript.add(message)
        return message

    def server_key(self, data: bytes) -> ChannelKeys:
        """The end of the handshake. Raises ProtocolError."""
        try:
            secret = self._own.open(data, _purpose(b"server", self._transcript))
        except SealBrokenError:
            raise ProtocolError("the server's answer does not belong to this handshake") from None
        self._transcript.add(data)
        return _keys(self._secret, secret, self._transcript)


class ServerHandshake:
    """The server's side. version: what was agreed on after the hello; 0 if there is no common version."""

    def __init__(self, key: KemKey, versions: tuple[int, int] = (VERSION, VERSION)) -> None:
        self.version = 0
        self._key = key
        self._versions = versions
        self._transcript = _Transcript()

    def client_hello(self, data: bytes) -> bytes:
        """The answer to the client's hello. Raises ProtocolError."""
        if len(data) != _CLIENT_HELLO.size:
            raise ProtocolError("a client's hello has another size")
        magic, lowest, highest, _nonce = _CLIENT_HELLO.unpack(data)
        if magic != MAGIC or lowest > highest:
            raise ProtocolError("this is no client's hello")
        common = min(highest, self._versions[1])
        self.version = common if common >= max(lowest, self._versions[0]) else 0
        message = _SERVER_HELLO.pack(MAGIC, self.version, *self._versions, random_bytes(32), self._key.public)
        self._transcript.add(data)
        self._transcript.add(message)
        return message

    def client_key(self, data: bytes) -> tuple[bytes, ChannelKeys]:
        """The last message of the handshake, and its result. Raises ProtocolError."""
        if len(data) != _CLIENT_KEY.size:
            raise ProtocolError("a client's key has another size")
        public, sealed = _CLIENT_KEY.unpack(data)
        secret = random_bytes(_SECRET)
        try:
            theirs = self._key.open(sealed, _purpose(b"client", self._transcript, public))
            self._transcript.add(data)
            message = seal_to(public, secret, _purpose(b"server", self._transcript))
        except (SealBrokenError, BadKeyError):
            raise ProtocolError("the client's key does not belong to this handshake") from None
        self._transcript.add(message)
        return message, _keys(theirs, secret, self._transcript)


def _purpose(side: bytes, transcript: _Transcript, more: bytes = b"") -> bytes:
    return b"atedb v1 wire " + side + b" secret" + transcript.hash + more


def _keys(client_secret: bytes, server_secret: bytes, transcript: _Transcript) -> ChannelKeys:
    material = derive("wire keys", client_secret + server_secret, transcript.hash, length=64)
    return ChannelKeys(material[:32], material[32:], transcript.hash)
