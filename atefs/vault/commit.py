"""Commits: taking everything dirty as one consistent cut, and what becomes of it."""

from __future__ import annotations

from atedb.chain.event import Change
from atefs.errors import CommitInFlightError
from atefs.vault.codec import inode_change, orphans_group
from atefs.vault.conflicts import Conflicts
from atefs.vault.directory import Directories
from atefs.vault.inodes import Inodes
from atefs.vault.maps import Maps
from atefs.vault.numbers import Numbers
from atefs.vault.objects import Objects
from atefs.vault.sealing import Sealing
from atefs.vault.space import Space
from atefs.vault.superblock import Superblock


class Frozen:
    """Everything that was dirty at one moment. changes: for `Chain.prepare`. bytes: about what they will take."""

    __slots__ = ("bytes", "changes")

    def __init__(self, changes: list[Change], size: int) -> None:
        self.changes = changes
        self.bytes = size


class Commits:
    """One commit may be in flight. What it holds is seen by every read through `Objects`, by object key.

    A commit that failed stays there and goes out with the next one, each object in its newest state. A cut that
    contains an older cut is consistent, so nothing has to be taken apart again.
    """

    def __init__(
        self, objects: Objects, superblock: Superblock, *, numbers: Numbers, inodes: Inodes, directories: Directories,
        maps: Maps, conflicts: Conflicts, space: Space,
    ) -> None:  # fmt: skip
        self._objects = objects
        self._superblock = superblock
        self._numbers = numbers
        self._inodes = inodes
        self._directories = directories
        self._maps = maps
        self._conflicts = conflicts
        self._space = space
        self._sealing = Sealing(objects, maps)
        self._orphans = orphans_group(objects.log)

    @property
    def dirty_objects(self) -> int:
        """Objects that the next commit would carry, blocks not counted."""
        waiting = 0 if self._objects.in_flight else len(self._objects.ahead)
        return (
            len(self._inodes.dirty) + len(self._inodes.gone) + self._directories.dirty_count
            + len(self._maps.graves) + len(self._maps.map_graves) + waiting + self._superblock.dirty
            + self._numbers.dirty + self._conflicts.count
        )  # fmt: skip

    def freeze(self) -> Frozen | None:
        """Everything dirty, which is clean from now on; None when there is nothing.

        Loads nothing and cannot fail half-way. Raises CommitInFlightError when the one before is not done.
        """
        if self._objects.in_flight:
            raise CommitInFlightError("A commit is under way; settle or thaw it first.")
        new: dict[bytes, Change] = {}
        if self._superblock.dirty:
            change = self._superblock.change(self._objects.log)
            new[change.key] = change
        if self._numbers.dirty:
            change = self._numbers.change(self._objects.log)
            new[change.key] = change
        for change in self._conflicts.changes():
            new[change.key] = change
        for change in self._directories.changes():
            new[change.key] = change
        self._freeze_inodes(new)
        for change in self._maps.tombstones():
            new.setdefault(change.key, change)
        for change in self._inodes.tombstones():
            new[change.key] = change
        ahead = {**self._objects.ahead, **new} if self._objects.ahead else new
        if not ahead:
            return None
        frozen = Frozen(list(ahead.values()), self._space.dirty)
        self._objects.send(ahead)
        self._space.in_flight, self._space.dirty = self._space.dirty, 0
        return frozen

    def settled(self, frozen: Frozen) -> None:
        """It is in the log, and the chain answers for it."""
        del frozen
        self._objects.arrived()
        self._space.commit_done()

    def thaw(self, frozen: Frozen) -> None:
        """It is not in the log: the next commit takes it along."""
        self._objects.returned()
        self._space.dirty += frozen.bytes
        self._space.commit_done()

    def _freeze_inodes(self, new: dict[bytes, Change]) -> None:
        keys, orphans = self._objects.log, self._orphans
        dirty, self._inodes.dirty = self._inodes.dirty, {}
        for inode in dirty.values():
            if inode.layout is not None:
                for change in self._sealing.changes(inode):
                    new[change.key] = change
            change = inode_change(keys, inode, orphans)
            new[change.key] = change
            self._inodes.clean(inode, bool(change.terms))
        self._inodes.trim()
