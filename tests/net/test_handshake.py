"""The handshake: both ends meet, nobody stands between them, and nothing of it can be used twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.crypto import kem
from atedb.crypto.kem import KemKey
from atedb.crypto.signing import SigningKey
from atedb.errors import UnsupportedError
from atedb.net import connection, handshake
from atedb.net.connection import MAX_RECORD, ClientProtocol, ServerProtocol
from atedb.net.errors import ProtocolError, RefusedError, WrongServerError
from atedb.net.failures import failed
from atedb.net.handshake import ClientHandshake, ServerHandshake
from atedb.net.messages import Authenticate, Ping, Pong, Welcome
from tests.net.wire import IDENTITY, KEY, STRANGER, deliver, joined


def test_both_ends_let_each_other_in_and_understand_each_other() -> None:
    client, server = ClientProtocol(IDENTITY, KEY.fingerprint), ServerProtocol(KEY)
    heard, _ = deliver(client, server)
    assert [type(message) for message in heard] == [Authenticate]
    assert server.identity == IDENTITY.public
    server.welcome(17)
    assert deliver(client, server) == ([], [Welcome(1, 17)])
    client.send(Ping(2))
    server.send(Pong(9))
    assert deliver(client, server) == ([Ping(2)], [Pong(9)])


def test_keys_are_other_ones_each_time_and_in_each_direction() -> None:
    def keys() -> list[bytes]:
        client, server = ClientHandshake(None), ServerHandshake(KEY)
        message, at_server = server.client_key(client.server_hello(server.client_hello(client.hello())))
        at_client = client.server_key(message)
        assert at_client == at_server
        return list(at_client)

    assert len(set(keys() + keys())) == 6


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"), [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((1, 2), (3, 4), 0), ((5, 9), (1, 4), 0)]
)
def test_the_newest_common_version_is_spoken(theirs: tuple[int, int], ours: tuple[int, int], agreed: int) -> None:
    client, server = ClientProtocol(IDENTITY, None, theirs), ServerProtocol(KEY, ours)
    if agreed:
        deliver(client, server)
        assert server.identity == IDENTITY.public
        return
    with pytest.raises(UnsupportedError, match=f"{ours[0]} to {ours[1]}"):
        deliver(client, server)
    assert server.refused
    with pytest.raises(ProtocolError):
        server.receive(b"more")


def test_a_server_with_another_key_is_refused_before_it_hears_who_asks() -> None:
    other = KemKey.generate()
    client, server = ClientProtocol(IDENTITY, KEY.fingerprint), ServerProtocol(other)
    with pytest.raises(WrongServerError) as caught:
        deliver(client, server)
    assert caught.value.found == other.fingerprint
    assert client.next_to_send() is None
    # The negative twin: without a pin it is let through, and says who it is.
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(other)
    deliver(client, server)
    assert (server.identity, client.fingerprint) == (IDENTITY.public, other.fingerprint)


def test_whoever_shows_anothers_public_key_cannot_go_on() -> None:
    class Impostor(KemKey):
        """Has the public key only, and makes up the secret that it cannot read."""

        def __init__(self) -> None:
            super().__init__(KemKey.generate().private)
            self.public = KEY.public

        def open(self, sealed: bytes, purpose: bytes) -> bytes:
            return bytes(32)

    client, server = ClientProtocol(IDENTITY, KEY.fingerprint), ServerProtocol(Impostor())
    with pytest.raises(ProtocolError):
        deliver(client, server)
    assert server.identity is None
    server.identity, server.introduced = IDENTITY.public, True
    server.welcome(1)
    with pytest.raises(ProtocolError):
        client.receive(server.next_to_send() or b"")
    assert not client.ready


def relayed() -> bytes | None:
    """Whom the real server takes somebody in the middle for, who has a client's proof from a first visit to itself."""
    client, towards_client = ClientProtocol(IDENTITY, None), ServerProtocol(KemKey.generate())
    heard, _ = deliver(client, towards_client)
    (proof,) = heard
    assert isinstance(proof, Authenticate)
    middle, server = ClientProtocol(STRANGER, KEY.fingerprint), ServerProtocol(KEY)
    for _ in range(2):
        server.receive(middle.next_to_send() or b"")
        middle.receive(server.next_to_send() or b"")
    middle.next_to_send()  # its own proof, which it keeps to itself
    assert middle._sealer is not None
    middle._sealer._number = 0
    middle.ready = True
    middle.send(proof)
    with suppress(ProtocolError):
        server.receive(middle.next_to_send() or b"")
    return server.identity


