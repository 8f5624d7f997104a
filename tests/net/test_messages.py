"""Messages: each survives its encoding, and nothing but a message is taken for one."""

from __future__ import annotations

import resource

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedb.net import messages
from atedb.net.errors import ProtocolError
from atedb.net.messages import (
    MAX_BODIES,
    MAX_FRAMES,
    MAX_INQUIRY,
    Append,
    Appended,
    Asking,
    Authenticate,
    Batches,
    BodiesAre,
    DocumentIs,
    Done,
    EndLeases,
    Failed,
    Follow,
    GetBodies,
    GetDocument,
    GetStats,
    Goodbye,
    Grant,
    Inquire,
    LaneIs,
    LeaseHeld,
    LeaseIs,
    Message,
    Open,
    Opened,
    Own,
    Ping,
    Pong,
    Prove,
    PutDocument,
    ReleaseLease,
    RenewLease,
    Reply,
    StatsAre,
    TakeLease,
    Unfollow,
    Visit,
    Welcome,
    decode_answer,
    decode_request,
    encode,
)

TOP = (1 << 63) - 1
HASH = b"h" * 32
REQUESTS: list[Message] = [
    Authenticate(1, HASH, b"s" * 64),
    Open(2, "/you@example.com/vault", None),
    Open(2, "/you@example.com/vault", (b"header", b"keys")),
    GetDocument(3, "keys"),
    PutDocument(4, "keys", TOP, b"text"),
    Follow(5, TOP, True, 1),
    Grant(5, 64 << 20),
    Unfollow(5),
    Append(6, [b"frame"] * MAX_FRAMES),
    GetBodies((1 << 32) - 1, [(TOP, (1 << 20) - 1)] * MAX_BODIES),
    TakeLease(8, "lock/0123abc.d-e", b"me", 0, TOP, True, 0.5, Asking.WAIT, 0),
    RenewLease(8, 60.0),
    ReleaseLease(8, "compaction", b"me", 0, TOP),
    GetStats(9),
    Ping(10),
    Prove(11, HASH, b"s" * 64),
    EndLeases(12, b"m" * 64),
    Visit(1),
    Inquire(2, bytes(MAX_INQUIRY)),
]
ANSWERS: list[Message] = [
    Welcome(1, -5),
    Failed(1, "not-found", "text"),
    Failed(1, "stale", "text", (TOP, HASH)),
    Opened(2, b"header", 7, HASH, None, True, False),
    DocumentIs(3, b"", 0),
    Batches(5, [b"frame"]),
    Own(5, 7, HASH),
    Appended(6, 8, HASH),
    BodiesAre(7, [b"", b"body"]),
    LeaseIs(8, 9, 10.0, 11),
    LeaseHeld(8, 0, TOP, False),
    StatsAre(9, 1, 2, 3, 4, LaneIs(1, 2, 3), LaneIs(4, 5, 6), 1, 0),
    Done(4, 1),
    Pong(10),
    Goodbye(1, "unavailable", "text"),
    Reply(2, bytes(MAX_INQUIRY)),
]


def test_every_message_survives_its_encoding() -> None:
    for request in REQUESTS:
        assert decode_request(encode(request)) == request
    for answer in ANSWERS:
        assert decode_answer(encode(answer)) == answer


def test_every_kind_of_message_is_among_those_that_are_tested() -> None:
    kinds = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)}
    assert kinds - {Message} == {type(message) for message in REQUESTS + ANSWERS}


def test_what_is_small_fits_into_one_record() -> None:
    longest = Failed(1, "a" * 20, "\U0001f40c" * 500, (TOP, HASH))
    for message in [*REQUESTS, *ANSWERS, longest]:
        assert message.bulk or len(encode(message)) <= 64 << 10


@pytest.mark.parametrize(
    "fields",
    [
        [1, 1, HASH, b"s" * 63],
        [1, 1, HASH + b"h", b"s" * 64],
        [2, 1, "/" * 256, None],
        [2, 1, "", None],
        [2, 1, "/a/b", [b"h" * 65537, b"k"]],
        [2, 1, "/a/b", [b"h", b"k" * (262144 + 1)]],
        [2, 1, "/a/b", [b"h"]],
        [3, 1, "KEYS"],
        [3, 1, "keys\n"],
        [3, 1, ""],
        [4, 1, "keys", -1, b""],
        [4, 1, "keys", 1 << 63, b""],
        [5, 1, 0, True, 1],
        [5, 1, 1, 1, 1],
        [5, 1, 1, True, 0],
        [6, 1, (64 << 20) + 1],
        [8, 1, []],
        [8, 1, [b""]],
        [8, 1, ["text"]],
        [8, 1, [b"f"] * (MAX_FRAMES + 1)],
        [9, 1, []],
        [9, 1, [[0, 1]]],
        [9, 1, [[1, 1 << 20]]],
        [9, 1, [[1, -1]]],
        [9, 1, [[1, 1]] * (MAX_BODIES + 1)],
        [9, 1, [[1, 1, 1]]],
        [10, 1, "a b", b"me", 1.0],
        [10, 1, "a", b"", 1.0],
        [10, 1, "a", b"me", 0.0],
        [10, 1, "a", b"me", float("nan")],
        [10, 1, "a", b"me", float("inf")],
        [10, 1, "a", b"me", 3601.0],
        [16, 1, b""],
        [16, 1, b"m" * 65],
        [16, 1, "me"],
        [14, 0],
        [14, 1 << 32],
        [14, -1],
        [14, 1.0],
        [14, 1, 1],
        [14],
        [99, 1],
        [32, 1, 1],
        ["14", 1],
        [],
        {},
        None,
        b"",
    ],
)
def test_what_is_out_of_bounds_is_no_request(fields: object) -> None:
    with pytest.raises(ProtocolError):
        decode_request(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x92",
        b"\x93\x08\x01\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1 frames
        b"\x93\x08\x01\xdd\x00\x00\x10\x00",  # of 4,096, of which none is there
        b"\x93\x08\x01\x91\xc6\xff\xff\xff\xff",  # a frame of 2^32 - 1 bytes
        b"\xdd\xff\xff\xff\xff\x08",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\x0e\xc1",
        b"\x92\x0e\x01\x00",  # something follows
        b"\x93\x03\x01\xa1\xff",  # a text that is not UTF-8
        b"\x92\x0e\xd4\x01\x01",  # an extension type
    ],
)
def test_what_promises_more_than_it_holds_costs_nothing(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProtocolError):
        decode_request(data)
    with pytest.raises(ProtocolError):
        decode_answer(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 20_000  # KiB


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(data)
        except ProtocolError:
            pass


@given(st.sampled_from(REQUESTS + ANSWERS), st.data())
def test_a_message_that_was_altered_is_a_message_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(message)[:300])
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    for decode in (decode_request, decode_answer):
        try:
            decode(bytes(encoded))
        except ProtocolError:
            pass
