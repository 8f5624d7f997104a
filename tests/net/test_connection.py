"""Messages through both state machines: cut, joined, overtaken; and whatever else arrives is a protocol error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.crypto.aead import random_bytes
from atedb.crypto.records import RecordOpener, RecordSealer
from atedb.net.connection import MAX_RECORD, SMALL_MESSAGE, ClientProtocol, ServerProtocol
from atedb.net.errors import ProtocolError
from atedb.net.messages import MAX_MESSAGE, Append, Authenticate, Batches, GetStats, Ping, Pong, Welcome, encode
from atedb.net.parts import PART, Inbox, Outbox
from tests.net.wire import IDENTITY, KEY, deliver, joined


@given(st.lists(st.tuples(st.integers(1, 3 * PART), st.booleans()), max_size=12))
@settings(deadline=None)
def test_messages_are_cut_and_joined_and_keep_their_order_in_each_lane(sizes: list[tuple[int, bool]]) -> None:
    outbox, inbox = Outbox(), Inbox(3 * PART)
    sent: dict[bool, list[bytes]] = {False: [], True: []}
    for number, (size, bulk) in enumerate(sizes):
        message = bytes([number]) * (size if bulk else min(size, PART))
        sent[bulk].append(message)
        outbox.add(message, bulk=bulk)
    assert outbox.size == sum(map(len, sent[False] + sent[True]))
    arrived: dict[bool, list[bytes]] = {False: [], True: []}
    while (plaintext := outbox.next()) is not None:
        message_or_none = inbox.add(plaintext)
        if message_or_none is not None:
            arrived[bool(plaintext[0])].append(bytes(message_or_none))
    assert arrived == sent
    assert (outbox.size, inbox.announced) == (0, 0)


def test_a_small_message_overtakes_the_pieces_of_a_large_one() -> None:
    client, server = joined()
    server.allow_large()
    client.send(Append(2, [bytes(4 * PART)]))
    heard = [server.receive(client.next_to_send() or b"")]
    assert server.incoming > 4 * PART
    client.send(Ping(3))
    heard.append(server.receive(client.next_to_send() or b""))
    assert heard == [[], [Ping(3)]]
    assert deliver(client, server)[0] == [Append(2, [bytes(4 * PART)])]
    assert server.incoming == 0


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        b"\0",
        b"\1",
        b"\2x",
        b"\1\0\0\0\0",
        b"\1\0\0\0\0x",
        b"\1\5\0\0",
        b"\1\xff\xff\xff\xffx",
        b"\1\3\0\0\0xx",
        b"\1\1\0\0\0xx",
        b"\1" + (PART + 1).to_bytes(4, "little") + bytes(PART - 1),
        b"\0" + bytes(PART + 1),
        b"\1\xff\0\0\0" + bytes(PART + 1),
    ],
)
def test_pieces_that_no_sender_makes_are_refused(plaintext: bytes) -> None:
    with pytest.raises(ProtocolError):
        Inbox(1 << 30).add(plaintext)


def test_a_piece_that_does_not_continue_a_message_is_refused() -> None:
    inbox = Inbox(1 << 20)
    assert inbox.add(b"\1" + (PART + 5).to_bytes(4, "little") + bytes(PART)) is None
    with pytest.raises(ProtocolError):
        inbox.add(b"\1" + bytes(4))
    assert Inbox(1 << 20).add(b"\1" + (5).to_bytes(4, "little") + bytes(5)) == bytes(5)


def test_only_what_has_arrived_is_held() -> None:
    inbox = Inbox(MAX_MESSAGE)
    inbox.add(b"\1" + MAX_MESSAGE.to_bytes(4, "little") + bytes(PART))
    assert (inbox.announced, len(inbox._joined)) == (MAX_MESSAGE, PART)
    with pytest.raises(ProtocolError):
        Inbox(MAX_MESSAGE).add(b"\1" + (MAX_MESSAGE + 1).to_bytes(4, "little") + bytes(PART))


def test_before_a_chain_is_open_messages_are_small() -> None:
    client, server = joined()
    client.send(Append(2, [bytes(SMALL_MESSAGE)]))
    with pytest.raises(ProtocolError, match="longer than allowed"):
        deliver(client, server)
    client, server = joined()
    server.allow_large()
    client.send(Append(2, [bytes(SMALL_MESSAGE)]))
    assert len(deliver(client, server)[0]) == 1


def test_who_is_not_known_yet_may_say_next_to_nothing() -> None:
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    for _ in range(2):
        server.receive(client.next_to_send() or b"")
        client.receive(server.next_to_send() or b"")
    assert client._sealer is not None
    with pytest.raises(ProtocolError, match="longer than allowed"):
        server.receive(client._sealer.seal(b"\1" + (300).to_bytes(4, "little") + bytes(300)))


@pytest.mark.parametrize("order", [[1], [2], [0, 0], [0, 2]])
def test_records_that_are_left_out_repeated_or_exchanged_end_the_connection(order: list[int]) -> None:
    client, server = joined()
    for number in range(3):
        client.send(Ping(number + 2))
    records = [client.next_to_send() or b"" for _ in range(3)]
    *before, last = order
    for index in before:
        server.receive(records[index])
    with pytest.raises(ProtocolError, match="changed, left out or repeated"):
        server.receive(records[last])
    with pytest.raises(ProtocolError, match="over"):
        server.receive(records[0])
    client, server = joined()
    client.send(Ping(2))
    assert server.receive(client.next_to_send() or b"") == [Ping(2)]


def test_without_numbers_a_record_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative twin: where every record has the number 0, one that is repeated is taken twice."""
    client, server = joined()
    for end in (client._sealer, server._opener):
        assert end is not None
        end._number = 0

    def unnumbered(cls: Any, real: Any) -> Any:
        def work(self: Any, data: bytes) -> Any:
            self._number = 0
            return real(self, data)

        return work

    for cls, name in ((RecordSealer, "seal"), (RecordOpener, "open")):
        monkeypatch.setattr(cls, name, unnumbered(cls, getattr(cls, name)))
    client.send(Ping(2))
    record = client.next_to_send() or b""
    assert [server.receive(record), server.receive(record)] == [[Ping(2)], [Ping(2)]]


