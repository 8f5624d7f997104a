"""What is said about accounts: the names that the document lists, in exact bytes, and nothing else is taken."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedb.account import messages
from atedb.account.messages import MemberInquiry, Reply, VisitorInquiry, decode_member, decode_reply, decode_visitor
from atedb.account.root import AccountRoot
from atedb.account.token import MAX_BUNDLE, Token
from atedb.account.way import WayKind, make_way
from atedb.crypto.secret import Secret
from atedb.errors import InvalidError
from atedb.net.messages import MAX_INQUIRY

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
ROOT, TOKEN = AccountRoot(bytes(32)), Token(bytes(32))
EMAIL, SALT, SEALED, SIGNATURE = "you@example.com", b"s" * 16, b"e" * 112, b"n" * 64
KDF = {"algorithm": "argon2id", "opslimit": 3, "memlimit": 64 << 20}
WAY = {"kind": "password", "kdf": KDF, "salt": SALT, "login": b"l" * 32, "sealed": SEALED}
CARD = msgspec.to_builtins(ROOT.card(EMAIL), builtin_types=(bytes,))
NEW = {"identity": b"i" * 32, "name": "laptop", "expires": 17, "chains": ["*"], "rights": "write", "bundle": b""}
INFO = {
    "id": "0123456789ab", "name": "laptop", "login": True, "created": 1, "expires": 17, "chains": ["/a/b"],
    "rights": "read", "used": 0, "address": "",
}  # fmt: skip

VISITOR: list[list[Any]] = [
    ["AskWay", EMAIL, "password"],
    ["Register", "ABCD-2345", EMAIL, WAY, WAY, b"t" * 20, CARD, NEW],
    ["Login", EMAIL, "123456", NEW, SIGNATURE],
    ["Unseal", EMAIL, SIGNATURE],
    ["Recover", EMAIL, WAY, WAY, b"t" * 20, NEW, SIGNATURE],
]
MEMBER: list[list[Any]] = [
    ["AskWay", EMAIL, "recovery"],
    ["WhoAmI"],
    ["GetBundle"],
    ["Leave"],
    ["MakeToken", NEW],
    ["ListTokens", ""],
    ["RevokeToken", "0123456789ab"],
    ["Sudo", "123456"],
    ["ChangePassword", WAY, SIGNATURE],
    ["Invite", ""],
    ["GetAudit", 0],
    ["GetCard", EMAIL],
]
REPLIES: list[list[Any]] = [
    ["WayIs", {"kdf": KDF, "salt": SALT}],
    ["Entered", SEALED],
    ["Me", EMAIL, True, INFO, CARD, 900],
    ["BundleIs", b"sealed"],
    ["TokensAre", [INFO], False],
    ["Invited", "ABCD-2345", 17],
    ["AuditIs", 0, bytes(32), [b"sealed"], False],
    ["CardIs", CARD],
    ["Granted"],
]
TABLES = [(decode_visitor, VISITOR), (decode_member, MEMBER), (decode_reply, REPLIES)]


@pytest.mark.parametrize(("decode", "said"), [(decode, said) for decode, table in TABLES for said in table])
def test_a_message_is_these_bytes(decode: Any, said: list[Any]) -> None:
    data = msgspec.msgpack.encode(said)
    message = decode(data)
    assert type(message).__name__ == said[0]
    assert messages.encode(message) == data


def test_there_is_a_line_for_each_message_and_the_document_names_them_all() -> None:
    section = DOCUMENT.read_text().partition("## Accounts")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| ([A-Z]\w+) \|", section, re.MULTILINE))
    for union, (_, table) in zip((VisitorInquiry, MemberInquiry, Reply), TABLES, strict=True):
        assert {one.__name__ for one in typing.get_args(union)} == {said[0] for said in table} <= named
    assert named == {said[0] for _, table in TABLES for said in table}


@pytest.mark.parametrize(("decode", "table"), TABLES)
def test_what_is_too_short_too_long_or_of_another_type_is_refused(decode: Any, table: list[list[Any]]) -> None:
    for said in table:
        for wrong in ([*said, 1], said[:-1], [*said[:1], *([{}] * (len(said) - 1)), 7]):
            with pytest.raises(InvalidError, match="cannot be read"):
                decode(msgspec.msgpack.encode(wrong))


@given(st.binary(max_size=300))
def test_whatever_bytes_arrive_they_are_a_message_or_refused(data: bytes) -> None:
    for decode in (decode_visitor, decode_member, decode_reply):
        try:
            decode(data)
        except InvalidError:
            pass


def test_no_inquiry_is_longer_than_the_protocol_carries() -> None:
    """The longest: an invitation taken up, with the longest names and a full bundle."""
    with Secret.passphrase("password") as secret:
        way = make_way(WayKind.PASSWORD, secret, EMAIL, ROOT)
    longest = messages.NewToken(
        TOKEN.identity.public, "\U0001f511" * messages.MAX_NAME, 1 << 40, tuple("x" * 255 for _ in range(16)),
        messages.Rights.WRITE, bytes(MAX_BUNDLE),
    )  # fmt: skip
    register = messages.Register("A" * 64, "x" * 100, way, way, bytes(20), ROOT.card(EMAIL), longest)
    assert len(messages.encode(register)) < MAX_INQUIRY
