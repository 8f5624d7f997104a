"""Which extended attributes a mount carries, and whom it names them to (man 7 xattr)."""

from __future__ import annotations

from collections.abc import Iterable

from atefs.vault import acl

_SYSTEM = b"system."
_TRUSTED = b"trusted."


def is_carried(name: bytes, *, acls: bool) -> bool:
    """acls: whether the mount has access control lists, which are all that it carries of the system's attributes."""
    return not name.startswith(_SYSTEM) or (acls and name in acl.NAMES)


def visible(names: Iterable[bytes], *, acls: bool, root: bool) -> list[bytes]:
    """Those of `names` that a caller is told of.

    The kernel lets only the privileged get or set a `trusted.` attribute, but asks the filesystem for the whole list
    on anybody's behalf. Privilege is CAP_SYS_ADMIN; requests carry a user id only, so root stands for it.
    """
    return [name for name in names if (acls or name not in acl.NAMES) and (root or not name.startswith(_TRUSTED))]
