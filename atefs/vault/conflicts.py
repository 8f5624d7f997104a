"""Conflicts: what a merge kept beside something else, and what people decide about it (docs/guide.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from atedb.chain.event import Change
from atefs.errors import NotFoundError, VaultError
from atefs.vault.codec import (
    ConflictRecord,
    conflict_change,
    conflict_key,
    conflicts_group,
    decode_conflict,
    decode_conflict_row,
)
from atefs.vault.objects import Objects

if TYPE_CHECKING:
    from atefs.vault.vault import Vault

Conflict = ConflictRecord


class Conflicts:
    """The records that merges left. They are written by merges; here they end, or change."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._changed: dict[bytes, tuple[Change, Conflict | None]] = {}

    @property
    def count(self) -> int:
        """How many the next commit changes."""
        return len(self._changed)

    def all(self) -> list[Conflict]:
        """All that are recorded, the oldest first."""
        rows = self._objects.members(conflicts_group(self._objects.log))
        found = [decode_conflict_row(row) for key, row in rows.items() if key not in self._changed]
        found += [conflict for _, conflict in self._changed.values() if conflict is not None]
        return sorted(found, key=lambda conflict: (conflict.time, conflict.parent, conflict.name))

    def get(self, parent: int, name: bytes) -> Conflict | None:
        """What a merge said of an entry."""
        key = conflict_key(self._objects.log, parent, name)
        if key in self._changed:
            return self._changed[key][1]
        body = self._objects.load(key)
        return None if body is None else decode_conflict(body)

    def settle(self, conflict: Conflict) -> None:
        """There is nothing left to decide."""
        change = conflict_change(self._objects.log, conflict, gone=True)
        self._changed[change.key] = change, None

    def change(self, conflict: Conflict) -> None:
        """The one of that name is about another inode now."""
        change = conflict_change(self._objects.log, conflict, gone=False)
        self._changed[change.key] = change, conflict

    def changes(self) -> list[Change]:
        """What has to be committed; it is forgotten here."""
        changes, self._changed = [change for change, _ in self._changed.values()], {}
        return changes


def list_conflicts(vault: Vault) -> list[Conflict]:
    """The conflicts that wait for somebody's decision, the oldest first.

    A record whose entry has meanwhile been renamed, deleted or replaced is settled and is left out.
    """
    return [conflict for conflict in vault.conflicts.all() if _stands(vault, conflict)]


def resolve(vault: Vault, conflict: Conflict, *, keep: bool) -> None:
    """Decide a conflict. keep: what was kept beside takes the name it would have had, and replaces what has that
    name; otherwise it is deleted. To have both, give it any other name.

    To be committed like any change. Raises NotFoundError for one that is settled already, NotEmptyError,
    IsDirectoryError and NotDirectoryError as `rename`, `unlink` and `rmdir` do, all with nothing changed.
    """
    if not _stands(vault, conflict):
        raise NotFoundError("This conflict is settled already; nothing was changed.")
    if keep:
        replaced = vault.conflicts.get(conflict.origin_parent, conflict.origin_name)
        waits = replaced is not None and _stands(vault, replaced)
        vault.rename(conflict.parent, conflict.name, conflict.origin_parent, conflict.origin_name)
        if replaced is not None and waits:  # what it had been kept beside was itself beside something: that is open yet
            vault.conflicts.change(msgspec.structs.replace(replaced, ino=conflict.ino))
    elif vault.getattr(conflict.ino).is_dir:
        vault.rmdir(conflict.parent, conflict.name)
    else:
        vault.unlink(conflict.parent, conflict.name)
    vault.conflicts.settle(conflict)


def _stands(vault: Vault, conflict: Conflict) -> bool:
    try:
        return vault.lookup(conflict.parent, conflict.name).ino == conflict.ino
    except VaultError:
        return False
