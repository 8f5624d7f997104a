"""Extended attributes (man 7 xattr). They travel with the inode; names of every namespace are just stored."""

from __future__ import annotations

from collections.abc import Callable

from atedb.errors import NoSpaceError
from atefs.errors import (
    AttributeRangeError,
    AttributeTooBigError,
    ExistsError,
    InvalidError,
    NoAttributeError,
)
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.limits import XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTRS_TOTAL_MAX
from atefs.vault.space import Space

CREATE = 1
REPLACE = 2


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

    def set(self, ino: int, name: bytes, value: bytes, flags: int) -> None:
        """flags: 0, CREATE (must be new) or REPLACE (must exist)."""
        self._space.check_writable()
        inode = self._inodes.get(ino)
        held = inode.xattrs or {}
        if not 1 <= len(name) <= XATTR_NAME_MAX:
            raise AttributeRangeError(f"An attribute's name has 1 to {XATTR_NAME_MAX} bytes.")
        if len(value) > XATTR_SIZE_MAX:
            raise AttributeTooBigError(f"An attribute's value has at most {XATTR_SIZE_MAX} bytes.")
        if flags not in {0, CREATE, REPLACE}:
            raise InvalidError("setxattr takes one of CREATE and REPLACE.")
        if flags == CREATE and name in held:
            raise ExistsError("There is an extended attribute of that name already.")
        if flags == REPLACE and name not in held:
            raise NoAttributeError("There is no extended attribute of that name.")
        total = sum(len(key) + len(old) for key, old in held.items() if key != name) + len(name) + len(value)
        if total > XATTRS_TOTAL_MAX:
            raise NoSpaceError(f"The extended attributes of one file take at most {XATTRS_TOTAL_MAX} bytes.")
        self._space.check_room(len(name) + len(value))
        self._inodes.ready(inode)
        self._store(inode, {**held, name: value})

    def remove(self, ino: int, name: bytes) -> None:
        self._space.check_writable()
        inode = self._inodes.get(ino)
        held = inode.xattrs
        if held is None or name not in held:
            raise NoAttributeError("There is no extended attribute of that name.")
        self._inodes.ready(inode)
        self._store(inode, {key: value for key, value in held.items() if key != name})

    def _store(self, inode: Inode, held: dict[bytes, bytes]) -> None:
        inode.xattrs = held or None
        inode.ctime = self._clock()
        self._inodes.touch(inode)
