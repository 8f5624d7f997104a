"""How the vault's objects look inside the chain: a kind byte, then MessagePack arrays (docs/formats.md).

Fields are only ever added at the end of an array, with a default, so that older bodies stay readable.
"""

from __future__ import annotations

import struct
from typing import Protocol

import msgspec

from atedb.chain.event import Change, Lane, Term, TermsOf
from atedb.errors import DamagedError
from atefs.vault.inode import DirEntry, Inode
from atefs.vault.layout import BlockMap, Layout, RegionMap
from atefs.vault.limits import BLOCK, COMPRESS_MIN, REGION_BLOCKS, ROOT_INO
from atefs.vault.shares import Base, Users, unused

SUPERBLOCK, INODE, ENTRY, MAP, CONTENT, NUMBERS, CONFLICT = b"S", b"I", b"E", b"M", b"B", b"N", b"X"
DIRECTORY, ORPHANS, CONFLICTS = b"D", b"O", b"X"
LOCKS = b"L"
FORMAT = 1

u64 = struct.Struct("<Q").pack
_slot = struct.Struct("<H").pack
_encode = msgspec.msgpack.Encoder().encode


class Keys(Protocol):
    """Whoever can name objects and sets: a chain, or its key ring."""

    def object_key(self, kind: bytes, *parts: bytes) -> bytes: ...

    def group_key(self, kind: bytes, *parts: bytes) -> bytes: ...


class SuperblockRecord(msgspec.Struct, array_like=True, gc=False):
    """next_ino: below lie numbers from before devices had ranges. quota: bytes, 0 for none. created: ns."""

    format: int
    created: int
    root: int
    next_ino: int
    quota: int
    block: int


class NumbersRecord(msgspec.Struct, array_like=True, gc=False):
    """The inode numbers that one device has reserved: from `start` up to `limit`."""

    device: bytes
    start: int
    limit: int


class MapRecord(msgspec.Struct, array_like=True, gc=False):
    """full: bitmap of complete blocks. partial: (index, (base, pages, patches as (offset, length, slot))).

    foreign: runs of blocks of shared content: (first index, count, its inode number, first block there).
    """

    full: int
    partial: list[tuple[int, BlockMap]]
    foreign: list[tuple[int, int, int, int]] = []


class LayoutRecord(msgspec.Struct, array_like=True, gc=False):
    """As `layout.Layout`. content: as `Inode.content`, 0 for the inode's own number."""

    first: MapRecord
    ranges: list[tuple[int, int]]
    doomed: list[tuple[int, int]] | None
    content: int = 0
    bases: list[Base] = []
    cut: list[Base] = []
    users: Users | None = None


