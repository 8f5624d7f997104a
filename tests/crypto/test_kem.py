"""Secrets sealed to a hybrid key, and records of a connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from atedb.crypto.aead import SealBrokenError
from atedb.crypto.kem import (
    KEM_PRIVATE_SIZE,
    KEM_PUBLIC_SIZE,
    BadKeyError,
    KemKey,
    fingerprint,
    seal_to,
    sealed_size,
)
from atedb.crypto.records import RECORD_OVERHEAD, RecordOpener, RecordSealer

KEY = KemKey.generate()


def test_a_secret_is_readable_by_the_keys_owner_for_its_purpose_only() -> None:
    sealed = seal_to(KEY.public, b"s" * 32, b"purpose")
    assert len(sealed) == sealed_size(32)
    assert KemKey(KEY.private).open(sealed, b"purpose") == b"s" * 32
    for key, purpose in ((KEY, b"other"), (KemKey.generate(), b"purpose")):
        with pytest.raises(SealBrokenError):
            key.open(sealed, purpose)
    assert seal_to(KEY.public, b"s" * 32, b"purpose") != sealed


@pytest.mark.parametrize("at", [0, 500, 1087, 1088, 1119, 1120, 1167])
def test_a_sealed_secret_that_was_changed_does_not_open(at: int) -> None:
    sealed = bytearray(seal_to(KEY.public, b"s" * 32, b""))
    sealed[at] ^= 1
    with pytest.raises(SealBrokenError):
        KEY.open(bytes(sealed), b"")


@pytest.mark.parametrize("change", [lambda s: b"", lambda s: s[:-1], lambda s: s + b"\0", lambda s: bytes(len(s))])
def test_a_sealed_secret_of_another_length_does_not_open(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(SealBrokenError):
        KEY.open(change(seal_to(KEY.public, b"s" * 32, b"")), b"")


def test_both_halves_are_needed_to_read_a_secret() -> None:
    sealed = seal_to(KEY.public, b"s" * 32, b"")
    other = KemKey.generate()
    for half in (KEY.private[:64] + other.private[64:], other.private[:64] + KEY.private[64:]):
        with pytest.raises(SealBrokenError):
            KemKey(half).open(sealed, b"")


def test_bytes_that_are_no_key_are_refused() -> None:
    for private in (b"", KEY.private[1:], KEY.private + b"\0"):
        with pytest.raises(BadKeyError):
            KemKey(private)
    # Too short, ML-KEM coefficients out of range, and an X25519 point of low order.
    for public in (b"", KEY.public[1:], b"\xff" * KEM_PUBLIC_SIZE, KEY.public[:-32] + bytes(32)):
        with pytest.raises(BadKeyError):
            seal_to(public, b"s", b"")


def test_a_key_is_laid_out_as_documented() -> None:
    assert len(KEY.private) == KEM_PRIVATE_SIZE == 96
    mlkem = MLKEM768PrivateKey.from_seed_bytes(KEY.private[:64])
    x25519 = X25519PrivateKey.from_private_bytes(KEY.private[64:])
    assert KEY.public == mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    assert KEY.fingerprint == fingerprint(KEY.public)
    assert KEY.private.hex() not in repr(KEY)


def test_records_open_once_and_in_their_order_only() -> None:
    sealer = RecordSealer(b"k" * 32)
    records = [sealer.seal(text) for text in (b"one", b"two", b"three")]
    assert [len(record) for record in records] == [3 + RECORD_OVERHEAD, 3 + RECORD_OVERHEAD, 5 + RECORD_OVERHEAD]
    opener = RecordOpener(b"k" * 32)
    assert [opener.open(record) for record in records] == [b"one", b"two", b"three"]
    for wrong in (records[1], records[2], records[0] + b"\0", records[0][1:], b""):
        with pytest.raises(SealBrokenError):
            RecordOpener(b"k" * 32).open(wrong)
    opener = RecordOpener(b"k" * 32)
    opener.open(records[0])
    with pytest.raises(SealBrokenError):
        opener.open(records[0])
    with pytest.raises(SealBrokenError):
        RecordOpener(b"j" * 32).open(records[0])
