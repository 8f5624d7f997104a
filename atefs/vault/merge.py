"""Merging: what this device did while it was alone, put on top of what others did meanwhile (docs/guide.md).

A three-way merge in the sense of diff3 (Khanna, Kunal and Pierce, "A formal investigation of diff3", 2007), over names,
attributes and blocks. Theirs is the ground; each change of mine is laid over it as an operation of the vault, so that
every rule about link counts, shared content and deferred deletion holds by itself. Where both have changed the same
thing, theirs stays in place and mine is kept beside it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

from atedb.chain.event import Change, Lane
from atedb.chain.side import Changed
from atefs.vault import codec
from atefs.vault.conflicts import Conflict
from atefs.vault.inode import Inode
from atefs.vault.limits import NAME_MAX, ROOT_INO
from atefs.vault.merge_content import (
    bring_content,
    changed_blocks,
    content_changed,
    is_changed,
    make_like,
    merge_fields,
)
from atefs.vault.merge_names import Delta, Plan, Slot
from atefs.vault.refresh import Touched
from atefs.vault.sides import Namer, Side, Stage, State


class Rebase(Protocol):
    """The three states, what led to them, and where the outcome goes (`atedb.chain.rebase.Rebase`)."""

    @property
    def base(self) -> State: ...

    @property
    def mine(self) -> State: ...

    @property
    def theirs(self) -> State: ...

    @property
    def merged(self) -> State: ...

    @property
    def mine_keys(self) -> frozenset[bytes]: ...

    @property
    def theirs_keys(self) -> frozenset[bytes]: ...

    def mine_changes(self) -> Iterator[Changed]: ...

    def theirs_changes(self) -> Iterator[Changed]: ...

    def commit(self, changes: Sequence[Change]) -> None: ...


def merge(rebase: Rebase, names: Namer, *, device: str, now: int, touched: Touched) -> list[Conflict]:
    """Commit through `rebase` what makes theirs and mine one; returns what had to be kept twice.

    names: the chain. device: what people call this machine, for the names of conflicts. now: nanoseconds since 1970.
    touched: hears of all that the vault in memory has to forget. Raises what loading and committing raise; the rebase
    then never happened.
    """
    return _Merge(rebase, names, device, now, touched).run()


class _Events:
    """What one side has touched: inodes by number, and places of entries."""

    def __init__(self) -> None:
        self.inodes: set[int] = set()
        self.slots: set[Slot] = set()
        self.conflicts: set[bytes] = set()

    def take(self, change: Changed) -> None:
        """One event of the meta lane."""
        body = change.plaintext or b""
        if body[:1] == codec.ENTRY:
            record = codec.decode_entry(body)
            self.slots.add((record.parent, record.name))
        elif body[:1] == codec.INODE:
            self.inodes.add(codec.decode_inode_numbers(change.tombstone, body)[0])
        elif body[:1] == codec.CONFLICT:
            self.conflicts.add(change.key)


class _Merge:
    def __init__(self, rebase: Rebase, names: Namer, device: str, now: int, touched: Touched) -> None:
        self._rebase = rebase
        self._touched = touched
        self._device = device
        self._now = now
        self._base = Side(names, rebase.base)
        self._mine = Side(names, rebase.mine)
        self._theirs = Side(names, rebase.theirs)
        self._stage = Stage(names, rebase.merged, self._commit, now)
        self._my = _Events()
        self._their = _Events()
        self._source: dict[int, int] = {}
        self._beside: dict[int, int] = {}
        self._records: list[Change] = []
        self._conflicts: list[Conflict] = []
        self._plan: Plan
        self._held: dict[Slot, int] = {}

    def run(self) -> list[Conflict]:
        for change in self._rebase.theirs_changes():
            self._hear(change, self._their)
        for change in self._rebase.mine_changes():
            self._hear(change, self._my)
        self._whole()
        self._make_plan()
        for ino in sorted(self._my.inodes):
            self._merge_inode(ino)
        self._bring_back()
        self._take_names()
        self._see_what_is_the_same()
        self._finish()
        return self._conflicts

    def _see_what_is_the_same(self) -> None:
        """Of what I have changed and they have not, the kernel has it right already."""
        lookup = self._stage.directories.lookup
        self._touched.same_names |= {slot for slot, ino in self._held.items() if lookup(*slot) >> 4 == ino}
        mine = self._my.inodes - self._their.inodes
        self._touched.same_content |= {ino for ino in mine if not self._is_dir(ino)}

    def _hear(self, change: Changed, events: _Events) -> None:
        if change.lane == Lane.META:
            self._touched(change.tombstone, change.plaintext or b"", change.key)
            events.take(change)

    def _commit(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.lane is Lane.META:
                assert isinstance(change.body, bytes)
                self._touched(change.tombstone, change.body, change.key)
        self._rebase.commit(changes)

    # Before anything else

    def _whole(self) -> None:
        """What the vault has once: its quota, the numbers given out here."""
        base, mine, stage = self._base, self._mine, self._stage
        if mine.superblock.quota != base.superblock.quota == stage.superblock.quota:
            stage.superblock.set_quota(mine.superblock.quota)
        stage.numbers.follow(mine.numbers)

    def _make_plan(self) -> None:
        base, mine, theirs = self._base, self._mine, self._theirs
        renumbered = {
            ino: self._stage.numbers.allocate()
            for ino in sorted(self._my.inodes)
            if base.find(ino) is None and mine.find(ino) is not None and theirs.find(ino) is not None
        }
        self._source = {new: old for old, new in renumbered.items()}
        self._my.inodes = {renumbered.get(ino, ino) for ino in self._my.inodes}
        my = Delta(base, mine, self._my.slots, renumbered)
        their = Delta(base, theirs, self._their.slots, {})
        self._held = my.held
        self._my.inodes |= my.added.keys() | my.removed.keys()
        self._plan = Plan(
            theirs, my, their, is_dir=self._is_dir, missed=self._missed, kept=lambda ino: self._from(ino) is not None
        )

    def _from(self, ino: int) -> Inode | None:
        """An inode as I have it, if it has a name there."""
        return self._mine.alive(self._source.get(ino, ino))

    def _is_dir(self, ino: int) -> bool:
        found = self._base.find(ino) or self._mine.find(self._source.get(ino, ino)) or self._theirs.find(ino)
        return found is not None and found.is_dir

    def _missed(self, ino: int) -> bool:
        """Has the side that still has it changed what people would miss?"""
        if self._theirs.alive(ino):
            return is_changed(self._base, self._theirs, ino, self._rebase.theirs_keys)
        return is_changed(self._base, self._mine, ino, self._rebase.mine_keys)

    # Inodes and their content

    def _merge_inode(self, ino: int) -> None:
        mine = self._mine.find(self._source.get(ino, ino))
        before, target = self._base.find(ino), self._stage.find(ino)
        if mine is None:
            if before is not None and before.nlink == 0 and target is not None and target.nlink == 0:
                self._stage.inodes.ready(target)
                self._stage.dispose(target)
        elif target is None or before is None:
            if not mine.is_dir and ((before is None and target is None) or ino in self._source):
                self._make(ino, mine, again=False)
        elif target.nlink or (mine.nlink == before.nlink == 0 and ino not in self._their.inodes):
            self._merge_into(before, mine, target)

    def _make(self, ino: int, mine: Inode, *, again: bool) -> Inode:
        made = make_like(self._stage, ino, self._mine, mine, again=again)
        if mine.is_file:
            bring_content(self._mine, mine, self._stage, made, None)
        if not mine.is_dir:
            self._stage.flush_when_full()
        return made

    def _merge_into(self, before: Inode, mine: Inode, target: Inode) -> None:
        """An inode that all three have. Of content that both have changed, theirs stays."""
        keys = self._rebase.mine_keys
        # Of what I have deleted less and less is there, until nothing is: where it stays after all, it stays as they
        # have it.
        changed = bool(mine.nlink or not self._plan.names(mine.ino)) and content_changed(
            self._base, before, self._mine, mine, keys
        )
        theirs = self._also_changed(before, mine, changed=changed)
        if theirs is not None:
            changed = False
            if mine.nlink and not self._same_content(mine, theirs):
                self._put_beside(before, mine, theirs, target)
        merge_fields(before, mine, target, self._stage)
        if changed:
            blocks = changed_blocks(self._base, before, self._mine, mine, keys)
            bring_content(self._mine, mine, self._stage, target, blocks)

    def _also_changed(self, before: Inode, mine: Inode, *, changed: bool) -> Inode | None:
        """Theirs, where the content was changed on both sides. changed: on mine.

        To give a name to what had none is a change, too, where both have done it: a merge has brought it back then, and
        others had seen the first of its batches only, or brought back what they had in its place.
        """
        theirs = self._theirs.find(mine.ino) if mine.ino in self._their.inodes else None
        revived = theirs is not None and not before.nlink and mine.nlink and theirs.nlink
        if theirs is None or not (changed or revived):
            return None
        their = content_changed(self._base, before, self._theirs, theirs, self._rebase.theirs_keys)
        return theirs if their or (changed and revived) else None

    def _put_beside(self, before: Inode, mine: Inode, theirs: Inode, target: Inode) -> None:
        """My version of a file becomes one of its own: what theirs has, shared, and the blocks that differ."""
        number = self._stage.numbers.allocate()
        self._beside[mine.ino] = number
        made = make_like(self._stage, number, self._mine, mine, again=False)
        blocks: set[int] | None = None
        if not mine.inline and not theirs.inline:
            my = changed_blocks(self._base, before, self._mine, mine, self._rebase.mine_keys)
            their = changed_blocks(self._base, before, self._theirs, theirs, self._rebase.theirs_keys)
            blocks = my | their if my is not None and their is not None else None
        if blocks is not None:
            self._stage.copy(target, made)
        bring_content(self._mine, mine, self._stage, made, blocks)
        self._stage.flush_when_full()

    def _same_content(self, mine: Inode, theirs: Inode) -> bool:
        """Have both come to the same? Asked of what is at hand only."""
        if mine.size != theirs.size or not (mine.inline and theirs.inline):
            return False
        return self._mine.inodes.content(mine) == self._theirs.inodes.content(theirs)

    # Names

    def _bring_back(self) -> None:
        """Files that the plan gives a name to and they have deleted. Folders are made when they get their names."""
        for ino in sorted(ino for ino in set(self._plan.added.values()) if not self._is_dir(ino)):
            target = self._stage.find(ino)
            if target is None or (target.nlink == 0 and self._theirs.find(ino) is not None):
                mine = self._from(ino)
                assert mine is not None
                self._make(ino, mine, again=True)

    def _take_names(self) -> None:
        """Take names out from the bottom up, then put the others in from the top down.

        What is committed on the way is sound: no directory is there without its parent, and nothing that has lost a
        name waits for another one.
        """
        plan = self._plan
        homes = {ino: slot for slot, ino in plan.added.items() if self._is_dir(ino)}
        coming = set(plan.added.values())
        floating: set[int] = set()
        for slot in sorted(plan.removed, key=lambda slot: self._depth(slot[0]), reverse=True):
            inode = self._stage.unlink(*slot)
            if inode.ino in coming:
                floating.add(inode.ino)
            elif inode.is_dir or inode.nlink == 0:
                self._let_go(inode)
            self._flush_unless(floating)
        placed: set[Slot] = set()
        for ready in (True, False):
            for slot, ino in plan.added.items():
                if (ino in floating) is ready:
                    self._put_in_below(slot, homes, placed)
                    floating.discard(ino)
                    self._flush_unless(floating)
        places = self._places(set(self._beside)) if self._beside else {}
        for ino, number in sorted(self._beside.items()):
            inode = self._stage.inodes.get(number)
            self._record(inode, places.get(ino, (ROOT_INO, b"%d" % ino)), content=True)
            self._flush_unless(floating)

    def _flush_unless(self, floating: set[int]) -> None:
        if not floating:
            self._stage.flush_when_full()

    def _let_go(self, inode: Inode) -> None:
        """It has no name any more; it stays while it is open here."""
        if self._mine.find(inode.ino) is None:
            self._stage.dispose(inode)
        else:
            inode.nlink, inode.keeper = 0, self._stage.numbers.keeper

    def _put_in_below(self, slot: Slot, homes: dict[int, Slot], placed: set[Slot]) -> None:
        """Put in one name, after those of the directories above it that get one."""
        chain = [slot]
        while (above := homes.get(chain[-1][0])) is not None and above not in placed:
            chain.append(above)
        for one in reversed(chain):
            if one not in placed:
                placed.add(one)
                self._put_in(one, self._plan.added[one])

    def _put_in(self, slot: Slot, ino: int) -> None:
        inode = self._stage.alive(ino) if self._is_dir(ino) else self._stage.find(ino)
        if inode is None:
            mine = self._from(ino)
            assert mine is not None
            inode = self._make(ino, mine, again=False)
        there = self._stage.directories.lookup(*slot)
        if not there:
            self._stage.link(*slot, inode)
        elif there >> 4 != ino:
            self._record(inode, slot, content=False)

    def _record(self, inode: Inode, slot: Slot, *, content: bool) -> None:
        """Give the inode a name of its own beside `slot`."""
        parent, name = slot
        kept = self._free_name(parent, name)
        self._stage.link(parent, kept, inode)
        conflict = Conflict(parent, kept, inode.ino, parent, name, self._device, self._now, content)
        self._records.append(codec.conflict_change(self._stage.log, conflict, gone=False))
        self._conflicts.append(conflict)

    def _free_name(self, parent: int, name: bytes) -> bytes:
        when = datetime.fromtimestamp(self._now // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")
        device = self._device.replace("/", "-").replace("\0", "-").encode("utf-8", "surrogateescape")[:64]
        tries = 1
        while True:
            tail = b".conflict-%s-%s" % (device, when.encode()) + (b"-%d" % tries if tries > 1 else b"")
            kept = name[: NAME_MAX - len(tail)] + tail
            if not self._stage.directories.lookup(parent, kept):
                return kept
            tries += 1

    def _places(self, wanted: set[int]) -> dict[int, Slot]:
        """A name that each of these inodes has in the merged state, or would have had if it had been free.

        Where no name was touched, the tree has to be searched.
        """
        found = {one.ino: (one.parent, one.origin_name) for one in self._conflicts if one.ino in wanted}
        for ino in wanted - found.keys():
            slot = self._plan.home(ino)
            if slot is not None:
                found[ino] = slot
        folders = [ROOT_INO]
        while folders and wanted - found.keys():
            folder = folders.pop()
            for row in self._theirs.listing(folder):
                if row.type == stat.S_IFDIR >> 12:
                    folders.append(row.ino)
                elif row.ino in wanted and (folder, row.name) not in self._plan.removed:
                    found.setdefault(row.ino, (folder, row.name))
        return found

    def _depth(self, ino: int) -> int:
        """How far below the root a directory is in theirs."""
        depth = 0
        while ino != ROOT_INO:
            ino = self._theirs.inodes.get(ino).parent
            depth += 1
        return depth

    def _finish(self) -> None:
        """The last commit, with the records of conflicts."""
        records = {change.key: change for change in (*self._old_records(), *self._records)}
        self._stage.flush(list(records.values()))

    def _old_records(self) -> Iterator[Change]:
        """The conflicts that were there before, as far as somebody has changed them: decided ones end, unless what was
        kept beside has come back because it was changed elsewhere. Then there is something to decide again.
        """
        stage = self._stage
        for key in sorted(self._my.conflicts | self._their.conflicts):
            mine, theirs, base = (self._conflict(side, key) for side in (self._mine, self._theirs, self._base))
            records = [one for one in (mine, theirs, base) if one is not None]
            standing = [one for one in records if stage.directories.lookup(one.parent, one.name) >> 4 == one.ino]
            if standing and theirs != standing[0]:
                yield codec.conflict_change(stage.log, standing[0], False)
            elif not standing and mine is None and theirs is not None:
                yield codec.conflict_change(stage.log, records[0], True)

    def _conflict(self, side: Side, key: bytes) -> Conflict | None:
        """What a side says of a conflict, with the numbers that inodes have from now on."""
        body = side.objects.load(key)
        if body is None:
            return None
        record = codec.decode_conflict(body)
        if side is self._mine:
            numbers = {old: new for new, old in self._source.items()}
            record.ino = numbers.get(record.ino, record.ino)
            record.parent = numbers.get(record.parent, record.parent)
            record.origin_parent = numbers.get(record.origin_parent, record.origin_parent)
        return record
