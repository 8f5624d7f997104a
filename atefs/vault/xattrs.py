"""Extended attributes (man 7 xattr). They travel with the inode; names of every namespace are just stored.

Access control lists (`atefs.vault.acl`) are attributes that the mode goes along with: its group bits are their mask.
"""

from __future__ import annotations

import stat
from collections.abc import Callable

from atedb.errors import NoSpaceError
from atefs.errors import (
    AccessError,
    AttributeRangeError,
    AttributeTooBigError,
    ExistsError,
    InvalidError,
    NoAttributeError,
    NotSupportedError,
)
from atefs.vault import acl
from atefs.vault.flags import FIXED, refusal
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTRS_TOTAL_MAX
from atefs.vault.space import Space

CREATE = 1
REPLACE = 2
NAMESPACES = {b"user", b"trusted", b"security"}


class Xattrs:
    """Errors as in man 2 getxattr, setxattr, listxattr, removexattr."""

    def __init__(self, inodes: Inodes, space: Space, clock: Callable[[], int]) -> None:
        self._inodes = inodes
        self._space = space
        self._clock = clock

    def get(self, ino: int, name: bytes) -> bytes:
        held = self._inodes.get(ino).xattrs
        value = held.get(name) if held is not None else None
        if value is None:
            raise NoAttributeError("There is no extended attribute of that name.")
        return value

    def names(self, ino: int) -> list[bytes]:
        held = self._inodes.get(ino).xattrs
        return list(held) if held is not None else []

    def set(self, ino: int, name: bytes, value: bytes, flags: int, *, in_group: bool = True) -> None:
        """flags: 0, CREATE (must be new) or REPLACE (must exist). in_group: as for `Vault.setxattr`."""
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if inode.flags & FIXED:
            raise refusal(inode)
        if name in acl.NAMES:
            self._set_acl(inode, name, value, in_group)
            return
        held = inode.xattrs or {}
        if not 1 <= len(name) <= XATTR_NAME_MAX:
            raise AttributeRangeError(f"An attribute's name has 1 to {XATTR_NAME_MAX} bytes.")
        _check_namespace(name)
        if len(value) > XATTR_SIZE_MAX:
            raise AttributeTooBigError(f"An attribute's value has at most {XATTR_SIZE_MAX} bytes.")
        if flags not in {0, CREATE, REPLACE}:
            raise InvalidError("setxattr takes one of CREATE and REPLACE.")
        if flags == CREATE and name in held:
            raise ExistsError("There is an extended attribute of that name already.")
        if flags == REPLACE and name not in held:
            raise NoAttributeError("There is no extended attribute of that name.")
        self._check_total(held, name, value)
        self._inodes.ready(inode)
        self._store(inode, {**held, name: value})

    def _set_acl(self, inode: Inode, name: bytes, value: bytes, in_group: bool) -> None:
        """A list that says no more than a mode does becomes the mode, and an empty one none (man 5 acl)."""
        if inode.is_link:
            raise NotSupportedError("A symbolic link has no access control list.")
        wanted = acl.Acl.decode(value) if value else None
        if wanted is None:
            self._remove_acl(inode, name)
            return
        if name == acl.DEFAULT and not inode.is_dir:
            raise AccessError("Only a directory has a default access control list.")
        held = {key: old for key, old in (inode.xattrs or {}).items() if key != name}
        if name == acl.DEFAULT or not wanted.is_mode:
            held[name] = wanted.encode()
            self._check_total(held, name, held[name])
        self._inodes.ready(inode)
        if name == acl.ACCESS:
            inode.mode = inode.mode & ~0o777 | wanted.permissions
            if not in_group:
                inode.mode &= ~stat.S_ISGID
        self._store(inode, held)

    def _check_total(self, held: dict[bytes, bytes], name: bytes, value: bytes) -> None:
        total = sum(len(key) + len(old) for key, old in held.items() if key != name) + len(name) + len(value)
        if total > XATTRS_TOTAL_MAX:
            raise NoSpaceError(f"The extended attributes of one file take at most {XATTRS_TOTAL_MAX} bytes.")
        self._space.check_room(len(name) + len(value))

    def remove(self, ino: int, name: bytes) -> None:
        self._space.check_writable()
        inode = self._inodes.get(ino)
        if inode.flags & FIXED:
            raise refusal(inode)
        held = inode.xattrs
        if name in acl.NAMES:
            self._remove_acl(inode, name)
            return
        if held is None or name not in held:
            raise NoAttributeError("There is no extended attribute of that name.")
        self._inodes.ready(inode)
        self._store(inode, {key: value for key, value in held.items() if key != name})

    def _remove_acl(self, inode: Inode, name: bytes) -> None:
        """The mode stays as it is, so that nobody gets more than the mask gave. To remove none is no error."""
        if inode.xattrs is not None and name in inode.xattrs:
            self._inodes.ready(inode)
            self._store(inode, {key: value for key, value in inode.xattrs.items() if key != name})

    def _store(self, inode: Inode, held: dict[bytes, bytes]) -> None:
        inode.ctime = self._clock()
        self._inodes.put_xattrs(inode, held)


def _check_namespace(name: bytes) -> None:
    namespace, dot, rest = name.partition(b".")
    if not dot or namespace not in NAMESPACES:
        raise NotSupportedError("An attribute's name begins with user., trusted. or security. (man 7 xattr).")
    if not rest:
        raise InvalidError("An attribute's name does not end with its namespace.")
