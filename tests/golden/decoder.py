"""A reader of chains written from docs/formats.md alone: it imports nothing of atedb, so that the two can disagree."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nacl.signing
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class DecodedEvent(NamedTuple):
    """One event, opened."""

    sequence: int
    key: bytes
    version: int
    lane: int
    tombstone: bool
    body: bytes


def derive(purpose: str, secret: bytes, *context: bytes, length: int = 32) -> bytes:
    """docs/formats.md, "Keys"."""
    material = secret + b"".join(len(c).to_bytes(4, "little") + c for c in context)
    return blake3(material, derive_key_context="atedb v1 " + purpose).digest(length=length)


def tree(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash as RFC 9162 section 2.1.1 writes it: recursively."""
    if not leaves:
        return blake3(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return blake3(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def decode_chain(store: Path, root: bytes) -> list[DecodedEvent]:
    """Every event of the chain in `store`, oldest first; asserts whatever the format promises."""
    header = json.loads((store / "chain").read_bytes())
    assert (header["format"], header["suite"], header["hash"], header["signature"]) == (
        1, "aes-256-gcm", "blake3", "ed25519",
    )  # fmt: skip
    public = bytes.fromhex(header["root_public"])
    chain_id = blake3(b"atedb v1 chain id" + public).digest()
    signed = json.dumps({**header, "proof": ""}, separators=(",", ":")).encode()
    root_key = nacl.signing.VerifyKey(public)
    root_key.verify(b"atedb v1 chain header" + signed, bytes.fromhex(header["proof"]))
    seed = derive("chain root signing key", root, bytes.fromhex(header["salt"]))
    assert nacl.signing.SigningKey(seed).verify_key == root_key

    reader = _Reader(chain_id, root, root_key)
    return list(reader.log(store))


def decode_journal(store: Path, root: bytes) -> list[list[Any]]:
    """What was synced after the newest batch, record for record: (key, lane, body, tombstone, compress, rows) each."""
    public = bytes.fromhex(json.loads((store / "chain").read_bytes())["root_public"])
    chain_id = blake3(b"atedb v1 chain id" + public).digest()
    reader = _Reader(chain_id, root, nacl.signing.VerifyKey(public))
    list(reader.log(store))
    data = (store / "journal").read_bytes()
    records: list[list[Any]] = []
    at, first = 0, b""
    while data[at : at + 8] == b"atedbjnl":
        place, length, sequence, head, salt = struct.unpack_from("<IIQ32s32s", data, at + 8)
        if (place, sequence, head) != (len(records), reader.sequence, reader.previous) or (first and salt != first):
            break
        key = derive("journal key", derive("journal", root, chain_id), salt)
        front, sealed = data[at : at + 88], data[at + 88 : at + 88 + length]
        records.append(msgspec.msgpack.decode(AESGCM(key).decrypt(place.to_bytes(12, "little"), sealed, front)))
        at += -(-(88 + length) // 4096) * 4096
        first = salt
    return records


class _Reader:
    def __init__(self, chain_id: bytes, root: bytes, root_key: nacl.signing.VerifyKey) -> None:
        self.chain_id = chain_id
        self.root = root
        self.root_key = root_key
        self.tenant = derive("tenant identifier", root, chain_id, length=16)
        self.previous = bytes(32)
        self.sequence = 0
        self.devices: set[bytes] = set()

    def log(self, store: Path) -> Iterator[DecodedEvent]:
        document = (store / "manifest").read_bytes()
        body, mark = document[:-65], document[-65:]
        assert blake3(body).hexdigest().encode() + b"\n" == mark
        manifest = json.loads(body)
        for number in [s["number"] for s in manifest["sealed"]] + [manifest["active"]]:
            yield from self.segment((store / "segments" / f"{number:08d}.seg").read_bytes(), number)

    def segment(self, data: bytes, number: int) -> Iterator[DecodedEvent]:
        assert data[:8] == b"ATESEGM\n"
        version, stored_number = struct.unpack_from("<H2xI", data, 8)
        assert (version, stored_number, data[16:48]) == (1, number, self.chain_id)
        (first,) = struct.unpack_from("<Q", data, 48)
        assert (first, data[56:88]) == (self.sequence + 1, self.previous)
        assert data[88:96] == bytes(8)
        assert data[96:128] == blake3(data[:96]).digest()
        at = 128
        while at < len(data) and data[at : at + 4] != bytes(4):
            (length,) = struct.unpack_from("<I", data, at + 4)
            yield from self.frame(data[at : at + length])
            at += length
        assert data[at:].strip(b"\0") == b""

    def frame(self, data: bytes) -> Iterator[DecodedEvent]:
        magic, length, head_size, count, proof, signature_size, flags = struct.unpack_from("<4sIIIIHH", data)
        assert (magic, length, proof, signature_size, flags) == (b"ATEb", len(data), 0, 64, 0)
        assert length % 8 == 0
        assert data[24:32] == blake3(data[:24]).digest()[:8]
        head = self.head(data[32 : 32 + head_size], data[32 + head_size : 32 + head_size + 64])
        table = 32 + head_size + 64
        at = table + count * 68
        assert count == head["events"]
        leaves = []
        for place in range(count):
            row = data[table + place * 68 : table + (place + 1) * 68]
            key, version, stored_place, size, slot, lane, event_flags = struct.unpack_from("<16sQIIHBB", row)
            sealed = data[at : at + size]
            at += size
            assert stored_place == place
            assert row[36:] == blake3(b"\x00" + row[:36] + sealed).digest()
            leaves.append(row[36:])
            opened = self.cipher(head, slot).decrypt(
                place.to_bytes(12, "little"), sealed, self.bound(head, slot) + row[:36]
            )
            if event_flags & 2:
                opened = zstandard.ZstdDecompressor().decompress(opened)
            yield DecodedEvent(head["sequence"], key, version, lane, bool(event_flags & 1), opened)
        assert tree(leaves) == head["root"]
        assert data[at:] == bytes(len(data) - at)
        assert len(data) - at < 8

    def head(self, data: bytes, signature: bytes) -> dict[str, Any]:
        fields = (
            "sequence",
            "durable",
            "time",
            "previous",
            "device",
            "salt",
            "root",
            "events",
            "keys",
            "statements",
            "claim",
        )
        head: dict[str, Any] = dict(zip(fields, struct.unpack_from("<QQq32s32s32s32sIHHI", data), strict=True))
        at = 164
        slots = []
        for _ in range(head["keys"]):
            slots.append(struct.unpack_from("<16sI32s", data, at))
            at += 52
        head["slots"] = slots
        for _ in range(head["statements"]):
            kind, size = struct.unpack_from("<HH", data, at)
            self.statement(kind, data[at + 4 : at + 4 + size])
            at += 4 + size
        assert at + head["claim"] == len(data)
        mark = blake3(b"atedb v1 batch" + data).digest()
        assert (head["sequence"], head["previous"]) == (self.sequence + 1, self.previous)
        assert head["durable"] < head["sequence"]
        assert head["device"] in self.devices
        nacl.signing.VerifyKey(head["device"]).verify(mark, signature)
        number = head["sequence"].to_bytes(8, "little")
        claim = self.cipher(head, 0).decrypt(b"\xff\xff\xff\xff" + bytes(8), data[at:], self.bound(head, 0) + number)
        assert len(claim) == 40
        self.sequence, self.previous = head["sequence"], mark
        return head

    def statement(self, kind: int, data: bytes) -> None:
        assert (kind, len(data)) == (1, 104)
        device, created, signature = data[:32], data[32:40], data[40:]
        self.root_key.verify(b"atedb v1 device certificate" + self.chain_id + device + created, signature)
        self.devices.add(device)

    def cipher(self, head: dict[str, Any], slot: int) -> AESGCM:
        tenant, epoch, commitment = head["slots"][slot]
        assert tenant == self.tenant
        epoch_key = derive("epoch key", self.root, self.chain_id, tenant, epoch.to_bytes(4, "little"))
        material = derive("batch key", epoch_key, self.chain_id, head["salt"], length=64)
        assert material[32:] == commitment
        return AESGCM(material[:32])

    def bound(self, head: dict[str, Any], slot: int) -> bytes:
        tenant, epoch, _ = head["slots"][slot]
        return bytes(self.chain_id + tenant + epoch.to_bytes(4, "little"))