def test_a_record_of_one_direction_is_nothing_in_the_other() -> None:
    client, _ = joined()
    client.send(Ping(2))
    with pytest.raises(ProtocolError):
        client.receive(client.next_to_send() or b"")


def test_each_end_takes_only_what_the_other_one_says() -> None:
    for message in (Welcome(1, 1), Batches(2, [b"frame"]), Pong(2), Authenticate(1, bytes(32), bytes(64))):
        client, server = joined()
        client._send(message)
        with pytest.raises(ProtocolError):
            deliver(client, server)
    for answer in (Welcome(1, 1), GetStats(2), Ping(2)):
        client, server = joined()
        server._send(answer)
        with pytest.raises(ProtocolError):
            deliver(client, server)


def test_after_an_error_nothing_more_is_taken() -> None:
    client, server = joined()
    with pytest.raises(ProtocolError):
        server.receive(bytes(MAX_RECORD + 1))
    client.send(Ping(2))
    with pytest.raises(ProtocolError, match="over"):
        server.receive(client.next_to_send() or b"")


garbage = st.lists(st.one_of(st.binary(max_size=2500), st.integers(0, 2).map(lambda step: step)), max_size=6)


@settings(deadline=None)
@given(garbage)
def test_any_bytes_to_a_server_are_a_protocol_error_at_the_worst(said: list[bytes | int]) -> None:
    """Numbers stand for what a correct client would say at that step."""
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    try:
        for data in said:
            server.receive(data if isinstance(data, bytes) else client.next_to_send() or b"x")
            while (answer := server.next_to_send()) is not None:
                client.receive(answer)
            if server.identity is not None and not server.ready:
                server.welcome(1)
    except ProtocolError:
        pass


@settings(deadline=None)
@given(garbage)
def test_any_bytes_to_a_client_are_a_protocol_error_at_the_worst(said: list[bytes | int]) -> None:
    client, server = ClientProtocol(IDENTITY, None), ServerProtocol(KEY)
    try:
        for data in said:
            while (question := client.next_to_send()) is not None:
                server.receive(question)
            if server.identity is not None and not server.ready:
                server.welcome(1)
            client.receive(data if isinstance(data, bytes) else server.next_to_send() or b"x")
    except ProtocolError:
        pass


plaintexts = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.tuples(st.sampled_from([b"\0", b"\1"]), st.binary(max_size=80)).map(b"".join),
        st.tuples(st.integers(0, 2000), st.binary(max_size=80)).map(
            lambda p: b"\1" + p[0].to_bytes(4, "little") + p[1]
        ),
        st.sampled_from([b"\0" + encode(Ping(2)), b"\0" + encode(Pong(2)), b"\0" + encode(Welcome(1, 1))]),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=50)
@given(plaintexts)
def test_any_records_of_somebody_with_the_keys_are_a_protocol_error_at_the_worst(said: list[bytes]) -> None:
    for to_server in (True, False):
        client, server = joined()
        source, target = (client, server) if to_server else (server, client)
        assert isinstance(source._sealer, RecordSealer)
        try:
            for plaintext in said:
                target.receive(source._sealer.seal(plaintext))
        except ProtocolError:
            pass


def test_one_altered_bit_of_a_record_ends_the_connection() -> None:
    client, server = joined()
    client.send(Append(2, [random_bytes(1000)]))
    record = bytearray(client.next_to_send() or b"")
    record[500] ^= 1
    with pytest.raises(ProtocolError):
        server.receive(bytes(record))
