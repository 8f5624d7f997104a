"""An independent reader of the key slots, written from docs/formats.md, against a file made by an earlier version."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from nacl import bindings

from atedb.crypto.recovery_code import generate_code, parse_code
from atedb.crypto.slots import KeySlots, Secret

GOLDEN = Path(__file__).parent / "golden"
ROOT = bytes(range(32))
CODE = generate_code(lambda size: bytes(range(size)))
GOLDEN_CODE = "ATER-0804F-G1G0M-5G1EH-04416-AR2RP-G6R1P-F042R-19C2E-M85CK"
SECRETS = {1: b"correct horse", 2: bytes(range(100, 164)), 3: CODE.encode("ascii")}
KINDS = {"passphrase": 1, "key-file": 2, "recovery": 3}


def root_of(text: bytes, kind: int, secret: bytes) -> bytes:
    """The root key, or an assertion that fails."""
    lines = text.decode().split("\n")
    before_checksum, before_mac = "\n".join(lines[:-3]) + "\n", "\n".join(lines[:-4]) + "\n"
    document = json.loads(text)
    assert (document["format"], document["version"]) == ("atedb key slots", 1)
    assert blake3(before_checksum.encode()).hexdigest() == document["checksum"]

    slot = next(slot for slot in document["slots"] if KINDS[slot["kind"]] == kind)
    salt, commitment, wrapped = (base64.b64decode(slot[name]) for name in ("salt", "commitment", "wrapped"))
    opslimit, memlimit = slot["kdf"]["opslimit"], slot["kdf"]["memlimit"]
    stretched = bindings.crypto_pwhash_alg(32, secret, salt, opslimit, memlimit, bindings.crypto_pwhash_ALG_ARGON2ID13)
    material = blake3(stretched, derive_key_context="atedb v1 key slot").digest(length=64)
    assert material[32:] == commitment
    bound = b"atedb v1 key slot" + struct.pack("<8sBIQ16s", slot["id"].encode(), kind, opslimit, memlimit, salt)
    root = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(wrapped, bound, bytes(24), material[:32])

    seal = blake3(root, derive_key_context="atedb v1 key slots seal").digest()
    assert blake3(before_mac.encode(), key=seal).hexdigest() == document["mac"]
    return root


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_an_independent_reader_opens_the_golden_file(kind: int) -> None:
    assert root_of((GOLDEN / "keys").read_bytes(), kind, SECRETS[kind]) == ROOT


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_an_independent_reader_opens_what_is_written_today(tmp_path: Path, kind: int) -> None:
    slots = KeySlots.create(ROOT)
    for secret in (Secret.passphrase(SECRETS[1]), Secret.key_file(SECRETS[2]), Secret.recovery_code(CODE)):
        slots.add(ROOT, secret, "ünïcode")
    slots.save(tmp_path)
    assert root_of((tmp_path / "keys").read_bytes(), kind, SECRETS[kind]) == ROOT


def test_the_golden_file_opens() -> None:
    slots = KeySlots.load(GOLDEN, mend=False)
    for secret in (Secret.passphrase(SECRETS[1]), Secret.key_file(SECRETS[2]), Secret.recovery_code(CODE)):
        assert slots.unlock(secret) == ROOT


def test_the_golden_recovery_code_is_read() -> None:
    assert parse_code(GOLDEN_CODE) == GOLDEN_CODE == CODE
