"""Addresses of chains: what they say, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedb.net.url import ServerUrl, UrlError, is_path

PRINT = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        (
            "ws://host:5001/db/you@example.com/vault",
            (False, "host", 5001, "/you@example.com/vault", None),
            "ws://host:5001/db/you@example.com/vault",
        ),
        ("wss://HOST/db/a/b#" + PRINT.upper(), (True, "host", 5000, "/a/b", b"\xab" * 32), "wss://host:5000/db/a/b"),
        ("ws://[::1]:7/db/a/b/c", (False, "::1", 7, "/a/b/c", None), "ws://[::1]:7/db/a/b/c"),
    ],
)
def test_an_address_says_where_a_chain_is(text: str, expected: tuple[object, ...], shown: str) -> None:
    url = ServerUrl.parse(text)
    assert url == expected
    assert str(url) == shown
    assert ServerUrl.parse(str(url)) == url._replace(pin=None)
    assert str(url).startswith(url.server + "/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host/db/a/b",
        "http://host/db/a/b",
        "ws:///db/a/b",
        "ws://host",
        "ws://host/a/b",
        "ws://host/db",
        "ws://host/db/",
        "ws://host/db/a",
        "ws://host/db/a/",
        "ws://host/db//a/b",
        "ws://host/db/a/../b",
        "ws://host/db/a/./b",
        "ws://host/db/a b/c",
        "ws://host/db/a%2Fb/c",
        "ws://host/db/a/b?x=1",
        "ws://host/db/a/b#abcd",
        "ws://host/db/a/b#" + PRINT + "00",
        "ws://host:0x10/db/a/b",
        "ws://host:70000/db/a/b",
        "ws://me:secret@host/db/a/b",
        "ws://ho%00st/db/a/b",
        "ws://[::1/db/a/b",
        "ws://host/db/" + "/".join("abcdefghi"),
        "ws://host/db/a/" + "b" * 101,
        "ws://host/db/a/\u00e9",
        "ws://host/db/a/b\n",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UrlError, match=r"no address of a chain|does not name a chain"):
        ServerUrl.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_url_error(text: str) -> None:
    for attempt in (text, "ws://host/db/" + text, "ws://" + text + "/db/a/b"):
        try:
            url = ServerUrl.parse(attempt)
        except UrlError:
            continue
        assert is_path(url.path)
