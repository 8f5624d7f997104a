"""An access control list (man 5 acl), in the form in which Linux passes it as an extended attribute.

That form is a version, 2, and eight bytes for each entry: tag, permissions, and the user or group it names, all little
endian (linux/posix_acl_xattr.h). The rules are those of POSIX.1e draft 17 as Linux keeps them.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from atedb.errors import DamagedError
from atefs.errors import AttributeTooBigError, InvalidError, NotSupportedError
from atefs.vault.inode import Inode

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = frozenset((ACCESS, DEFAULT))
ENTRIES_MAX = 511
"""What a page holds: the kernel reads the lists of a FUSE filesystem into one."""

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFF_FFFF
"""The id of an entry that names nobody."""
_VERSION = 2
_REMEMBERED = 64
"""Lists last worked with: all files of a tree inherit from a few."""
_HEAD = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_ORDER = (USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER)
_NAMED = frozenset((USER, GROUP))


class Entry(NamedTuple):
    """Who may do what. permissions: read 4, write 2, execute 1. id: of the user or group that USER or GROUP names."""

    tag: int
    permissions: int
    id: int = NOBODY


class Acl(NamedTuple):
    """A valid list: the three classes of a mode and perhaps named users and groups, which then have a mask."""

    entries: tuple[Entry, ...]

    @staticmethod
    @lru_cache(maxsize=_REMEMBERED)
    def decode(value: bytes) -> Acl | None:
        """The list in an extended attribute; None for one without entries, which stands for no list.

        Raises InvalidError for what is no valid list, NotSupportedError for another version of the form, and
        AttributeTooBigError beyond ENTRIES_MAX.
        """
        if len(value) < _HEAD.size:
            raise InvalidError("An access control list has a version.")
        if _HEAD.unpack_from(value)[0] != _VERSION:
            raise NotSupportedError(f"Access control lists have version {_VERSION}.")
        count, rest = divmod(len(value) - _HEAD.size, _ENTRY.size)
        if rest:
            raise InvalidError(f"An entry of an access control list has {_ENTRY.size} bytes.")
        if count > ENTRIES_MAX:
            raise AttributeTooBigError(f"An access control list has at most {ENTRIES_MAX} entries.")
        if not count:
            return None
        rows = _ENTRY.iter_unpack(value[_HEAD.size :])
        entries = tuple(Entry(tag, permissions, id if tag in _NAMED else NOBODY) for tag, permissions, id in rows)
        _check(entries)
        return Acl(entries)

    def encode(self) -> bytes:
        """The extended attribute."""
        return _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in self.entries)

    @property
    def is_mode(self) -> bool:
        """Whether it says no more than the permission bits of a mode do."""
        return len(self.entries) == 3

    @property
    def permissions(self) -> int:
        """The nine permission bits of the mode that goes with it; those of the group are the mask, if there is one."""
        owner, group, other = self._classes()
        entries = self.entries
        return entries[owner].permissions << 6 | entries[group].permissions << 3 | entries[other].permissions

    def chmod(self, mode: int) -> Acl:
        """The list after chmod(2): the mode's group bits become the mask, if there is one."""
        changed = list(self.entries)
        for position, shift in zip(self._classes(), (6, 3, 0), strict=True):
            changed[position] = changed[position]._replace(permissions=mode >> shift & 0o7)
        return Acl(tuple(changed))

    def inherit(self, mode: int) -> tuple[int, Acl]:
        """Mode and list of what is made in a directory whose default list this is.

        mode: as asked for, without regard to the umask. Nobody gets more than both grant.
        """
        mode &= ~0o777 | self.permissions
        return mode, self.chmod(mode)

    def _classes(self) -> tuple[int, int, int]:
        """Where the entries are that a mode speaks of: owner, mask or else group, others."""
        last = len(self.entries) - 1
        if self.entries[last - 1].tag == MASK:
            return 0, last - 1, last
        return 0, next(i for i, entry in enumerate(self.entries) if entry.tag == GROUP_OBJ), last


@lru_cache(maxsize=_REMEMBERED)
def inherited(default: Acl, permissions: int) -> tuple[int, bytes | None]:
    """As `Acl.inherit`, the list as an attribute; None where the permissions alone say the same."""
    permissions, access = default.inherit(permissions)
    return permissions, None if access.is_mode else access.encode()


def held(inode: Inode, name: bytes) -> Acl | None:
    """An inode's list, name: ACCESS or DEFAULT. Raises DamagedError when what is kept there is none."""
    value = inode.xattrs.get(name) if inode.xattrs is not None else None
    if value is None:
        return None
    try:
        return Acl.decode(value)
    except (InvalidError, NotSupportedError, AttributeTooBigError) as wrong:
        raise DamagedError(f"An access control list of inode {inode.ino} is not valid. Run: atefs fsck") from wrong


def unsound(inode: Inode) -> list[bytes]:
    """The names of an inode's lists that are not valid."""
    found = []
    for name in inode.xattrs or ():
        if name in NAMES:
            try:
                held(inode, name)
            except DamagedError:
                found.append(name)
    return found


def _check(entries: tuple[Entry, ...]) -> None:
    """Raises InvalidError unless each class is there, in order, and a mask where users or groups are named."""
    tags = [entry.tag for entry in entries]
    if any(tag not in _ORDER for tag in tags) or tags != sorted(tags):
        raise InvalidError("The entries of an access control list have an order: owner, users, group, groups, others.")
    if any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or tags.count(MASK) > 1:
        raise InvalidError("An access control list has one entry for the owner, the group and others, and one mask.")
    if MASK not in tags and not _NAMED.isdisjoint(tags):
        raise InvalidError("An access control list that names users or groups has a mask.")
    if any(entry.permissions > 0o7 or (entry.tag in _NAMED and entry.id == NOBODY) for entry in entries):
        raise InvalidError("An entry of an access control list grants read, write and execute, to somebody.")
