"""Requests about open directories. A handle is the number of a listing."""

from __future__ import annotations

import errno
import itertools
import os

from atefs.mount.direct.protocol import (
    ATTR,
    BODY,
    DIRENT,
    ENTRY,
    FOPEN_CACHE_DIR,
    HANDLE_IN,
    OPEN_OUT,
    READ_IN,
    Opcode,
)
from atefs.mount.direct.request import Handler, Request
from atefs.mount.direct.services import Services
from atefs.mount.listing import Listing

_DOTS = (b".", b"..")
_NO_ATTRIBUTES = bytes(ENTRY.size + ATTR.size)


class Folders:
    """Handlers, as `Handler` describes them."""

    def __init__(self, services: Services) -> None:
        self._vault = services.vault
        self._note_access = services.note_access
        self._keep = services.caching
        self._entry = services.attributes.entry
        self._hints = services.hints
        self._listings: dict[int, Listing] = {}
        self._numbers = itertools.count(1)

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
        }

    def opendir(self, request: Request) -> bytes:
        number = next(self._numbers)
        self._listings[number] = Listing(request.node)
        # Where each reading of it is to be noted, the kernel must not answer from its own cache.
        notes = self._vault.notes_every_read
        caching = 0 if notes else FOPEN_CACHE_DIR | self._keep(request.node)
        return OPEN_OUT.pack(number, caching, 0)

    def releasedir(self, request: Request) -> bytes:
        (handle,) = HANDLE_IN.unpack_from(request.data, BODY)
        self._listings.pop(handle, None)
        return b""

    def readdir(self, request: Request) -> bytes:
        listing, start, room = self._asked(request)
        parts = []
        for position, entry in enumerate(listing.entries[start:], start + 1):
            name = entry.name
            size = DIRENT.size + len(name) + (-len(name) & 7)
            room -= size
            if room < 0:
                break
            parts.append(DIRENT.pack(entry.ino, position, len(name), entry.type) + name + bytes(-len(name) & 7))
        return b"".join(parts)

    def readdirplus(self, request: Request) -> bytes:
        """Names with attributes, or without where `StatHints` has it: then the inode number of the entry is 0."""
        listing, start, room = self._asked(request)
        # That the kernel asks for attributes further on in a directory means that those before were used.
        loading = start > 0 or self._hints.wanted()
        parts: list[bytes] = []
        known: list[int] = []
        plainly = False
        for position, entry in enumerate(listing.entries[start:], start + 1):
            name = entry.name
            padding = -len(name) & 7
            room -= 128 + DIRENT.size + len(name) + padding
            if room < 0:
                break
            if not (loading or self._vault.is_at_hand(entry.ino)):
                plainly = True
                parts.append(_NO_ATTRIBUTES)
                parts.append(DIRENT.pack(entry.ino, position, len(name), entry.type) + name + bytes(padding))
                continue
            inode = listing.current(self._vault, entry)
            if inode is None:
                continue
            parts.append(self._entry(inode))
            parts.append(DIRENT.pack(inode.ino, position, len(name), inode.mode >> 12) + name + bytes(padding))
            if name not in _DOTS:
                known.append(inode.ino)
        for ino in known:
            self._vault.remember(ino)
        request.known = known
        if plainly:
            self._hints.listed_plainly(request.node)
        return b"".join(parts)

    def _asked(self, request: Request) -> tuple[Listing, int, int]:
        """The listing, where in it to begin, and how many bytes the answer may have."""
        handle, start, size, _, _, _, _ = READ_IN.unpack_from(request.data, BODY)
        listing = self._listings.get(handle)
        if listing is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if start == 0 or not listing.taken:
            self._note_access(request.node)
            listing.take(self._vault)
        return listing, start, size
