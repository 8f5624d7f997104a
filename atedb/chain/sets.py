"""Sealed sets: rows that belong together, kept in the view so that their grouping cannot be seen.

A set (a directory's listing, say) is cut into pages by the hash of its members. A page is one sealed row whose key is a
keyed hash of (group, page number), so that nothing tells whoever reads the file which rows belong together.
A set grows by doubling its pages, and shrinks only by becoming empty.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Protocol

import msgspec

from atedb.crypto.aead import Cipher, cipher, random_bytes
from atedb.crypto.hashing import derive, keyed

PAGE_TARGET = 64
_PAGE = struct.Struct("<I")
_SEALED = struct.Struct("<32sI")
_encode = msgspec.msgpack.Encoder().encode


class _Head(msgspec.Struct, array_like=True):
    """Page 0 of a set. bits: there are 2**bits pages; count: of all members; members: those of the only page."""

    bits: int
    count: int
    members: dict[bytes, bytes]


_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_page = msgspec.msgpack.Decoder(dict[bytes, bytes]).decode


class SetSealer:
    """Names and seals the pages of one chain's sets. key: 32 bytes, for this purpose only."""

    def __init__(self, key: bytes, suite: str) -> None:
        self._key = key
        self._suite = suite
        self._opened: dict[bytes, Cipher] = {}
        self._salt = b""
        self._number = 0
        self.start()

    def start(self) -> None:
        """Take a fresh key for the pages sealed from here on: one for each checkpoint."""
        self._salt = random_bytes(32)
        self._number = 0

    def name(self, group: bytes, page: int) -> bytes:
        """The row key of a page."""
        return keyed(self._key, b"page" + group + _PAGE.pack(page), 16)

    def seal(self, name: bytes, body: bytes) -> bytes:
        """A page's row."""
        number = self._number
        self._number += 1
        return _SEALED.pack(self._salt, number) + self._cipher(self._salt).seal(number, body, name)

    def open(self, name: bytes, row: bytes) -> bytes:
        """A page's body. Raises SealBrokenError."""
        salt, number = _SEALED.unpack_from(row)
        return self._cipher(salt).open(number, row[_SEALED.size :], name)

    def _cipher(self, salt: bytes) -> Cipher:
        found = self._opened.get(salt)
        if found is None:
            if len(self._opened) > 256:
                self._opened.clear()
            found = self._opened[salt] = cipher(self._suite, derive("view page key", self._key, salt))
        return found


class PageStore(Protocol):
    """What `load` and `merge` need of the view: rows by key."""

    def get(self, name: bytes) -> bytes | None:
        """The row, if it is there."""

    def put(self, name: bytes, row: bytes) -> None:
        """Set the row."""

    def delete(self, name: bytes) -> None:
        """Remove the row."""


def load_set(store: PageStore, sealer: SetSealer, group: bytes) -> dict[bytes, bytes]:
    """All members of a set with their values. Raises SealBrokenError."""
    head = _load_head(store, sealer, group)
    if head is None:
        return {}
    members = head.members
    if head.bits:
        for page in range(1 << head.bits):
            members.update(_load_page(store, sealer, group, page))
    return members


def merge_set(store: PageStore, sealer: SetSealer, group: bytes, delta: Mapping[bytes, bytes | None]) -> None:
    """Apply `delta` (None removes) to a set."""
    head = _load_head(store, sealer, group) or _Head(0, 0, {})
    if head.bits == 0 or head.count + len(delta) > (2 * PAGE_TARGET) << head.bits:
        _rewrite(store, sealer, group, head, delta)
        return
    mask = (1 << head.bits) - 1
    parts: dict[int, dict[bytes, bytes | None]] = {}
    for member, value in delta.items():
        parts.setdefault(_page_of(member, mask), {})[member] = value
    for page, part in parts.items():
        members = _load_page(store, sealer, group, page)
        before = len(members)
        _apply(members, part)
        head.count += len(members) - before
        _put(store, sealer, group, page + 1, _encode(members))
    if head.count == 0:
        _erase(store, sealer, group, head.bits)
    else:
        _put(store, sealer, group, 0, _encode(head))


def _rewrite(
    store: PageStore, sealer: SetSealer, group: bytes, head: _Head, delta: Mapping[bytes, bytes | None]
) -> None:
    """Lay the whole set out anew, with as many pages as it needs now and room to double."""
    members = head.members
    if head.bits:
        for page in range(1 << head.bits):
            members.update(_load_page(store, sealer, group, page))
    _apply(members, delta)
    if not members:
        _erase(store, sealer, group, head.bits)
        return
    if len(members) <= 2 * PAGE_TARGET and not head.bits:
        _put(store, sealer, group, 0, _encode(_Head(0, len(members), members)))
        return
    bits = max(head.bits, (len(members) // PAGE_TARGET).bit_length())
    mask = (1 << bits) - 1
    pages: list[dict[bytes, bytes]] = [{} for _ in range(1 << bits)]
    for member, value in members.items():
        pages[_page_of(member, mask)][member] = value
    for page, part in enumerate(pages):
        _put(store, sealer, group, page + 1, _encode(part))
    _put(store, sealer, group, 0, _encode(_Head(bits, len(members), {})))


def _apply(members: dict[bytes, bytes], delta: Mapping[bytes, bytes | None]) -> None:
    for member, value in delta.items():
        if value is None:
            members.pop(member, None)
        else:
            members[member] = value


def _page_of(member: bytes, mask: int) -> int:
    return int.from_bytes(member[:4], "little") & mask


def _load_head(store: PageStore, sealer: SetSealer, group: bytes) -> _Head | None:
    name = sealer.name(group, 0)
    row = store.get(name)
    return None if row is None else _decode_head(sealer.open(name, row))


def _load_page(store: PageStore, sealer: SetSealer, group: bytes, page: int) -> dict[bytes, bytes]:
    name = sealer.name(group, page + 1)
    row = store.get(name)
    return {} if row is None else _decode_page(sealer.open(name, row))


def _put(store: PageStore, sealer: SetSealer, group: bytes, page: int, body: bytes) -> None:
    name = sealer.name(group, page)
    store.put(name, sealer.seal(name, body))


def _erase(store: PageStore, sealer: SetSealer, group: bytes, bits: int) -> None:
    store.delete(sealer.name(group, 0))
    if bits:
        for page in range(1 << bits):
            store.delete(sealer.name(group, page + 1))
