"""What is said about accounts, inside a connection: inquiries of a client, replies of a server. Every field is bounded.

A message is one MessagePack array that begins with its name. `docs/protocol.md` has the list. Whoever has no token yet
(a visitor) may make the inquiries of the first kind, whoever came by a token those of the second.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from atedb.account.audit import MAX_SEALED
from atedb.account.email import MAX_EMAIL
from atedb.account.root import Card
from atedb.account.token import MAX_BUNDLE, MAX_CHAINS
from atedb.account.way import PublicKey, Question, Sealed, Way, WayKind
from atedb.crypto.envelope import ENVELOPE_OVERHEAD
from atedb.crypto.hashing import HASH_SIZE
from atedb.crypto.signing import SIGNATURE_SIZE
from atedb.crypto.totp import TOTP_DIGITS, TOTP_SECRET_SIZE
from atedb.errors import InvalidError

MAX_NAME = 64
ALL_CHAINS = "*"

Email = Annotated[str, Meta(min_length=1, max_length=MAX_EMAIL)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Signature = Annotated[bytes, Meta(max_length=SIGNATURE_SIZE)]
Code = Annotated[str, Meta(pattern=rf"^([0-9]{{{TOTP_DIGITS}}})?\Z")]
InvitationCode = Annotated[str, Meta(pattern=r"^[A-Z2-7-]{1,64}\Z")]
TokenId = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
TotpSecret = Annotated[bytes, Meta(min_length=TOTP_SECRET_SIZE, max_length=TOTP_SECRET_SIZE)]
SealedBundle = Annotated[bytes, Meta(max_length=MAX_BUNDLE + ENVELOPE_OVERHEAD)]
Chains = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=255)], ...], Meta(min_length=1, max_length=MAX_CHAINS)
]
Seconds = Annotated[int, Meta(ge=0, le=1 << 40)]
"""Since 1970."""


class Rights(StrEnum):
    """What may be done with chains."""

    READ = "read"
    WRITE = "write"


class NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token that is to be let in. identity: its public key. chains: paths, or ALL_CHAINS. bundle: its keys, sealed.

    expires: seconds since 1970.
    """

    identity: PublicKey
    name: Name
    expires: Seconds
    chains: Chains
    rights: Rights
    bundle: SealedBundle


class TokenInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What its owner is shown of a token. login: it was made by logging in. used: seconds since 1970, 0 for never;
    address: from where."""

    id: TokenId
    name: Name
    login: bool
    created: Seconds
    expires: Seconds
    chains: Chains
    rights: Rights
    used: Seconds
    address: str


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Tagged with the name of its class."""


# What a visitor asks.


class AskWay(_Message, frozen=True):
    """With what is a password, or recovery code, to be stretched? Answered alike for users that there are not."""

    email: Email
    kind: WayKind


class Register(_Message, frozen=True):
    """Make an account, and let its first token in. invitation: a code that was handed out for this."""

    invitation: InvitationCode
    email: Email
    password: Way
    recovery: Way
    totp: TotpSecret
    card: Card
    token: NewToken


class Login(_Message, frozen=True):
    """Let a token in. signature: of this request in this conversation, by the key that the password gives."""

    email: Email
    code: Code
    token: NewToken
    signature: Signature


class Unseal(_Message, frozen=True):
    """Give the account's root as it is sealed for the recovery code, whose key has signed this."""

    email: Email
    signature: Signature


class Recover(_Message, frozen=True):
    """As Register, for an account that there is; the recovery code that was there has signed it. Ends all tokens."""

    email: Email
    password: Way
    recovery: Way
    totp: TotpSecret
    token: NewToken
    signature: Signature


# What somebody asks who came by a token: AskWay about their own account, too. What changes something needs a login.


class WhoAmI(_Message, frozen=True):
    """Whose token is this?"""


class GetBundle(_Message, frozen=True):
    """The keys that this token gives."""


class Leave(_Message, frozen=True):
    """Let this token in no more."""


class MakeToken(_Message, frozen=True):
    """Let one more token in."""

    token: NewToken


class ListTokens(_Message, frozen=True):
    """Which tokens are let in? after: only those whose id is greater."""

    after: Annotated[str, Meta(max_length=12)]


