"""Commits: taking everything dirty as one consistent cut, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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
    """Everything that was dirty at one moment. bytes: about what it will take in the log.

    loose: what of it is not on stable storage, for `Chain.promise`.
    """

    __slots__ = ("_ahead", "bytes", "loose")

    def __init__(self, ahead: Mapping[bytes, Change], loose: Mapping[bytes, Change], size: int) -> None:
        self._ahead = ahead
        self.loose: Collection[Change] = loose.values()
        self.bytes = size

    @property
    def changes(self) -> list[Change]:
        """All of it, for `Chain.prepare`."""
        return list(self._ahead.values())


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
        waiting = 0 if self._objects.in_flight or self._objects.log.read_only else len(self._objects.ahead)
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
        if self._objects.log.read_only:
            return None
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
        objects = self._objects
        objects.send(new)
        if not objects.ahead:
            objects.returned()
            return None
        frozen = Frozen(objects.ahead, objects.loose, self._space.dirty)
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

    def promised(self, frozen: Frozen) -> None:
        """It is not in the log, but on stable storage: the next commit takes it along."""
        self._objects.returned(promised=True)
        self._space.dirty += frozen.bytes
        self._space.in_flight = 0  # and what was known of the disk is still true

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
