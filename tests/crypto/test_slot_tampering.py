"""Key slots against somebody who can write the files, knows the format, and lacks the secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from atedb.crypto import slot as slot_module
from atedb.crypto.hashing import digest
from atedb.crypto.secret import Secret
from atedb.crypto.slot import MAX_MEMLIMIT, MAX_OPSLIMIT, KdfParams, Slot
from atedb.crypto.slot_file import SlotTable
from atedb.crypto.slots import KeySlots
from atedb.errors import AteError, DamagedError, UnsupportedError, WrongSecretError
from tests.crypto.conftest import CHEAP, ROOT, one_slot, passphrase

Document = dict[str, Any]


def write_both(store: Path, body: bytes) -> None:
    """Both files with this text and the checksum that fits it."""
    text = body + b' "checksum": "' + digest(body).hex().encode() + b'"\n}\n'
    for name in ("keys", "keys.copy"):
        (store / name).write_bytes(text)


def tamper(store: Path, change: Callable[[Document], None]) -> None:
    """Change the document as a program could, keeping its mac."""
    document = json.loads((store / "keys").read_bytes())
    mac = document.pop("mac")
    del document["checksum"]
    change(document)
    body = json.dumps(document, indent=1).encode().removesuffix(b"\n}")
    write_both(store, body + b',\n "mac": "' + mac.encode() + b'",\n')


def two_slots(store: Path) -> str:
    """A second slot, "second"; the identifier of the first."""
    slots = KeySlots.load(store)
    slots.add(ROOT, passphrase("second"), "other", CHEAP)
    slots.save(store)
    return slots.list()[0].id


def drop_second(document: Document) -> None:
    del document["slots"][1]


def add_foreign(document: Document) -> None:
    foreign = KeySlots.create(bytes(32))
    foreign.add(bytes(32), passphrase("intruder"), "intruder", CHEAP)
    document["slots"].append(json.loads(foreign._table.text)["slots"][0])


def exchange(document: Document) -> None:
    document["slots"].reverse()


def relabel(document: Document) -> None:
    document["slots"][0]["label"] = "trust me"


def wind_back(document: Document) -> None:
    document["generation"] -= 1


CHANGES = [drop_second, add_foreign, exchange, relabel, wind_back]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_set_of_slots_is_shown_to_whoever_opens_it(store: Path, change: Callable[[Document], None]) -> None:
    two_slots(store)
    tamper(store, change)
    with pytest.raises(DamagedError, match="atefs fsck --repair"):
        KeySlots.load(store).unlock(passphrase())


def test_a_file_written_by_another_program_without_a_change_opens(store: Path) -> None:
    two_slots(store)
    tamper(store, lambda _: None)
    assert KeySlots.load(store).unlock(passphrase()) == ROOT


@pytest.mark.parametrize("change", CHANGES)
def test_without_the_keyed_hash_the_change_would_pass(
    store: Path, change: Callable[[Document], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_slots(store)
    tamper(store, change)
    monkeypatch.setattr(SlotTable, "verify", lambda *_: None)
    assert KeySlots.load(store).unlock(passphrase()) == ROOT


@pytest.mark.parametrize(
    "change",
    [
        lambda slots, _: slots.add(ROOT, passphrase("third"), "", CHEAP),
        lambda slots, first: slots.remove(ROOT, first),
        lambda slots, first: slots.replace(ROOT, first, passphrase("third"), CHEAP),
    ],
    ids=["add", "remove", "replace"],
)
def test_tampered_slots_are_not_blessed_by_a_change(store: Path, change: Callable[[KeySlots, str], None]) -> None:
    first = two_slots(store)
    tamper(store, relabel)
    slots = KeySlots.load(store)
    with pytest.raises(DamagedError):
        change(slots, first)


def test_rescue_keeps_the_slot_that_is_proved_and_drops_the_others(store: Path) -> None:
    two_slots(store)
    tamper(store, add_foreign)
    slots = KeySlots.load(store)
    assert slots.rescue(passphrase()) == ROOT
    slots.save(store)
    after = KeySlots.load(store)
    assert after.unlock(passphrase()) == ROOT
    assert [info.label for info in after.list()] == ["mine"]
    for other in ("second", "intruder"):
        with pytest.raises(WrongSecretError):
            KeySlots.load(store).unlock(passphrase(other))


def test_any_byte_changed_and_rehashed_opens_nothing_else(store: Path) -> None:
    """With the checksum recomputed, in both files: another root never comes out, and no change goes unnoticed."""
    text = (store / "keys").read_bytes()
    body = text[: text.rindex(b' "checksum"')]
    for position in range(len(body)):
        changed = bytearray(body)
        changed[position] ^= 1 << position % 7
        write_both(store, bytes(changed))
        with pytest.raises(AteError) as caught:
            KeySlots.load(store).unlock(passphrase())
        assert isinstance(caught.value, DamagedError | UnsupportedError | WrongSecretError)


def test_exchanged_wrappings_open_nothing(store: Path) -> None:
    two_slots(store)

    def swap(document: Document) -> None:
        first, second = document["slots"]
        for field in ("commitment", "wrapped"):
            first[field], second[field] = second[field], first[field]

    tamper(store, swap)
    with pytest.raises(WrongSecretError):
        KeySlots.load(store).unlock(passphrase())


@pytest.mark.parametrize("field", ["id", "kind", "opslimit", "memlimit"])
def test_what_is_bound_to_the_wrapped_key_cannot_be_changed(store: Path, field: str) -> None:
    slot = KeySlots.load(store)._table.slots[0]
    changes: dict[str, Slot] = {
        "id": msgspec.structs.replace(slot, id="00000000"),
        "kind": msgspec.structs.replace(slot, kind=Secret.key_file(b"").kind),
        "opslimit": msgspec.structs.replace(slot, kdf=KdfParams(opslimit=2, memlimit=8 << 10)),
        "memlimit": msgspec.structs.replace(slot, kdf=KdfParams(opslimit=1, memlimit=16 << 10)),
    }
    secret = Secret.key_file(b"correct horse") if field == "kind" else passphrase()
    assert slot.unwrap(passphrase()) == ROOT
    assert changes[field].unwrap(secret) is None


@pytest.mark.parametrize(
    ("opslimit", "memlimit"),
    [
        (3, 1 << 40),
        (3, MAX_MEMLIMIT + 1024),
        (MAX_OPSLIMIT + 1, 64 << 20),
        (1 << 62, 64 << 20),
        (0, 64 << 20),
        (-1, 64 << 20),
        (3, 0),
        (3, 4096),
        (3, (64 << 20) + 1),
    ],
)
def test_a_hostile_cost_is_refused_before_it_is_paid(
    store: Path, opslimit: int, memlimit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> bytes:
        raise AssertionError("the cost was paid")

    def demand(document: Document) -> None:
        document["slots"][0]["kdf"] |= {"opslimit": opslimit, "memlimit": memlimit}

    tamper(store, demand)
    monkeypatch.setattr("nacl.bindings.crypto_pwhash_alg", explode)
    with pytest.raises(DamagedError, match="outside of what this program does"):
        KeySlots.load(store)
    monkeypatch.setattr(KdfParams, "verify", lambda _: None)
    with pytest.raises(AssertionError, match="the cost was paid"):
        KeySlots.load(store).unlock(passphrase())


def test_a_label_that_could_confuse_a_terminal_is_never_listed(store: Path) -> None:
    def relabel_badly(document: Document) -> None:
        document["slots"][0]["label"] = "\x1b]0;gotcha\x07"

    tamper(store, relabel_badly)
    with pytest.raises(DamagedError, match="a label that atefs does not write"):
        KeySlots.load(store)


def test_memory_that_is_not_to_be_had_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = one_slot()

    def refuse(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("nacl.bindings.crypto_pwhash_alg", refuse)
    with pytest.raises(AteError, match="free some memory"):
        slots.unlock(passphrase())


# One ciphertext for two keys. Poly1305 is linear in the ciphertext's blocks, so that with one block free the other can
# be solved for; see Len, Grubbs, Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021, section 3.

PRIME = (1 << 130) - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
NONCE = bytes(24)


def one_time_key(key: bytes) -> tuple[int, int]:
    """r and s of Poly1305: the first block of the key stream."""
    block = chacha20_block(hchacha20(key, NONCE[:16]), 0, bytes(4) + NONCE[16:])
    return int.from_bytes(block[:16], "little") & CLAMP, int.from_bytes(block[16:32], "little")


def quarter(words: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, source, other, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        words[target] = (words[target] + words[source]) & 0xFFFFFFFF
        mixed = words[other] ^ words[target]
        words[other] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF


def rounds(key: bytes, tail: bytes) -> tuple[list[int], list[int]]:
    start = [int.from_bytes(part, "little") for part in re.findall(b"(?s)....", b"expand 32-byte k" + key + tail)]
    words = list(start)
    for _ in range(10):
        for column in range(4):
            quarter(words, column, column + 4, column + 8, column + 12)
        for column in range(4):
            quarter(words, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return start, words


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """draft-irtf-cfrg-xchacha-03, section 2.2."""
    words = rounds(key, nonce)[1]
    return b"".join(word.to_bytes(4, "little") for word in words[:4] + words[12:])


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439, section 2.3."""
    start, words = rounds(key, counter.to_bytes(4, "little") + nonce)
    return b"".join((a + b & 0xFFFFFFFF).to_bytes(4, "little") for a, b in zip(start, words, strict=True))


