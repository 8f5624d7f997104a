"""What is said inside a connection: requests of a client, answers of a node. Every field is bounded.

A message is one MessagePack array: the number of its kind, the number of the request, its fields. Decoding is strict:
whatever no correct program sends raises ProtocolError. `docs/protocol.md` has the list.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from atedb.chain.format import MAX_BODY, MAX_FRAME
from atedb.chain.position import Position
from atedb.net.errors import ProtocolError
from atedb.net.url import MAX_PATH

MAX_MESSAGE = MAX_FRAME + 4096
"""Bytes of a message: a batch of the largest size fits into one."""
MAX_HEADER = 64 << 10
MAX_DOCUMENT = 256 << 10
MAX_FRAMES = 4096
"""Batches in one message."""
MAX_BODIES = 1024
"""Sealed bodies asked for in one message."""
MAX_CREDIT = 64 << 20
"""Bytes that a follower may grant in all."""
MAX_LEASE = 60.0
"""Seconds that a lease lasts without its holder. A restarted node gives none for as long."""
MAX_TEXT = 500
MAX_INQUIRY = 48 << 10
"""Bytes of what is asked about accounts, or replied."""

_TOP = (1 << 63) - 1
Number = Annotated[int, Meta(ge=0, le=_TOP)]
RequestId = Annotated[int, Meta(ge=1, le=(1 << 32) - 1)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,32}\Z")]
LeaseName = Annotated[str, Meta(pattern=r"^[a-z0-9./-]{1,64}\Z")]
Owner = Annotated[bytes, Meta(min_length=1, max_length=64)]
Seconds = Annotated[float, Meta(gt=0, le=MAX_LEASE)]
Document = Annotated[bytes, Meta(max_length=MAX_DOCUMENT)]
Frame = Annotated[bytes, Meta(min_length=1, max_length=MAX_FRAME)]
Body = Annotated[bytes, Meta(max_length=MAX_BODY)]
Credit = Annotated[int, Meta(ge=1, le=MAX_CREDIT)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """id: the number of the request that this is, or is about; a client numbers its requests 1, 2, 3 …"""

    bulk: ClassVar[bool] = False
    """Whether it may be large. Large messages keep their order among themselves; the others overtake them."""

    id: RequestId


# What a client says.


class Authenticate(Message, frozen=True, tag=1):
    """The first message. identity: an Ed25519 public key; signature: over the transcript of the handshake."""

    identity: Bytes32
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Open(Message, frozen=True, tag=2):
    """Which chain all that follows is about; once in a connection. header, keys: to make it if there is none."""

    bulk: ClassVar[bool] = True
    path: Path
    create: tuple[Annotated[bytes, Meta(min_length=1, max_length=MAX_HEADER)], Document] | None


class GetDocument(Message, frozen=True, tag=3):
    """A small named file of the chain: "chain" is its header, "keys" are its key slots."""

    name: Name


class PutDocument(Message, frozen=True, tag=4):
    """Replace a document. generation: of the one that is replaced; 0 for none."""

    bulk: ClassVar[bool] = True
    name: Name
    generation: Number
    data: Document


class Follow(Message, frozen=True, tag=5):
    """Batches from `first` on, then each as it comes. slim: without blob bodies. credit: bytes that may be sent."""

    first: Annotated[int, Meta(ge=1, le=_TOP)]
    slim: bool
    credit: Credit


class Grant(Message, frozen=True, tag=6):
    """The follower has taken `credit` bytes up: as many more may be sent. Never answered."""

    credit: Credit


class Unfollow(Message, frozen=True, tag=7):
    """Nothing more of what the request `id` follows, or waits for. A follower is answered with `Done` when nothing more
    is on its way; whoever waits, with `Failed` (`busy`), unless the lease was given before."""


class Append(Message, frozen=True, tag=8):
    """Batches directly after the chain's newest."""

    bulk: ClassVar[bool] = True
    frames: Annotated[list[Frame], Meta(min_length=1, max_length=MAX_FRAMES)]


class GetBodies(Message, frozen=True, tag=9):
    """Sealed bodies, each by the sequence of its batch and its place in it."""

    wanted: Annotated[
        list[tuple[Annotated[int, Meta(ge=1, le=_TOP)], Annotated[int, Meta(ge=0, lt=1 << 20)]]],
        Meta(min_length=1, max_length=MAX_BODIES),
    ]


class Asking(IntEnum):
    """What is to be done about a lease that somebody else has."""

    TRY = 0
    """Nothing."""
    WAIT = 1
    """Wait for it."""
    TEST = 2
    """Nothing, and if nobody has it, it is not taken either."""


class TakeLease(Message, frozen=True, tag=10):
    """Have bytes `start` to `end`, both included, of what is called `name`, instead of whatever one has there.

    owner: who asks; opaque, unique, and the same through all connections of one client. exclusive: or shared. seconds:
    how long all leases of this connection last from now on. token: the newest that this owner has for this name, 0 for
    none: what was taken over another connection is taken over with it, and refused (`fenced`) when it has ended.
    Answered with LeaseIs, or LeaseHeld, which in case of WAIT is followed by LeaseIs, unless `Unfollow` comes before.
    """

    name: LeaseName
    owner: Owner
    start: Number
    end: Number
    exclusive: bool
    seconds: Seconds
    asking: Asking
    token: Number


class RenewLease(Message, frozen=True, tag=11):
    """Keep all leases of this connection for `seconds` from now on; `fenced` when some of them have ended."""

    seconds: Seconds


class ReleaseLease(Message, frozen=True, tag=12):
    """End what the owner has of bytes `start` to `end`, both included."""

    name: LeaseName
    owner: Owner
    start: Number
    end: Number


