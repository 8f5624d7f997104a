"""Every message in its exact bytes: the arrays that docs/protocol.md describes, written here without our code."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atedb.net import messages
from atedb.net.messages import Answer, Message, Request, decode_answer, decode_request, encode

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
KEY, SIGNATURE, OWNER = b"k" * 32, b"s" * 64, b"owner"

REQUESTS: list[list[Any]] = [
    [1, 1, KEY, SIGNATURE],
    [2, 2, "/you@example.com/vault", None],
    [2, 2, "/you@example.com/vault", [b"header", b"slots"]],
    [3, 3, "keys"],
    [4, 4, "keys", 7, b"slots"],
    [5, 5, 1, True, 1 << 20],
    [6, 5, 4096],
    [7, 5],
    [8, 6, [b"frame", b"another"]],
    [9, 7, [[12, 0], [12, 3]]],
    [10, 8, "name", OWNER, 0, 99, True, 20.0, 1, 17],
    [11, 9, 20.0],
    [12, 10, "name", OWNER, 0, 99],
    [13, 11],
    [14, 12],
    [15, 13, KEY, SIGNATURE],
    [16, 14, OWNER],
    [17, 1],
    [18, 2, b"inquiry"],
]
ANSWERS: list[list[Any]] = [
    [32, 1, 1_700_000_000_000_000_000],
    [33, 2, "stale", "text", [9, KEY]],
    [34, 2, b"header", 9, KEY, None, True, False],
    [35, 3, b"slots", 7],
    [36, 5, [b"frame"]],
    [37, 6, 10, KEY],
    [38, 7, [b"body", b""]],
    [39, 8, 18, 20.0, 10],
    [40, 11, 10, 5000, 9000, 1 << 30, [3, 300, 400], [2, 4000, 4500], 2, 1],
    [41, 4, 8],
    [42, 12],
    [43, 1, "busy", "text"],
    [44, 8, 0, 99, False],
    [45, 5, 10, KEY],
    [46, 2, b"reply"],
]


@pytest.mark.parametrize("said", REQUESTS, ids=lambda said: str(said[0]))
def test_a_request_is_these_bytes(said: list[Any]) -> None:
    data = msgspec.msgpack.encode(said)
    message = decode_request(data)
    assert _tag(type(message)) == said[0]
    assert encode(message) == data


@pytest.mark.parametrize("said", ANSWERS, ids=lambda said: str(said[0]))
def test_an_answer_is_these_bytes(said: list[Any]) -> None:
    data = msgspec.msgpack.encode(said)
    message = decode_answer(data)
    assert _tag(type(message)) == said[0]
    assert encode(message) == data


def test_there_is_a_line_for_each_message_and_the_document_names_them_all() -> None:
    """With their numbers, their names, and whether they are bulk."""
    rows = re.findall(r"^\| (\d+) \| ([A-Z]\w+) \|.*\| (control|bulk) \|$", DOCUMENT.read_text(), re.MULTILINE)
    known = [*typing.get_args(Request), *typing.get_args(Answer)]
    assert {(int(number), name, lane) for number, name, lane in rows} == {
        (_tag(one), one.__name__, "bulk" if one.bulk else "control") for one in known
    }
    assert {said[0] for said in REQUESTS + ANSWERS} == {_tag(one) for one in known}
    made = {one for one in vars(messages).values() if isinstance(one, type) and issubclass(one, Message)}
    assert made - {Message} == set(known)


def _tag(kind: type[Message]) -> object:
    return kind.__struct_config__.tag
