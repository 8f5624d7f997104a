"""Shared content: what was a file's own until it was copied by reference, and never changes from then on.

It is an inode without a name and without a type, whose layout counts the users of each region. A user is a region of a
file (`Base`), or a map with blocks of that region in it. Regions without users are deleted by the `Reaper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from atedb.errors import DamagedError
from atefs.errors import StaleError
from atefs.vault.inode import Inode
from atefs.vault.inodes import Inodes
from atefs.vault.layout import Layout, RegionMap
from atefs.vault.limits import REGION_BLOCKS
from atefs.vault.numbers import Numbers
from atefs.vault.shares import Base, counted, put

Region = tuple[int, int]
"""A region of shared content: (inode number, region)."""


class Shared:
    """Finds shared content, makes it, and counts its users.

    freed: what may have regions without users now. told: called when something was added to that.
    """

    def __init__(self, inodes: Inodes, numbers: Numbers) -> None:
        self.freed: set[int] = set()
        self.told: Callable[[], None] = lambda: None
        self._inodes = inodes
        self._numbers = numbers
        self._held: dict[int, Inode] = {}

    def get(self, number: int) -> Inode:
        """Shared content by its inode number. Raises DamagedError when it is lost."""
        try:
            return self._inodes.get(number)
        except StaleError as missing:
            raise DamagedError(f"The shared content {number} is lost. Run: atefs fsck") from missing

    def hold(self, numbers: Iterable[int]) -> None:
        """Load what is to be counted: to be called before anything is changed."""
        for number in numbers:
            self._held[number] = self.get(number)

    def hold_bases(self, bases: Iterable[Base]) -> None:
        """Load the contents of these, as `hold` does."""
        self.hold({base.number for base in bases})

    def give_back(self, layout: Layout) -> None:
        """No region of the file is one of shared content any more. Those contents are held."""
        self.count_bases([*layout.bases, *layout.cut], -1)
        layout.bases, layout.cut = [], []

    def count(self, regions: Iterable[Region], step: int) -> None:
        """One user more (1) or less (-1) of each of these regions; their contents are held."""
        for number, region in regions:
            self._count(number, region, region + 1, step)

    def count_bases(self, bases: Iterable[Base], step: int) -> None:
        """The same for all regions of each base."""
        for base in bases:
            self._count(base.number, base.origin, base.origin + base.length, step)

    def part_with(self, inode: Inode) -> Inode:
        """All own content of a file becomes shared content, of which the file is the only user. Loads nothing.

        The file has no doomed regions. What it writes from now on is named by the number of the new inode, whose
        content keeps the names that it has.
        """
        layout = inode.layout
        assert layout is not None
        assert not layout.doomed
        own = layout.own()
        number = self._numbers.allocate()
        moved = Layout(
            layout.first, layout.ranges, dirty_maps=layout.dirty_maps, dirty=layout.dirty,
            users=[(start, end, 1) for start, end in own],
        )  # fmt: skip
        content = Inode(
            number, 0, 0, 0, 1, inode.size, inode.blocks, inode.atime, inode.mtime, inode.ctime, inode.btime,
            inline=False, data=None, layout=moved, counted=inode.counted, content=inode.content,
        )  # fmt: skip
        inode.counted = 0
        inode.layout = Layout(doomed=layout.doomed, bases=layout.bases, cut=layout.cut)
        inode.content = number
        for start, end in own:
            put(inode.layout.bases, Base(start, end - start, number, start))
        self._inodes.add(content)
        self._inodes.touch(inode)
        self._held[number] = content
        return content

    def release(self) -> None:
        """A commit has taken everything: what was held may be dropped from memory."""
        self._held.clear()

    def _count(self, number: int, first: int, end: int, step: int) -> None:
        content = self._held[number]
        layout = content.layout
        assert layout is not None
        assert layout.users is not None
        layout.users = counted(layout.users, first, end, step)
        self._inodes.touch(content)
        if step < 0:
            self.freed.add(number)
            self.told()


def lenders(found: RegionMap) -> set[Region]:
    """The regions of shared content that a map has blocks of."""
    return {(number, block // REGION_BLOCKS) for number, block in found.foreign.values()}


def lent(content: Inode, region: int, found: RegionMap | None) -> RegionMap:
    """A region of shared content as a file sees it that has it: all of it is foreign. found: the content's own map."""
    layout = content.layout
    assert layout is not None
    seen = RegionMap()
    for index in range(REGION_BLOCKS):
        block = region * REGION_BLOCKS + index
        dirty = layout.dirty.get(block) if layout.dirty else None
        end = max(found.end(index) if found is not None else 0, dirty.end if dirty is not None else 0)
        if end:
            origin = found.foreign.get(index) if found is not None else None
            seen.lend(index, origin or (content.ino, block), end)
    return seen
