"""Both ends of a connection as state machines: bytes in, messages out, and the other way; no sockets, no clock.

What the transport delivered goes into `receive`; what is to be delivered comes from `next_to_send`, one record at a
time, so that what is urgent overtakes what is long. ProtocolError is all that hostile bytes can cause; after an error,
the connection is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from atedb.crypto.aead import SealBrokenError
from atedb.crypto.kem import KemKey
from atedb.crypto.records import RECORD_OVERHEAD, RecordOpener, RecordSealer
from atedb.crypto.signing import BadSignatureError, SigningKey, verify_signature
from atedb.net.errors import ProtocolError
from atedb.net.failures import error_of
from atedb.net.handshake import MAX_HANDSHAKE, VERSION, ChannelKeys, ClientHandshake, ServerHandshake
from atedb.net.messages import (
    MAX_INQUIRY,
    MAX_MESSAGE,
    Answer,
    Authenticate,
    Failed,
    Message,
    Request,
    Visit,
    Welcome,
    decode_answer,
    decode_request,
    encode,
)
from atedb.net.parts import PLAINTEXT_LIMIT, Inbox, Outbox

MAX_RECORD = max(PLAINTEXT_LIMIT + RECORD_OVERHEAD, MAX_HANDSHAKE)
"""Bytes of what a transport carries at once."""
SMALL_MESSAGE = 1 << 20
"""Bytes of a client's message, as long as the server has not opened a chain for it."""
_FIRST_MESSAGE = 256


_DEVICE = b"atedb v1 wire device"


class _End(ABC):
    """What both ends have in common. ready: the client has been let in."""

    def __init__(self, limit: int) -> None:
        self.ready = False
        self._over = False
        self._inbox = Inbox(limit)
        self._outbox = Outbox()
        self._plain: list[bytes] = []
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None

    @property
    def queued(self) -> int:
        """Bytes of messages that are not handed over yet."""
        return self._outbox.size

    @property
    def urgent(self) -> int:
        """How many small messages are queued."""
        return self._outbox.urgent

    @property
    def incoming(self) -> int:
        """Bytes that the message which is arriving will have; 0 between messages."""
        return self._inbox.announced

    def next_to_send(self) -> bytes | None:
        """What the transport is to deliver next, or None."""
        if self._plain:
            return self._plain.pop(0)
        plaintext = self._outbox.next()
        if plaintext is None or self._sealer is None:
            return None
        return self._sealer.seal(plaintext)

    def _send(self, message: Message) -> None:
        self._outbox.add(encode(message), bulk=message.bulk)

    def _receive(self, data: bytes) -> bytes | bytearray | None:
        """A message, if `data` completes one. Raises ProtocolError, and whatever ends a handshake."""
        if self._over:
            raise ProtocolError("the connection is over")
        if len(data) > MAX_RECORD:
            raise ProtocolError("a record is longer than allowed")
        if self._opener is None:
            self._handshake(data)
            return None
        try:
            return self._inbox.add(self._opener.open(data))
        except SealBrokenError:
            raise ProtocolError("a record was changed, left out or repeated on its way") from None

    @abstractmethod
    def _handshake(self, data: bytes) -> None: ...


