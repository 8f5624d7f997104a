"""The derivations of docs/crypto.md: its vectors, made again without our code, and by our code."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as xchacha
from nacl.signing import SigningKey as NaclKey

from atedb.account.audit import BEGINNING, after
from atedb.account.root import AccountRoot
from atedb.account.token import Token
from atedb.account.way import Question, WayKeys, WayKind
from atedb.crypto.aead import AES_256_GCM
from atedb.crypto.envelope import open_secret
from atedb.crypto.hashing import digest
from atedb.crypto.keys import KeyRing, chain_id_of, root_signing_key
from atedb.crypto.secret import Secret
from atedb.crypto.sethash import SetHash
from atedb.crypto.signing import Certificate, SigningKey
from atedb.crypto.slot import KdfParams, Slot
from atedb.crypto.totp import totp_code

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "crypto.md"
EMAIL = b"you@example.com"


def documented() -> dict[str, bytes]:
    block = DOCUMENT.read_text().partition("```vectors\n")[2].partition("```")[0]
    return {name: bytes.fromhex(value) for name, value in (line.split() for line in block.splitlines())}


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def derived(purpose: str, secret: bytes, *parts: bytes, length: int = 32) -> bytes:
    material = secret + b"".join(u32(len(part)) + part for part in parts)
    return blake3(material, derive_key_context="atedb v1 " + purpose).digest(length=length)


def keyed(key: bytes, data: bytes, length: int = 32) -> bytes:
    return blake3(data, key=key).digest(length=length)


def public(seed: bytes) -> bytes:
    return bytes(NaclKey(seed).verify_key)


def argon2(secret: bytes, salt: bytes, passes: int, memory: int) -> bytes:
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=1, memory_cost=memory >> 10).derive(secret)


def independent(given: dict[str, bytes]) -> dict[str, bytes]:
    """Everything that follows from the inputs, by the document's words alone."""
    root, salt = given["root"], given["header-salt"]
    found: dict[str, bytes] = {}
    root_seed = derived("chain root signing key", root, salt)
    found["root-public"] = public(root_seed)
    chain = found["chain-id"] = blake3(b"atedb v1 chain id" + found["root-public"]).digest()
    found["certificate"] = (
        NaclKey(root_seed)
        .sign(b"atedb v1 device certificate" + chain + given["device"] + u64(given["created"][0]))
        .signature
    )
    tenant = found["tenant"] = derived("tenant identifier", root, chain, length=16)
    found["object-key"] = keyed(derived("object identifiers", root, chain), b"\x01" + b"part", 16)
    epoch = found["epoch-key"] = derived("epoch key", root, chain, tenant, u32(1))
    batch = derived("batch key", epoch, chain, given["batch-salt"], length=64)
    found["batch-key"], found["batch-commitment"] = batch[:32], batch[32:]
    found["sealed-event"] = AESGCM(batch[:32]).encrypt((5).to_bytes(12, "little"), b"body", b"bound")
    live = derived("live set hash", root, chain)
    found["set-element"] = keyed(live, b"\x01" + b"core" + blake3(b"event").digest(), 16)
    for name in ("view pages", "view seal", "device file", "journal"):
        found[name.replace(" ", "-")] = derived(name, root, chain)
    found["slots-seal"] = keyed(derived("key slots seal", root), b"document")
    material = derived("key slot", argon2(b"passphrase", given["slot-salt"], 3, 64 << 20), length=64)
    bound = b"atedb v1 key slot" + b"0123abcd" + b"\x01" + u32(3) + u64(64 << 20) + given["slot-salt"]
    found["slot-commitment"] = material[32:]
    found["slot-wrapped"] = xchacha(root, bound, bytes(24), material[:32])
    account = given["account-root"]
    found["account-slot-secret"] = derived("account slots", account)
    signing = NaclKey(derived("account identity", account))
    found["account-signing"] = bytes(signing.verify_key)
    found["account-kem-private"] = derived("account kem", account, length=96)
    way = derived(
        "account way", argon2(b"password", given["way-salt"], 3, 64 << 20), b"password", EMAIL, length=64
    )  # fmt: skip
    found["way-login"] = public(way[:32])
    sealing = derived("account root", way[32:], given["envelope-salt"], EMAIL, length=64)
    sealed = xchacha(account, b"", bytes(24), sealing[:32])
    found["way-sealed"] = given["envelope-salt"] + sealing[32:] + sealed
    token = given["token"]
    found["token-identity"] = public(derived("token identity", token))
    found["token-id"] = blake3(b"atedb v1 token" + found["token-identity"]).digest()[:6]
    checksum = blake3(b"atedb v1 token checksum" + token).digest()[:4]
    found["token-text"] = b"ate_" + base64.b32encode(token + checksum).rstrip(b"=").lower()
    found["audit-hash"] = blake3(b"atedb v1 audit" + bytes(32) + u64(1) + b"sealed").digest()
    found["totp"] = TOTP(given["totp-secret"], 6, hashes.SHA1(), 30).generate(59)
    return found


