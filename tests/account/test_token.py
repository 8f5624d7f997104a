"""Tokens: their text, and the keys that are sealed for them."""

from __future__ import annotations

import base64

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from atedb.account.root import AccountRoot
from atedb.account.token import Bundle, ChainKey, Token, TokenError
from atedb.errors import DamagedError


def derived(purpose: str, secret: bytes) -> bytes:
    return blake3(secret, derive_key_context="atedb v1 " + purpose).digest()


@given(st.binary(min_size=32, max_size=32))
def test_a_token_s_text_says_it_whole_and_is_what_the_document_says(secret: bytes) -> None:
    token = Token(secret)
    checksum = blake3(b"atedb v1 token checksum" + secret).digest()[:4]
    assert token.text == "ate_" + base64.b32encode(secret + checksum).decode().rstrip("=").lower()
    again = Token.parse(f"  {token.text}\n")
    assert (again.text, again.id) == (token.text, token.id)
    public = bytes(SigningKey(derived("token identity", secret)).verify_key)
    assert token.identity.public == public
    assert token.id == blake3(b"atedb v1 token" + public).digest()[:6].hex()


@given(st.integers(4, 61), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_slip_of_the_hand_is_found_before_anything_is_sent(place: int, letter: str) -> None:
    text = Token(b"secret" * 5 + b"!!").text
    slipped = text[:place] + letter + text[place + 1 :]
    if slipped != text:
        with pytest.raises(TokenError, match="checksum"):
            Token.parse(slipped)


@pytest.mark.parametrize("text", ["", "ate_", "ate_" + "a" * 58, "x" * 62, "ate_" + "1" * 58, "ate_" + "ä" * 58])
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(TokenError) as refused:
        Token.parse(text)
    assert len(text) < 5 or text not in str(refused.value)


def test_keys_that_are_sealed_for_a_token_open_with_it_alone() -> None:
    token, other = Token(b"t" * 32), Token(b"o" * 32)
    bundle = Bundle(chains=(ChainKey("/you@example.com/vault", b"r" * 32),))
    sealed = token.seal(bundle)
    assert token.open(sealed) == bundle
    assert token.open(sealed).chain_root("/you@example.com/vault") == b"r" * 32
    assert token.open(sealed).chain_root("/you@example.com/other") is None
    assert sealed != token.seal(bundle)
    for wrong in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(DamagedError):
            token.open(wrong)
    with pytest.raises(DamagedError):
        other.open(sealed)


def test_secrets_do_not_show_themselves() -> None:
    token, root = Token(b"t" * 32), AccountRoot(b"r" * 32)
    for one in (token, root):
        assert b"tttt" not in repr(one).encode()
        assert "rrrr" not in repr(one)
    assert repr(Bundle(account=root.secret)) == "Bundle(…)"


def test_every_bit_of_a_sealed_bundle_counts() -> None:
    token = Token(b"t" * 32)
    sealed = token.seal(Bundle(account=b"a" * 32))
    for place in range(len(sealed)):
        with pytest.raises(DamagedError):
            token.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])