class GetStats(Message, frozen=True, tag=13):
    """What the node knows of the chain."""


class Ping(Message, frozen=True, tag=14):
    """Is the node there?"""


class Prove(Message, frozen=True, tag=15):
    """Who appends has the key of this device of the chain. signature: its own, over this conversation."""

    device: Bytes32
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class EndLeases(Message, frozen=True, tag=16):
    """End what owners whose bytes begin with `owner` have, and wait for, over other connections than this one."""

    owner: Owner


class Visit(Message, frozen=True, tag=17):
    """The first message of somebody who has no key yet: may inquire, to register or to log in, and nothing else."""


class Inquire(Message, frozen=True, tag=18):
    """About accounts, before a chain is open; `atedb.account.messages` has what can be asked."""

    data: Annotated[bytes, Meta(max_length=MAX_INQUIRY)]


# What a node says.


class Welcome(Message, frozen=True, tag=32):
    """The client is who it says, and may ask. time: the node's clock, ns since 1970."""

    time: Annotated[int, Meta(ge=-_TOP, le=_TOP)]


class Failed(Message, frozen=True, tag=33):
    """The request was not carried out. code: see docs/protocol.md. tail: the newest batch, if it is stale."""

    code: Annotated[str, Meta(pattern=r"^[a-z-]{1,20}\Z")]
    text: Annotated[str, Meta(max_length=MAX_TEXT)]
    tail: tuple[Number, Bytes32] | None = None


class Opened(Message, frozen=True, tag=34):
    """header: of the chain. quota: bytes that the tenant may store in all, or none. writable: whether it may append.

    proof: signatures of a device are not verified when it appends over a connection on which it did `Prove` its key."""

    bulk: ClassVar[bool] = True
    header: Annotated[bytes, Meta(min_length=1, max_length=MAX_HEADER)]
    sequence: Number
    hash: Bytes32
    quota: Number | None
    writable: bool
    proof: bool

    @property
    def tail(self) -> Position:
        """The newest batch."""
        return Position(self.sequence, self.hash)


class DocumentIs(Message, frozen=True, tag=35):
    """generation 0: there is no such document."""

    bulk: ClassVar[bool] = True
    data: Document
    generation: Number


class Batches(Message, frozen=True, tag=36):
    """What a follower waits for, in order and without a gap."""

    bulk: ClassVar[bool] = True
    frames: Annotated[list[Frame], Meta(min_length=1, max_length=MAX_FRAMES)]


class Appended(Message, frozen=True, tag=37):
    """The batches are on stable storage; the last of them."""

    sequence: Number
    hash: Bytes32


class BodiesAre(Message, frozen=True, tag=38):
    """The first of the bodies asked for, at least one; the others are to be asked for again."""

    bulk: ClassVar[bool] = True
    bodies: Annotated[list[Body], Meta(min_length=1, max_length=MAX_BODIES)]


class LeaseIs(Message, frozen=True, tag=39):
    """The lease, from now on. token: higher than that of any lease before; 0 if it was only tested. sequence: of the
    newest batch: what former holders have appended is not after it."""

    token: Number
    seconds: Seconds
    sequence: Number


class LaneIs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of one lane: live objects, bytes of live events, bytes of all events."""

    objects: Number
    live: Number
    total: Number


class StatsAre(Message, frozen=True, tag=40):
    """stored: bytes of the chain. used: bytes of all the tenant's chains. quota: as in `Opened`."""

    sequence: Number
    stored: Number
    used: Number
    quota: Number | None
    meta: LaneIs
    blob: LaneIs
    devices: Number
    followers: Number


class Done(Message, frozen=True, tag=41):
    """It is so now."""

    generation: Number
    """Of a document that was put; else 0."""


class Pong(Message, frozen=True, tag=42):
    """The answer to `Ping`."""


class Goodbye(Message, frozen=True, tag=43):
    """The node ends the connection. id: 1. Requests that were not answered may have been carried out."""

    code: Annotated[str, Meta(pattern=r"^[a-z-]{1,20}\Z")]
    text: Annotated[str, Meta(max_length=MAX_TEXT)]


class LeaseHeld(Message, frozen=True, tag=44):
    """Somebody else has a lease that is in the way: its bytes `start` to `end`, both included, and how."""

    start: Number
    end: Number
    exclusive: bool


class Own(Message, frozen=True, tag=45):
    """In the place of batches that this connection has appended since it follows the chain: the last of them.

    Bulk, to come in its order among `Batches`."""

    bulk: ClassVar[bool] = True
    sequence: Number
    hash: Bytes32


class Reply(Message, frozen=True, tag=46):
    """Answers Inquire."""

    data: Annotated[bytes, Meta(max_length=MAX_INQUIRY)]


Request = (
    Authenticate | Open | GetDocument | PutDocument | Follow | Grant | Unfollow | Append | GetBodies | TakeLease
    | RenewLease | ReleaseLease | GetStats | Ping | Prove | EndLeases | Visit | Inquire
)  # fmt: skip
Answer = (
    Welcome | Failed | Opened | DocumentIs | Batches | Appended | BodiesAre | LeaseIs | StatsAre | Done | Pong
    | Goodbye | LeaseHeld | Own | Reply
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Message) -> bytes:
    """The bytes of one message. Its bounds are the caller's duty; the other end compares them."""
    return _encoder.encode(message)


def decode_request(data: bytes | bytearray) -> Request:
    """What a client said. Raises ProtocolError."""
    try:
        return _requests.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"a request cannot be read: {exc}") from None


def decode_answer(data: bytes | bytearray) -> Answer:
    """What a node said. Raises ProtocolError."""
    try:
        return _answers.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"an answer cannot be read: {exc}") from None