class RevokeToken(_Message, frozen=True):
    """Let a token in no more."""

    id: TokenId


class Sudo(_Message, frozen=True):
    """For the next 15 minutes this token may do what needs a second factor. code: of the authenticator."""

    code: Code


class ChangePassword(_Message, frozen=True):
    """Another password from now on; the old one has signed this. Needs sudo."""

    password: Way
    signature: Signature


class Invite(_Message, frozen=True):
    """A code with which somebody may register. email: who, or empty for anybody. For administrators; needs sudo."""

    email: Annotated[str, Meta(max_length=MAX_EMAIL)]


class GetAudit(_Message, frozen=True):
    """What the server has noted about the account after the entry with this number. Needs a login."""

    after: Annotated[int, Meta(ge=0, lt=1 << 53)]


class GetCard(_Message, frozen=True):
    """What is to be known of another user?"""

    email: Email


# What a server replies.


class WayIs(_Message, frozen=True):
    """Answers AskWay."""

    question: Question


class Entered(_Message, frozen=True):
    """The token is let in. sealed: the account's root."""

    sealed: Sealed


class Me(_Message, frozen=True):
    """Answers WhoAmI. sudo: seconds that are left of it."""

    email: Email
    admin: bool
    token: TokenInfo
    card: Card
    sudo: Seconds


class BundleIs(_Message, frozen=True):
    """Answers GetBundle."""

    bundle: SealedBundle


class TokensAre(_Message, frozen=True):
    """Answers ListTokens, in the order of ids. more: there are others after these."""

    tokens: list[TokenInfo]
    more: bool


class Invited(_Message, frozen=True):
    """Answers Invite. expires: seconds since 1970."""

    code: InvitationCode
    expires: Seconds


class AuditIs(_Message, frozen=True):
    """Answers GetAudit: entries, as they are sealed. number, hash: the place before the first of them, or the log's end
    if there are none. more: there are others after these."""

    number: Annotated[int, Meta(ge=0, lt=1 << 53)]
    hash: Annotated[bytes, Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]
    entries: list[Annotated[bytes, Meta(max_length=MAX_SEALED)]]
    more: bool


class CardIs(_Message, frozen=True):
    """Answers GetCard."""

    card: Card


class Granted(_Message, frozen=True):
    """It is so now."""


Signed = Login | Unseal | Recover | ChangePassword
VisitorInquiry = AskWay | Register | Login | Unseal | Recover
MemberInquiry = (
    AskWay | WhoAmI | GetBundle | Leave | MakeToken | ListTokens | RevokeToken | Sudo | ChangePassword | Invite
    | GetAudit | GetCard
)  # fmt: skip
Reply = WayIs | Entered | Me | BundleIs | TokensAre | Invited | AuditIs | CardIs | Granted

_T = TypeVar("_T", VisitorInquiry, MemberInquiry, Reply)
_encoder = msgspec.msgpack.Encoder()
_visitor: msgspec.msgpack.Decoder[VisitorInquiry] = msgspec.msgpack.Decoder(VisitorInquiry)
_member: msgspec.msgpack.Decoder[MemberInquiry] = msgspec.msgpack.Decoder(MemberInquiry)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: VisitorInquiry | MemberInquiry | Reply) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode_visitor(data: bytes) -> VisitorInquiry:
    """What somebody asks who has no token. Raises InvalidError."""
    return _decoded(_visitor, data)


def decode_member(data: bytes) -> MemberInquiry:
    """What somebody asks who has one. Raises InvalidError."""
    return _decoded(_member, data)


def decode_reply(data: bytes) -> Reply:
    """What a server replies. Raises InvalidError."""
    return _decoded(_reply, data)


def statement(message: Signed, conversation: bytes) -> bytes:
    """What the key of a password, or recovery code, signs: the message in this conversation, and in no other.

    conversation: the hash of the handshake, 32 bytes.
    """
    return b"atedb v1 account" + conversation + encode(msgspec.structs.replace(message, signature=b""))


def _decoded(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidError(f"what was asked about an account cannot be read: {error}") from None
