"""Whose numbers are whose: the vault's owner may have other ones on this machine than in the vault (man 7 credentials).

Two numbers change places: what belongs to the vault's owner is shown as belonging to the one who is named, and what
that one makes belongs to the owner. Everybody else is as they are. Access control lists go along.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from atefs.vault import acl
from atefs.vault.inode import Attributes, Caller, Inode

_HEAD = 4
_ENTRY = struct.Struct("<HHI")


class Ids(NamedTuple):
    """users, groups: two numbers each, that of the vault first; None where nothing changes places."""

    users: tuple[int, int] | None = None
    groups: tuple[int, int] | None = None

    @classmethod
    def of(cls, owner: Inode, uid: int | None, gid: int | None) -> Ids:
        """For a vault whose root folder is `owner`, and whoever has these numbers here."""
        users = (owner.uid, uid) if uid is not None and uid != owner.uid else None
        groups = (owner.gid, gid) if gid is not None and gid != owner.gid else None
        return cls(users, groups)

    def user(self, uid: int) -> int:
        """The number on the other side: of the machine for one of the vault, and the other way."""
        return _swapped(self.users, uid)

    def group(self, gid: int) -> int:
        """As `user`."""
        return _swapped(self.groups, gid)

    def caller(self, uid: int, gid: int, umask: int = 0) -> Caller:
        """Somebody of this machine, as the vault knows them."""
        return Caller(_swapped(self.users, uid), _swapped(self.groups, gid), umask)

    def wanted(self, wanted: Attributes) -> Attributes:
        """What chown asks for, with the vault's numbers."""
        if self == SAME or (wanted.uid is None and wanted.gid is None):
            return wanted
        return wanted._replace(
            uid=wanted.uid if wanted.uid is None else self.user(wanted.uid),
            gid=wanted.gid if wanted.gid is None else self.group(wanted.gid),
        )

    def xattr(self, name: bytes, value: bytes) -> bytes:
        """An extended attribute as it is on the other side: an access control list names users and groups."""
        if self == SAME or name not in acl.NAMES or len(value) % _ENTRY.size != _HEAD:
            return value
        entries = []
        for tag, permissions, number in _ENTRY.iter_unpack(value[_HEAD:]):
            pair = self.users if tag == acl.USER else self.groups if tag == acl.GROUP else None
            entries.append(_ENTRY.pack(tag, permissions, _swapped(pair, number)))
        return value[:_HEAD] + b"".join(entries)


SAME = Ids()
"""Nothing changes places."""


def _swapped(pair: tuple[int, int] | None, number: int) -> int:
    if pair is None or number not in pair:
        return number
    return pair[1] if number == pair[0] else pair[0]