def blocks_of(data: bytes) -> list[int]:
    """The numbers that Poly1305 sums up: 16 bytes each, padded, with a bit on top."""
    data += bytes(-len(data) % 16)
    return [int.from_bytes(data[start : start + 16], "little") | 1 << 128 for start in range(0, len(data), 16)]


def two_key_ciphertext(keys: tuple[bytes, bytes], bound: bytes) -> bytes:
    """32 bytes of ciphertext and a tag that verify under both keys."""
    (r1, s1), (r2, s2) = (one_time_key(key) for key in keys)
    lengths = blocks_of(len(bound).to_bytes(8, "little") + (32).to_bytes(8, "little"))
    head = blocks_of(bound)
    inverse = pow(r1 * r1 - r2 * r2, -1, PRIME)

    def total(r: int, blocks: list[int]) -> int:
        value = 0
        for block in blocks:
            value = (value + block) * r % PRIME
        return value

    for free in range(1000):
        first = free | 1 << 128
        known = [total(r, [*head, first, 0, *lengths]) for r in (r1, r2)]
        for carry in range(-4, 5):
            wanted = s2 - s1 + (carry << 128)  # total1 - total2: then the sums with s are equal modulo 2^128
            second = (wanted - known[0] + known[1]) * inverse % PRIME
            tags = {(total(r, [*head, first, second, *lengths]) + s) % (1 << 128) for r, s in ((r1, s1), (r2, s2))}
            if second >> 128 == 1 and len(tags) == 1:
                blocks = free.to_bytes(16, "little") + (second & (1 << 128) - 1).to_bytes(16, "little")
                return blocks + tags.pop().to_bytes(16, "little")
    raise AssertionError("no ciphertext found")


def test_one_wrapped_key_cannot_open_under_two_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = passphrase("mine"), passphrase("theirs")
    slot = Slot.wrap("00000001", "", 1, root=ROOT, secret=secrets[0], kdf=CHEAP)
    derived = [slot_module._keys(secret, slot.salt, slot.kdf) for secret in secrets]
    bound = slot_module._bound(slot.id, slot.kind, slot.kdf, slot.salt)
    wrapped = two_key_ciphertext((derived[0][0], derived[1][0]), bound)
    for _, commitment in derived:
        forged = msgspec.structs.replace(slot, wrapped=wrapped, commitment=commitment)
        opened = [forged.unwrap(secret) is not None for secret in secrets]
        assert sorted(opened) == [False, True], "the commitment decides for one of them"
    # The bare cipher opens it with both: without the commitment the slot would.
    monkeypatch.setattr("hmac.compare_digest", lambda *_: True)
    assert all(forged.unwrap(secret) is not None for secret in secrets)