class InodeRecord(msgspec.Struct, array_like=True, gc=False):
    """As `inode.Inode`. data: content or link target when it is inline."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    btime: int
    rdev: int
    flags: int
    generation: int
    parent: int
    xattrs: dict[bytes, bytes] | None
    data: bytes | None
    layout: LayoutRecord | None


class KeptRecord(InodeRecord, array_like=True, gc=False):
    """An inode without a name that a device keeps; the last field is there only for those."""

    keeper: int = 0


class EntryRecord(msgspec.Struct, array_like=True, gc=False):
    """One name in one directory. type: mode >> 12."""

    parent: int
    name: bytes
    ino: int
    type: int


class ConflictRecord(msgspec.Struct, array_like=True, gc=False):
    """What was kept beside something else in a merge: inode `ino` as `name` in `parent`.

    origin_parent, origin_name: the name it would have had. device: where it was changed. time: ns. content: it is the
    other version of one file, and not another thing of the same name.
    """

    parent: int
    name: bytes
    ino: int
    origin_parent: int
    origin_name: bytes
    device: str
    time: int
    content: bool


_decode_superblock = msgspec.msgpack.Decoder(SuperblockRecord).decode
_decode_inode = msgspec.msgpack.Decoder(KeptRecord).decode
_decode_entry = msgspec.msgpack.Decoder(EntryRecord).decode
_decode_map = msgspec.msgpack.Decoder(MapRecord).decode
_decode_row = msgspec.msgpack.Decoder(DirEntry).decode
_decode_ino = msgspec.msgpack.Decoder(int).decode
_decode_numbers = msgspec.msgpack.Decoder(NumbersRecord).decode
_decode_conflict = msgspec.msgpack.Decoder(ConflictRecord).decode


def _payload(body: bytes, kind: bytes, what: str) -> memoryview:
    if body[:1] != kind:
        raise DamagedError(f"The object that should be {what} is of another kind. Run: atefs fsck")
    return memoryview(body)[1:]


# Keys


def superblock_key(keys: Keys) -> bytes:
    return keys.object_key(SUPERBLOCK)


def numbers_key(keys: Keys, device: bytes) -> bytes:
    return keys.object_key(NUMBERS, device)


def lock_name(keys: Keys, ino: int, *, flock: bool) -> bytes:
    """What the locks of a file are called between machines; those of fcntl and of flock are apart."""
    return keys.object_key(LOCKS, u64(ino), bytes([flock]))


def inode_key(keys: Keys, ino: int) -> bytes:
    return keys.object_key(INODE, u64(ino))


def entry_key(keys: Keys, parent: int, name: bytes) -> bytes:
    return keys.object_key(ENTRY, u64(parent), name)


def map_key(keys: Keys, ino: int, region: int) -> bytes:
    return keys.object_key(MAP, u64(ino), u64(region))


def block_key(keys: Keys, ino: int, block: int, slot: int) -> bytes:
    return keys.object_key(CONTENT, u64(ino), u64(block), _slot(slot))


def conflict_key(keys: Keys, parent: int, name: bytes) -> bytes:
    return keys.object_key(CONFLICT, u64(parent), name)


def directory_group(keys: Keys, ino: int) -> bytes:
    return keys.group_key(DIRECTORY, u64(ino))


def orphans_group(keys: Keys) -> bytes:
    return keys.group_key(ORPHANS)


def conflicts_group(keys: Keys) -> bytes:
    return keys.group_key(CONFLICTS)


# Superblock


def superblock_change(keys: Keys, created: int, next_ino: int, quota: int) -> Change:
    record = SuperblockRecord(FORMAT, created, ROOT_INO, next_ino, quota, BLOCK)
    return Change(superblock_key(keys), Lane.META, SUPERBLOCK + _encode(record))


def decode_superblock(body: bytes) -> SuperblockRecord:
    return _decode_superblock(_payload(body, SUPERBLOCK, "the superblock"))


def numbers_change(keys: Keys, record: NumbersRecord) -> Change:
    return Change(numbers_key(keys, record.device), Lane.META, NUMBERS + _encode(record))


def decode_numbers(body: bytes) -> NumbersRecord:
    return _decode_numbers(_payload(body, NUMBERS, "a range of inode numbers"))


# Inodes


def inode_change(keys: Keys, inode: Inode, orphans: bytes) -> Change:
    """The inode as it is now. orphans: the group of those that wait to be reaped."""
    data = inode.data if inode.inline else None
    record = InodeRecord(
        inode.ino, inode.mode, inode.uid, inode.gid, inode.nlink, inode.size, inode.blocks,
        inode.atime, inode.mtime, inode.ctime, inode.btime, inode.rdev, inode.flags, inode.generation,
        inode.parent, inode.xattrs, data, _layout_record(inode),
    )  # fmt: skip
    if inode.nlink == 0 and inode.keeper:
        record = KeptRecord(**msgspec.structs.asdict(record), keeper=inode.keeper)
    terms = _orphan_terms(orphans, inode.key, inode.ino, inode.nlink, record.layout)
    compress = data is not None and len(data) > COMPRESS_MIN
    return Change(inode.key, Lane.META, INODE + _encode(record), False, compress, terms)


def decode_inode(keys: Keys, body: bytes, key: bytes = b"") -> Inode:
    """key: the object key, where the caller has it at hand."""
    record = _decode_inode(_payload(body, INODE, "an inode"))
    layout = None if record.data is not None else Layout()
    content = record.ino
    stored = record.layout
    if stored is not None:
        content = stored.content or content
        layout = Layout(_region_map(stored.first), stored.ranges, stored.doomed)
        layout.bases, layout.cut, layout.users = stored.bases, stored.cut, stored.users
    return Inode(
        record.ino, record.mode, record.uid, record.gid, record.nlink, record.size, record.blocks,
        record.atime, record.mtime, record.ctime, record.btime, record.rdev, record.flags, record.generation,
        record.parent, record.xattrs, inline=record.data is not None, data=record.data, layout=layout, stored=True,
        listed=record.nlink == 0 or (stored is not None and (stored.doomed is not None or stored.users is not None)),
        key=key or inode_key(keys, record.ino), content=content, keeper=record.keeper,
    )  # fmt: skip


def inode_tombstone(keys: Keys, ino: int, listed: bool) -> Change:
    """listed: the inode may stand in the set of orphans; the epitaph then says which one to take out."""
    key = inode_key(keys, ino)
    if not listed:
        return Change(key, Lane.META, b"", True)
    return Change(key, Lane.META, INODE + _encode(ino), True, False, (Term(orphans_group(keys), key, None),))


def decode_inode_numbers(tombstone: bool, body: bytes) -> tuple[int, int]:
    """Which inode an event is of that has a body, or an epitaph; and the number by which its blocks are named."""
    payload = _payload(body, INODE, "an inode")
    if tombstone:
        ino = _decode_ino(payload)
        return ino, ino
    record = _decode_inode(payload)
    return record.ino, (record.layout.content if record.layout is not None else 0) or record.ino


def _orphan_terms(group: bytes, key: bytes, ino: int, nlink: int, layout: LayoutRecord | None) -> tuple[Term, ...]:
    """An inode waits to be reaped while it has no name, or has content that is no longer its own or that nobody uses.

    `doomed` stays an empty list for good once it was not: what is to happen to the set must follow from this body
    alone, whichever earlier bodies of the inode were coalesced away.
    """
    if nlink == 0 or (layout is not None and waits(layout)):
        return (Term(group, key, _encode(ino)),)
    if layout is None or (layout.doomed is None and layout.users is None):
        return ()
    return (Term(group, key, None),)


def waits(layout: LayoutRecord) -> bool:
    """Is there something in it for the reaper, whether or not the file has a name?"""
    if layout.doomed or layout.cut:
        return True
    if layout.users is None:
        return False
    first = [(0, 1)] if layout.first.full or layout.first.partial else []
    return not layout.users or bool(unused([*first, *layout.ranges], layout.users))


def decode_orphan(value: bytes) -> int:
    """The inode number that a row of the orphans set holds."""
    return _decode_ino(value)


# Directory entries


def entry_change(keys: Keys, group: bytes, record: EntryRecord, gone: bool) -> Change:
    """group: `directory_group` of the parent. gone: the entry is taken out; its last state is the epitaph."""
    key = entry_key(keys, record.parent, record.name)
    term = Term(group, key, None if gone else _encode((record.name, record.ino, record.type)))
    return Change(key, Lane.META, ENTRY + _encode(record), gone, False, (term,))


def decode_entry(body: bytes) -> EntryRecord:
    return _decode_entry(_payload(body, ENTRY, "a directory entry"))


def decode_row(value: bytes) -> DirEntry:
    """One row of a directory's listing."""
    return _decode_row(value)