def test_a_second_implementation_makes_the_document_s_vectors() -> None:
    given = documented()
    for name, value in independent(given).items():
        assert (name, given[name].hex()) == (name, value.hex())
    inputs = {
        "root", "header-salt", "device", "created", "batch-salt", "slot-salt", "account-root", "way-salt",
        "envelope-salt", "token", "totp-secret",
    }  # fmt: skip
    assert set(given) == inputs | set(independent(given))


def test_our_own_makes_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = documented()
    root = given["root"]
    signer = root_signing_key(root, given["header-salt"])
    chain = chain_id_of(signer.public)
    certificate = Certificate.issue(signer, chain, given["device"], given["created"][0])
    ring = KeyRing(root, chain, AES_256_GCM)
    cipher, commitment = ring.batch_cipher(ring.tenant, 1, given["batch-salt"])
    secret = Secret.passphrase("passphrase")
    monkeypatch.setattr("atedb.crypto.slot.random_bytes", lambda _: given["slot-salt"])
    slot = Slot.wrap("0123abcd", "", 0, root=root, secret=secret, kdf=KdfParams())
    account, token = AccountRoot(given["account-root"]), Token(given["token"])
    card = account.card(EMAIL.decode())
    way = WayKeys.of(
        Secret.passphrase("password"), EMAIL.decode(), WayKind.PASSWORD, Question(KdfParams(), given["way-salt"])
    )
    made: dict[str, bytes] = {
        "root-public": signer.public,
        "chain-id": chain,
        "certificate": certificate.signature,
        "tenant": ring.tenant,
        "object-key": ring.object_key(b"\x01", b"part"),
        "epoch-key": ring.epoch_key(ring.tenant, 1),
        "batch-commitment": commitment,
        "sealed-event": cipher.seal(5, b"body", b"bound"),
        "set-element": SetHash(ring.purpose("live set hash")).element(b"core", digest(b"event")),
        "view-pages": ring.purpose("view pages"),
        "view-seal": ring.purpose("view seal"),
        "device-file": ring.purpose("device file"),
        "journal": ring.purpose("journal"),
        "slot-commitment": slot.commitment,
        "slot-wrapped": slot.wrapped,
        "account-slot-secret": account.slot_secret().reveal(),
        "account-signing": card.signing,
        "account-kem-private": account.kem().private,
        "way-login": way.login.public,
        "token-identity": token.identity.public,
        "token-id": bytes.fromhex(token.id),
        "token-text": token.text.encode(),
        "audit-hash": after(BEGINNING, b"sealed").hash,
        "totp": totp_code(given["totp-secret"], 59).encode(),
    }
    for name, value in made.items():
        assert (name, given[name].hex()) == (name, value.hex())
    assert open_secret(way.wrapping, given["way-sealed"], "account root", EMAIL) == given["account-root"]
    assert SigningKey(b"s" * 32).public == public(b"s" * 32)


def test_every_purpose_in_the_program_stands_in_the_document() -> None:
    text = DOCUMENT.read_text()
    find: Callable[[str], list[str]] = re.compile(
        r"""(?:derive|[.]purpose|seal_secret|open_secret)\([^"()]*"([a-z -]+)\""""
    ).findall
    used = {
        name for path in [*ROOT.glob("atedb/**/*.py"), *ROOT.glob("atefs/**/*.py")] for name in find(path.read_text())
    }
    assert len(used) > 15
    assert {name for name in used if f'"{name}"' not in text} == set()