class ClientProtocol(_End):
    """A client's end. identity: the key that it is known by, or None for a visitor, who has none yet.

    pin: the server's fingerprint, or None to take any. conversation: the hash of the handshake, once ready.
    """

    def __init__(
        self, identity: SigningKey | None, pin: bytes | None, versions: tuple[int, int] = (VERSION, VERSION)
    ) -> None:
        super().__init__(MAX_MESSAGE)
        self._identity = identity
        self._shake = ClientHandshake(pin, versions)
        self._answered_hello = False
        self.conversation = b""
        self._plain.append(self._shake.hello())

    @property
    def device_statement(self) -> bytes:
        """What a device signs to prove its key in this conversation. Only when ready."""
        return _DEVICE + self.conversation

    @property
    def fingerprint(self) -> bytes:
        """Of the server's key; proven once the connection is ready."""
        return self._shake.fingerprint

    def send(self, message: Request) -> None:
        """Queue a request. Only when ready."""
        assert self.ready
        self._send(message)

    def receive(self, data: bytes) -> list[Answer]:
        """What the server says with the next record. The first is Welcome.

        Raises ProtocolError; before Welcome also WrongServerError, UnsupportedError, and what the server refuses with.
        """
        try:
            whole = self._receive(data)
            return [] if whole is None else [self._accept(decode_answer(whole))]
        except BaseException:
            self._over = True
            raise

    def _accept(self, answer: Answer) -> Answer:
        if self.ready == isinstance(answer, Welcome):
            if isinstance(answer, Failed) and not self.ready:
                raise error_of(answer)
            raise ProtocolError("the server says something else than was to be said now")
        self.ready = True
        return answer

    def _handshake(self, data: bytes) -> None:
        if not self._answered_hello:
            self._plain.append(self._shake.server_hello(data))
            self._answered_hello = True
            return
        keys = self._shake.server_key(data)
        self.conversation = keys.transcript
        self._sealer, self._opener = RecordSealer(keys.to_server), RecordOpener(keys.to_client)
        if self._identity is None:
            self._send(Visit(1))
        else:
            self._send(Authenticate(1, self._identity.public, self._identity.sign(_signed(keys))))


class ServerProtocol(_End):
    """A server's end. key: what it is known by. introduced: the client has said who it is. identity: its key, which it
    has proven; None for a visitor, who has none.

    Whoever runs it answers the first message with `welcome` or `refuse`; then only `receive` goes on.
    """

    def __init__(self, key: KemKey, versions: tuple[int, int] = (VERSION, VERSION)) -> None:
        super().__init__(_FIRST_MESSAGE)
        self.introduced = False
        self.identity: bytes | None = None
        self._shake = ServerHandshake(key, versions)
        self._keys: ChannelKeys | None = None

    @property
    def conversation(self) -> bytes:
        """The hash of the handshake. Only once the client is introduced."""
        assert self._keys is not None
        return self._keys.transcript

    @property
    def device_statement(self) -> bytes:
        """What a device signs to prove its key in this conversation. Only once the client is introduced."""
        return _DEVICE + self.conversation

    @property
    def refused(self) -> bool:
        """Whether all that is left is to deliver what `next_to_send` has."""
        return self._over

    def allow_large(self) -> None:
        """From now on the client may send messages of the largest size."""
        self._inbox.limit = MAX_MESSAGE

    def welcome(self, time: int) -> None:
        """Let the client in. time: the server's clock, ns since 1970."""
        assert self.introduced
        self._send(Welcome(1, time))
        self._inbox.limit = SMALL_MESSAGE if self.identity else MAX_INQUIRY + 64
        self.ready = True

    def refuse(self, failed: Failed) -> None:
        """Do not let the client in, and say why."""
        self._send(failed)
        self._over = True

    def send(self, message: Answer) -> None:
        """Queue an answer. Only when ready."""
        assert self.ready
        self._send(message)

    def receive(self, data: bytes) -> list[Request]:
        """What the client says with the next record; the first is Authenticate, proven. Raises ProtocolError."""
        try:
            whole = self._receive(data)
            return [] if whole is None else [self._accept(decode_request(whole))]
        except BaseException:
            self._over = True
            raise

    def _accept(self, request: Request) -> Request:
        if self.introduced:
            if not self.ready or isinstance(request, Authenticate | Visit):
                raise ProtocolError("the client says something else than was to be said now")
            return request
        if not isinstance(request, Authenticate | Visit) or self._keys is None:
            raise ProtocolError("the client asks for something before it has said who it is")
        if isinstance(request, Authenticate):
            try:
                verify_signature(request.identity, _signed(self._keys), request.signature)
            except BadSignatureError:
                raise ProtocolError("the client does not have the key that it says") from None
            self.identity = request.identity
        self.introduced = True
        return request

    def _handshake(self, data: bytes) -> None:
        if not self._shake.version:
            self._plain.append(self._shake.client_hello(data))
            self._over = not self._shake.version
            return
        message, self._keys = self._shake.client_key(data)
        self._plain.append(message)
        self._sealer, self._opener = RecordSealer(self._keys.to_client), RecordOpener(self._keys.to_server)


def _signed(keys: ChannelKeys) -> bytes:
    """What the client's identity signs: this conversation, and so this server, and no other."""
    return b"atedb v1 wire client" + keys.transcript
