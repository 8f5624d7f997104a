"""A reader of vaults written from docs/formats.md alone, over `decoder.py`: it imports nothing of atedb and atefs."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3
from nacl import bindings

from tests.golden.decoder import DecodedEvent, decode_chain, derive

BLOCK = 131_072
REGION = 64
META, BLOB = 0, 1


class Node(NamedTuple):
    """What a path stands for. content: SHA-256 of a file's bytes, or of a link's target; "" for what has none.

    times: atime, mtime, ctime, btime.
    """

    mode: int
    owner: tuple[int, int]
    nlink: int
    size: int
    times: tuple[int, int, int, int]
    rdev: int
    xattrs: dict[bytes, bytes]
    content: str


def sha256(content: bytes) -> str:
    """How contents are compared."""
    return hashlib.sha256(content).hexdigest()


def root_key(store: Path, passphrase: bytes) -> bytes:
    """docs/formats.md, "A slot opens like this": the root key, by the first slot."""
    slot = json.loads((store / "keys").read_bytes())["slots"][0]
    assert slot["kind"] == "passphrase"
    salt, commitment, wrapped = (base64.b64decode(slot[name]) for name in ("salt", "commitment", "wrapped"))
    passes, memory = slot["kdf"]["opslimit"], slot["kdf"]["memlimit"]
    stretched = bindings.crypto_pwhash_alg(32, passphrase, salt, passes, memory, bindings.crypto_pwhash_ALG_ARGON2ID13)
    material = blake3(stretched, derive_key_context="atedb v1 key slot").digest(length=64)
    assert material[32:] == commitment
    bound = b"atedb v1 key slot" + struct.pack("<8sBIQ16s", slot["id"].encode(), 1, passes, memory, salt)
    return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(wrapped, bound, bytes(24), material[:32])


class DecodedVault:
    """A vault's tree. nodes: by path, the root's is b"". orphans: numbers of inodes that wait to be deleted."""

    def __init__(self, store: Path, root: bytes) -> None:
        public = bytes.fromhex(json.loads((store / "chain").read_bytes())["root_public"])
        chain_id = blake3(b"atedb v1 chain id" + public).digest()
        self._key = derive("object identifiers", root, chain_id)
        self._live = _live(decode_chain(store, root))
        self._used: set[bytes] = set()
        self.nodes: dict[bytes, Node] = {}
        self.orphans: set[int] = set()
        self.quota = self._superblock()
        for _device, start, limit in self._records(b"N", lambda row: (b"N", row[0])):
            self._reserved.append(range(start, limit))
        children: dict[int, list[tuple[bytes, int, int]]] = {}
        for parent, name, ino, kind in self._records(b"E", lambda row: (b"E", _u64(row[0]), row[1])):
            children.setdefault(parent, []).append((name, ino, kind))
        self._inodes = {row[0]: row for row in self._records(b"I", lambda row: (b"I", _u64(row[0])))}
        self._read: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        self._uses: Counter[tuple[int, int]] = Counter()
        self._walk(b"", 1, children)
        assert not children, "entries in folders that cannot be reached"
        self._gather_orphans()
        self._check_users()
        assert self._used == set(self._live), "live objects that belong to nothing"

    def _take(self, lane: int, *parts: bytes) -> bytes:
        """The live object of this key, which counts as used."""
        key = blake3(b"".join(parts), key=self._key).digest(length=16)
        event = self._live[key]
        assert event.lane == lane
        self._used.add(key)
        return event.body

    def _superblock(self) -> int:
        body = self._take(META, b"S")
        assert body[:1] == b"S"
        version, _created, root, next_ino, quota, block = msgspec.msgpack.decode(body[1:])
        assert (version, root, block) == (1, 1, BLOCK)
        self._reserved = [range(next_ino)]
        return int(quota)

    def _records(self, kind: bytes, key_of: Any) -> list[list[Any]]:
        """All live meta objects of a kind, each of which must lie under the key that its content gives."""
        rows = [
            msgspec.msgpack.decode(event.body[1:])
            for event in self._live.values()
            if event.lane == META and event.body[:1] == kind
        ]
        for row in rows:
            self._take(META, *key_of(row))
        return rows

    def _walk(self, path: bytes, ino: int, children: dict[int, list[tuple[bytes, int, int]]]) -> None:
        inode = self._inodes[ino]
        assert any(ino in reserved for reserved in self._reserved)
        self.nodes[path] = self._node(inode)
        inside = children.pop(ino, [])
        if inode[1] >> 12 != 0o04:
            assert not inside
            return
        assert inode[5] == len(inside)
        for name, child, kind in inside:
            assert kind == self._inodes[child][1] >> 12
            if kind == 0o04:
                assert self._inodes[child][14] == ino
            self._walk(path + b"/" + name, child, children)

    def _node(self, inode: list[Any]) -> Node:
        ino, mode, uid, gid, nlink, size = inode[:6]
        content = b""
        if mode >> 12 in (0o10, 0o12):
            content = inode[16] if inode[16] is not None else self._content(ino, size)
            assert len(content) <= size
            content += bytes(size - len(content)) if size < 1 << 20 else b""
        digest = sha256(content) if mode >> 12 in (0o10, 0o12) else ""
        return Node(mode, (uid, gid), nlink, size, tuple(inode[7:11]), inode[11], inode[15] or {}, digest)

    def _content(self, ino: int, size: int) -> bytes:
        """A file's bytes up to the end of the last block that exists."""
        content = bytearray()
        regions = self._own_regions(ino)
        for first, length, number, origin in self._layout(ino)[4]:
            for step in range(length):
                assert not regions.get(first + step), "a region that the file has itself and shares as well"
                self._uses[number, origin + step] += 1
                regions[first + step] = self._own_regions(number).get(origin + step, [])
        for region, blocks in sorted(regions.items()):
            for index, block in blocks:
                at = (region * REGION + index) * BLOCK
                # What lies far out is compared by where it is and what it is, without the hole before it.
                if at > 1 << 20:
                    content += b"@%d:" % at + block[: size - at]
                    continue
                content += bytes(at - len(content)) + block
        return bytes(content)

    def _layout(self, ino: int) -> list[Any]:
        """With all fields, and the number that names the content."""
        layout: list[Any] = self._inodes[ino][17] or [[0, []], [], None]
        layout = layout + [0, [], [], None][len(layout) - 3 :]
        layout[3] = layout[3] or ino
        return layout

    def _own_regions(self, ino: int) -> dict[int, list[tuple[int, bytes]]]:
        """What has a map; each block with its index."""
        layout = self._layout(ino)
        regions = {0: self._region(layout[3], 0, layout[0])}
        for start, end in layout[1]:
            regions |= {region: self._region(layout[3], region) for region in range(start, end)}
        return regions

    def _region(self, name: int, region: int, found: list[Any] | None = None) -> list[tuple[int, bytes]]:
        """The blocks of a map: of that in the inode, or of an object of its own."""
        if (name, region) not in self._read:
            if found is None:
                body = self._take(META, b"M", _u64(name), _u64(region))
                assert body[:1] == b"M"
                found = msgspec.msgpack.decode(body[1:])
            self._read[name, region] = self._blocks(name, region, found)
        return self._read[name, region]

    def _foreign(self, runs: list[list[int]]) -> dict[int, tuple[int, int]]:
        """Which blocks of a map are blocks of shared content."""
        foreign: dict[int, tuple[int, int]] = {}
        for first, count, number, block in runs:
            foreign |= {first + step: (number, block + step) for step in range(count)}
        self._uses.update({(number, block // REGION) for number, block in foreign.values()})
        return foreign

    def _shared_block(self, number: int, block: int) -> bytes:
        return dict(self._own_regions(number)[block // REGION])[block % REGION]

    def _blocks(self, ino: int, region: int, found: list[Any]) -> list[tuple[int, bytes]]:
        full, partial = found[:2]
        foreign = self._foreign(found[2]) if len(found) > 2 else {}
        blocks = []
        for index in range(REGION):
            if full >> index & 1:
                lent = foreign.get(index)
                body = self._shared_block(*lent) if lent else self._object(ino, region * REGION + index, 0)
                assert len(body) == BLOCK
                blocks.append((index, body))
        for index, (base, pages, patches) in partial:
            assert not full >> index & 1
            if index in foreign:
                assert not pages
                assert not patches
                blocks.append((index, self._shared_block(*foreign[index])[:base]))
                continue
            number = region * REGION + index
            data = bytearray(BLOCK)
            end = base
            if base:
                data[:base] = self._object(ino, number, 0)[:base]
            overlays = [(page * 4096, 4096, page + 1) for page in range(32) if pages >> page & 1]
            for offset, length, slot in [*overlays, *patches]:
                data[offset : offset + length] = self._object(ino, number, slot)[:length]
                end = max(end, offset + length)
            blocks.append((index, bytes(data[:end])))
        return sorted(blocks)

    def _object(self, ino: int, block: int, slot: int) -> bytes:
        return self._take(BLOB, b"B", _u64(ino), _u64(block), slot.to_bytes(2, "little"))

    def _gather_orphans(self) -> None:
        """Inodes without a name, and regions cut off or that nobody uses, whose objects are still there."""
        for ino, inode in self._inodes.items():
            _, _, doomed, name, _, cut, users = self._layout(ino)
            if inode[4] == 0 or doomed or cut:
                self.orphans.add(ino)
            if inode[4] == 0 or users is not None:
                self._content(ino, 1 << 62)
            for _, length, number, origin in cut:
                self._uses.update((number, origin + step) for step in range(length))
            for start, end in doomed or ():
                for region in range(start, end):
                    self._region(name, region)

    def _check_users(self) -> None:
        """Shared content says of each region how many use it; one that nobody uses waits to be deleted."""
        for ino, inode in self._inodes.items():
            users = self._layout(ino)[6]
            if users is None:
                continue
            assert inode[1] == 0, "shared content has no type"
            counts = {region: count for low, high, count in users for region in range(low, high)}
            assert counts == {region: count for (number, region), count in self._uses.items() if number == ino}
            if not counts or any(blocks and region not in counts for region, blocks in self._own_regions(ino).items()):
                self.orphans.add(ino)


def _live(events: list[DecodedEvent]) -> dict[bytes, DecodedEvent]:
    newest: dict[bytes, DecodedEvent] = {}
    for event in events:
        assert event.key not in newest or newest[event.key].version < event.version
        newest[event.key] = event
    return {key: event for key, event in newest.items() if not event.tombstone}


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")
