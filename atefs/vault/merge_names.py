"""Names in a merge: which of my changes of the tree still stand beside theirs, and where what is pushed aside goes.

A plan only ever gives up changes of mine or brings back what one side has removed, so that making it ends. It changes
nothing itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from atefs.vault.limits import ROOT_INO
from atefs.vault.sides import Side

Slot = tuple[int, bytes]
"""A place for a name: the directory's inode number, and the name."""
_NONE: frozenset[Slot] = frozenset()


class Delta:
    """What one side has changed about names since base. removed, added: the places, by inode number.

    held: what it has in each of the places, numbered as there; 0: nothing.
    """

    def __init__(self, base: Side, side: Side, slots: Iterable[Slot], renumbered: dict[int, int]) -> None:
        """renumbered: inodes that get other numbers than they have in `side`."""
        self.removed: dict[int, set[Slot]] = {}
        self.added: dict[int, set[Slot]] = {}
        self.held: dict[Slot, int] = {}
        for parent, name in slots:
            old, new = base.entry(parent, name), side.entry(parent, name)
            self.held[parent, name] = new.ino if new is not None else 0
            before = old.ino if old is not None and parent not in renumbered else 0
            after = renumbered.get(new.ino, new.ino) if new is not None else 0
            if before == after:
                continue
            slot = renumbered.get(parent, parent), name
            if before:
                self.removed.setdefault(before, set()).add(slot)
            if after:
                self.added.setdefault(after, set()).add(slot)


class Plan:
    """removed: what is to be taken out of theirs; added: what is to be put in then, by place. Inode numbers."""

    def __init__(
        self, theirs: Side, my: Delta, their: Delta, *,
        is_dir: Callable[[int], bool], missed: Callable[[int], bool], kept: Callable[[int], bool],
    ) -> None:  # fmt: skip
        """is_dir: by inode number, of anything that is in `my` or `their`.

        missed: of an inode without a name in my state, or in theirs: has the other side changed what people would
        miss? kept: has my state this inode, with a name?
        """
        self.removed: dict[Slot, int] = {}
        self.added: dict[Slot, int] = {}
        self._theirs = theirs
        self._my = my
        self._their = their
        self._is_dir = is_dir
        self._missed = missed
        self._kept = kept
        self._rows: dict[int, list[bytes]] = {}
        self._start()
        self._settle_renames()
        self._settle_deletions()
        while self._give_homes() or self._keep_full_directories() or self._untie():
            pass
        self._balance = Counter(self.added.values())
        self._balance.subtract(self.removed.values())

    def names(self, ino: int) -> int:
        """How many names a file will have."""
        there = self._theirs.alive(ino)
        return self._balance[ino] + (there.nlink if there is not None else 0)

    def home(self, ino: int) -> Slot | None:
        """Where an inode will have a name that the plan knows of."""
        slots = [slot for slot, number in self.added.items() if number == ino]
        slots += [slot for slot in self._their.added.get(ino, _NONE) if slot not in self.removed]
        return min(slots, default=None)

    def _start(self) -> None:
        for ino, slots in self._my.removed.items():
            for slot in slots:
                there = self._theirs.entry(*slot)
                if there is not None and there.ino == ino:
                    self.removed[slot] = ino
        for ino, slots in self._my.added.items():
            for slot in slots:
                there = self._theirs.entry(*slot)
                if there is None or there.ino != ino:
                    self.added[slot] = ino

    def _settle_renames(self) -> None:
        """What both have moved is where they have put it; that place of mine is as they have left it."""
        for ino, slots in self._my.added.items():
            common = self._my.removed.get(ino, _NONE) & self._their.removed.get(ino, _NONE)
            moved = self._their.added.get(ino, _NONE) - slots
            here = sorted(slot for slot in slots if self.added.get(slot) == ino)
            for slot in here[: min(len(common), len(moved))]:
                self._give_up(slot)

    def _give_up(self, slot: Slot) -> None:
        """What I put there does not go there; what I deleted by that stays, unless I moved it elsewhere."""
        del self.added[slot]
        replaced = self.removed.get(slot)
        if replaced is not None and not self._my.added.get(replaced, _NONE):
            del self.removed[slot]

    def _settle_deletions(self) -> None:
        """What one side has deleted and the other has changed or renamed comes back, and so does what both have kept
        under the name that the other has deleted.
        """
        for ino, slots in self._my.removed.items():
            there = self._theirs.alive(ino)
            if there is None or there.is_dir:
                continue
            gone = sum(self.removed.get(slot) == ino for slot in slots)
            come = sum(self.added.get(slot) == ino for slot in self._my.added.get(ino, _NONE))
            if there.nlink - gone + come == 0 and (self._kept(ino) or self._missed(ino)):
                for slot in slots:
                    if self.removed.get(slot) == ino:
                        del self.removed[slot]
        for ino, slots in self._their.removed.items():
            if self._is_dir(ino) or self._theirs.alive(ino) or not self._kept(ino):
                continue
            if not self._my.added.get(ino, _NONE) and self._missed(ino):
                for slot in slots - self._my.removed.get(ino, _NONE):
                    self.added[slot] = ino

    def _give_homes(self) -> bool:
        """Directories that get something have to be there. True: something was brought back."""
        again = False
        gained = set(self.added.values())
        for parent in {parent for parent, _ in self.added} - gained:
            for slot in self._my.removed.get(parent, _NONE):
                if self.removed.get(slot) == parent:
                    del self.removed[slot]
                    again = True
            if not self._theirs.alive(parent):
                self.added[min(self._their.removed.get(parent, _NONE))] = parent
                again = True
        return again

    def _keep_full_directories(self) -> bool:
        """A directory that I have removed stays if there is something in it by now."""
        again = False
        gained, parents = set(self.added.values()), {parent for parent, _ in self.added}
        for slot, ino in list(self.removed.items()):
            if not self._is_dir(ino) or ino in gained:
                continue
            if ino not in self._rows:
                self._rows[ino] = [row.name for row in self._theirs.listing(ino)]
            if ino in parents or any((ino, name) not in self.removed for name in self._rows[ino]):
                del self.removed[slot]
                again = True
        return again

    def _untie(self) -> bool:
        """A move of mine that would put a directory below itself, because of what they have moved, is undone."""
        homes = {ino: slot for slot, ino in self.added.items()}
        for ino in sorted(ino for ino in homes if self._is_dir(ino) and self._theirs.alive(ino)):
            at = homes[ino][0]
            seen = {ino}
            while at != ROOT_INO and at not in seen:
                seen.add(at)
                at = self._parent(at, homes)
            if at == ROOT_INO:
                continue
            for loop in [homes[number] for number in self._loop(at, homes)]:
                number = self.added[loop]
                self._give_up(loop)
                for slot in self._my.removed.get(number, _NONE):
                    if self.removed.get(slot) == number:
                        del self.removed[slot]
                return True
        return False

    def _loop(self, ino: int, homes: dict[int, Slot]) -> list[int]:
        """The directories of a circle that I have moved, the one with the lowest number first."""
        circle = [ino]
        at = self._parent(ino, homes)
        while at != ino:
            circle.append(at)
            at = self._parent(at, homes)
        return sorted(number for number in circle if number in homes and self._theirs.alive(number))

    def _parent(self, ino: int, homes: dict[int, Slot]) -> int:
        slot = homes.get(ino)
        if slot is not None:
            return slot[0]
        there = self._theirs.find(ino)
        return there.parent if there is not None else ROOT_INO