# Conflicts


def conflict_change(keys: Keys, record: ConflictRecord, gone: bool) -> Change:
    """gone: it is settled; its last state is the epitaph."""
    key = conflict_key(keys, record.parent, record.name)
    term = Term(conflicts_group(keys), key, None if gone else _encode(record))
    return Change(key, Lane.META, CONFLICT + _encode(record), gone, False, (term,))


def decode_conflict(body: bytes) -> ConflictRecord:
    return _decode_conflict(_payload(body, CONFLICT, "a conflict"))


def decode_conflict_row(value: bytes) -> ConflictRecord:
    """One row of the set of conflicts."""
    return _decode_conflict(value)


# Maps


def map_change(keys: Keys, ino: int, region: int, region_map: RegionMap) -> Change:
    return Change(map_key(keys, ino, region), Lane.META, MAP + _encode(_map_record(region_map)))


def decode_map(body: bytes) -> RegionMap:
    return _region_map(_decode_map(_payload(body, MAP, "a block map")))


def _map_record(region_map: RegionMap) -> MapRecord:
    foreign = _runs(region_map.foreign) if region_map.foreign else []
    return MapRecord(region_map.full, list(region_map.partial.items()), foreign)


def _runs(foreign: dict[int, tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    runs: list[tuple[int, int, int, int]] = []
    for index, (number, block) in sorted(foreign.items()):
        if runs:
            first, count, same, start = runs[-1]
            if (first + count, same, start + count) == (index, number, block):
                runs[-1] = (first, count + 1, number, start)
                continue
        runs.append((index, 1, number, block))
    return runs


def _region_map(record: MapRecord) -> RegionMap:
    found = RegionMap(record.full, dict(record.partial), True)
    for first, count, number, block in record.foreign:
        for step in range(min(count, REGION_BLOCKS)):
            found.foreign[first + step] = (number, block + step)
    return found


def _layout_record(inode: Inode) -> LayoutRecord | None:
    layout = inode.layout
    content = inode.content if inode.content != inode.ino else 0
    if layout is None:
        return LayoutRecord(MapRecord(0, []), [], None, content) if content else None
    if not content and layout.empty():
        return None
    return LayoutRecord(
        _map_record(layout.first), layout.ranges, layout.doomed, content, layout.bases, layout.cut, layout.users
    )


# What the view derives


def terms_of(keys: Keys) -> TermsOf:
    """The function that tells a chain which rows follow from a META event, when its view is rebuilt from the log.

    keys: names objects and sets; usually the chain's key ring.
    """
    orphans = orphans_group(keys)

    def terms(tombstone: bool, body: bytes) -> tuple[Term, ...]:
        kind = body[:1]
        if kind == ENTRY:
            record = decode_entry(body)
            group = directory_group(keys, record.parent)
            return entry_change(keys, group, record, tombstone).terms
        if kind == INODE and tombstone:
            return (Term(orphans, inode_key(keys, _decode_ino(memoryview(body)[1:])), None),)
        if kind == INODE:
            inode = _decode_inode(memoryview(body)[1:])
            return _orphan_terms(orphans, inode_key(keys, inode.ino), inode.ino, inode.nlink, inode.layout)
        if kind == CONFLICT:
            return conflict_change(keys, decode_conflict(body), tombstone).terms
        return ()

    return terms