def test_who_relays_a_client_to_the_real_server_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert relayed() is None
    # The negative twin: a proof that says nothing of the conversation can be passed on.
    monkeypatch.setattr(connection, "_signed", lambda keys: b"it is me")
    assert relayed() == IDENTITY.public


def test_a_handshake_that_is_replayed_leads_nowhere() -> None:
    client, server = ClientProtocol(IDENTITY, KEY.fingerprint), ServerProtocol(KEY)
    said: list[bytes] = []
    while server.identity is None:
        while (data := client.next_to_send()) is not None:
            said.append(data)
            server.receive(data)
        while (data := server.next_to_send()) is not None:
            client.receive(data)
    again = ServerProtocol(KEY)
    again.receive(said[0])
    with pytest.raises(ProtocolError, match="does not belong to this handshake"):
        again.receive(said[1])
    assert (again.identity, len(said)) == (None, 3)


def test_without_randomness_of_the_server_a_handshake_can_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin: a server that says the same each time takes a recorded conversation for its client."""
    real, kept = kem.seal_to, dict[bytes, bytes]()

    def same(public: bytes, secret: bytes, purpose: bytes) -> bytes:
        return kept.setdefault(purpose, real(public, secret, purpose))

    client = ClientProtocol(IDENTITY, KEY.fingerprint)  # brings randomness of its own, as always
    monkeypatch.setattr(handshake, "random_bytes", bytes)
    monkeypatch.setattr(handshake, "seal_to", same)
    server, again = ServerProtocol(KEY), ServerProtocol(KEY)
    said: list[bytes] = []
    while server.identity is None:
        while (data := client.next_to_send()) is not None:
            said.append(data)
            server.receive(data)
        while (data := server.next_to_send()) is not None:
            client.receive(data)
    for data in said:
        again.receive(data)
    assert again.identity == IDENTITY.public


def test_a_signature_of_another_key_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Liar(SigningKey):
        def __init__(self) -> None:
            super().__init__(b"l" * 32)
            self.public = IDENTITY.public

    client, server = ClientProtocol(Liar(), None), ServerProtocol(KEY)
    with pytest.raises(ProtocolError, match="does not have the key"):
        deliver(client, server)
    assert server.identity is None
    monkeypatch.setattr(connection, "verify_signature", lambda *args: None)
    client, server = ClientProtocol(Liar(), None), ServerProtocol(KEY)
    deliver(client, server)
    assert server.identity == IDENTITY.public


def test_nothing_is_heard_before_the_client_is_let_in() -> None:
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    deliver(client, server)
    client.ready = True
    client.send(Ping(2))
    with pytest.raises(ProtocolError):
        deliver(client, server)
    assert server.next_to_send() is None


def test_who_is_refused_hears_why_and_nothing_else() -> None:
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    deliver(client, server)
    server.refuse(failed(1, RefusedError("not here")))
    with pytest.raises(RefusedError, match="not here"):
        deliver(client, server)
    assert server.refused
    assert not client.ready


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: bytes(MAX_RECORD + 1),
        lambda data: bytes([*data[:-1], data[-1] ^ 1]),
        lambda data: bytes([data[0] ^ 1, *data[1:]]),
    ],
)
def test_a_handshake_that_is_altered_at_any_step_ends_it(step: int, change: Callable[[bytes], bytes]) -> None:
    assert not _altered(step, change)
    assert _altered(step, lambda data: data)


def _altered(step: int, change: Callable[[bytes], bytes]) -> bool:
    """Whether both ends let each other in although message number `step` was changed on its way."""
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    number = 0
    try:
        for _ in range(3):
            while (data := client.next_to_send()) is not None:
                server.receive(change(data) if number == step else data)
                number += 1
            if server.identity is not None and not server.ready:
                server.welcome(1)
            while (data := server.next_to_send()) is not None:
                client.receive(change(data) if number == step else data)
                number += 1
    except ProtocolError:
        return False
    return client.ready and server.ready


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), st.data())
def test_no_bit_of_a_handshake_can_be_changed(step: int, data: st.DataObject) -> None:
    def flip(message: bytes) -> bytes:
        at = data.draw(st.integers(0, len(message) * 8 - 1))
        changed = bytearray(message)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    with suppress(UnsupportedError):  # it may be the server's version that is altered
        assert not _altered(step, flip)


def test_a_joined_pair_is_ready() -> None:
    client, server = joined()
    assert client.fingerprint == KEY.fingerprint
    assert server.identity == IDENTITY.public
