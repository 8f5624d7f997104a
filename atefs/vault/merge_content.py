"""Content in a merge: whether a side has changed it, in which blocks, and bringing it into the merged state."""

from __future__ import annotations

from typing import NamedTuple

from atefs.vault import acl
from atefs.vault.codec import block_key, map_key
from atefs.vault.inode import Inode
from atefs.vault.layout import BlockMap, Layout
from atefs.vault.limits import BLOCK, REGION_BLOCKS
from atefs.vault.ranges import contains
from atefs.vault.shares import find
from atefs.vault.sides import Side, Stage

_PLAIN = ("uid", "gid", "flags", "rdev")


class _Leaf(NamedTuple):
    """Where the bytes of one block lie, however they are shared: the objects' number and block, and which there are."""

    content: int
    block: int
    parts: BlockMap
    end: int


def changed_blocks(base: Side, before: Inode, side: Side, after: Inode, keys: frozenset[bytes]) -> set[int] | None:
    """The blocks of a file whose bytes may differ from what they were; None: all that there are, and may have been.

    keys: of the objects that the side has changed. How content is shared does not matter, only which bytes it has.
    """
    if before.inline or after.inline:
        same = before.inline and after.inline and base.inodes.content(before) == side.inodes.content(after)
        return set() if same else None
    assert before.layout is not None
    assert after.layout is not None
    changed: set[int] = set()
    for region in {*before.layout.regions(), *after.layout.regions()}:
        if _untouched(side, before, after, region, keys):
            continue
        old, new = _leaves(base, before, region), _leaves(side, after, region)
        for index in old.keys() | new.keys():
            leaf = new.get(index)
            if leaf is None or leaf != old.get(index) or _rewritten(side, leaf, keys):
                changed.add(region * REGION_BLOCKS + index)
    return changed


def is_changed(base: Side, side: Side, ino: int, keys: frozenset[bytes]) -> bool:
    """Has a side changed what people would miss of an inode: its content, or its extended attributes?"""
    before, after = base.find(ino), side.find(ino)
    if before is None or after is None:
        return before is not after
    if (before.xattrs or {}) != (after.xattrs or {}):
        return True
    return content_changed(base, before, side, after, keys)


def content_changed(base: Side, before: Inode, side: Side, after: Inode, keys: frozenset[bytes]) -> bool:
    """The same for the content alone."""
    if not after.is_file:
        return False
    return before.size != after.size or changed_blocks(base, before, side, after, keys) != set()


def bring_content(side: Side, source: Inode, stage: Stage, target: Inode, blocks: set[int] | None) -> None:
    """Give a file of the merged state the content that `source` has in `side`, committing in bounded pieces.

    blocks: what differs, where the target has all the rest already; None: everything.
    """
    if blocks is None or target.inline or source.inline:
        _empty(stage, target)
        blocks = None
    elif source.size < target.size:
        stage.truncation.truncate(target, source.size)
    if source.inline:
        stage.writer.write(target, 0, side.inodes.content(source), None)
    else:
        for block in sorted(blocks if blocks is not None else _existing(side, source)):
            _bring_block(side, source, stage, target, block)
            stage.flush_when_full()
    if target.size != source.size:
        stage.truncation.truncate(target, source.size)
    stage.inodes.touch(target)


def make_like(stage: Stage, number: int, side: Side, source: Inode, *, again: bool) -> Inode:
    """A new inode of the merged state without a name: all of `source` but the content of a file.

    again: there was one of that number, so that blocks which others share by now may be named by it. So may be those of
    a number that `source` does not use for its own: an earlier merge has brought it back, which is not sent yet.
    """
    found = stage.find(number)
    if found is not None and not found.is_dir:
        _clear(stage, found)
    target = _bare(found, number, source)
    if source.is_link:
        target.data, target.size, target.blocks = side.inodes.content(source), source.size, source.blocks
    target.keeper = 0 if source.is_dir else stage.numbers.keeper
    if target.key:
        stage.inodes.ready(target)
        stage.inodes.touch(target)
    else:
        if source.is_file and (again or source.content != source.ino):
            target.content = stage.numbers.allocate()
        stage.inodes.add(target)
    return target


def merge_fields(base: Inode, mine: Inode, target: Inode, stage: Stage) -> None:
    """Attributes, field by field: what only one side has changed is as there; theirs wins where both did.

    Of times, the later one counts where both sides have set them. target: theirs, and the outcome.
    """
    stage.inodes.ready(target)
    old, ours, their = base.xattrs or {}, mine.xattrs or {}, target.xattrs or {}
    if (target.mode, their.get(acl.ACCESS)) == (base.mode, old.get(acl.ACCESS)):  # the list and the mode go together
        target.mode = mine.mode
        their = {name: value for name, value in their.items() if name != acl.ACCESS}
        if acl.ACCESS in ours:
            their[acl.ACCESS] = ours[acl.ACCESS]
    for name in old.keys() | ours.keys() | their.keys():
        if name != acl.ACCESS and their.get(name) == old.get(name):
            their = {key: value for key, value in their.items() if key != name}
            if name in ours:
                their[name] = ours[name]
    if their != (target.xattrs or {}):
        stage.inodes.put_xattrs(target, their)
    for field in _PLAIN:
        if getattr(target, field) == getattr(base, field):
            setattr(target, field, getattr(mine, field))
    for field in ("atime", "mtime", "btime"):
        if getattr(target, field) == getattr(base, field):
            setattr(target, field, getattr(mine, field))
        elif getattr(mine, field) != getattr(base, field):
            setattr(target, field, max(getattr(mine, field), getattr(target, field)))
    target.ctime = max(mine.ctime, target.ctime)
    stage.inodes.touch(target)


def _bare(found: Inode | None, number: int, source: Inode) -> Inode:
    """`found`, which the others have deleted and which is there still, or a new one."""
    target = found or Inode(number, source.mode, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    target.mode, target.uid, target.gid = source.mode, source.uid, source.gid
    target.atime, target.mtime, target.ctime, target.btime = source.atime, source.mtime, source.ctime, source.btime
    target.rdev, target.flags, target.generation = source.rdev, source.flags, source.generation
    target.xattrs = dict(source.xattrs) if source.xattrs else None
    target.nlink = 2 if source.is_dir else 0
    if source.is_dir:
        target.size = 0
    return target


def _clear(stage: Stage, found: Inode) -> None:
    """What is left of an inode that the others have deleted goes on being deleted under another number."""
    stage.inodes.ready(found)
    grave = Inode(
        stage.numbers.allocate(), found.mode, found.uid, found.gid, 0, found.size, found.blocks,
        found.atime, found.mtime, found.ctime, found.btime, inline=found.inline, data=found.data, layout=found.layout,
        content=found.content,
    )  # fmt: skip
    stage.inodes.add(grave)
    found.inline, found.data, found.layout = True, b"", None
    found.size = found.blocks = 0
    found.content = stage.numbers.allocate()


def _empty(stage: Stage, target: Inode) -> None:
    stage.truncation.truncate(target, 0)
    stage.inodes.ready(target)
    stage.inodes.touch(target)


def _bring_block(side: Side, source: Inode, stage: Stage, target: Inode, block: int) -> None:
    """What one block has, and nothing else, becomes that of the target."""
    start = block * BLOCK
    if start < target.size:
        stage.holes.punch(target, start, BLOCK)
    leaf = _leaves(side, source, block // REGION_BLOCKS).get(block % REGION_BLOCKS)
    length = min(leaf.end, source.size - start) if leaf is not None else 0
    if length > 0:
        stage.writer.write(target, start, side.reader.read(source, start, length), None)
    stage.inodes.touch(target)


def _existing(side: Side, source: Inode) -> list[int]:
    """The blocks that a file has."""
    assert source.layout is not None
    return [
        region * REGION_BLOCKS + index
        for region in source.layout.regions()
        for index in _leaves(side, source, region)
    ]  # fmt: skip


def _untouched(side: Side, before: Inode, after: Inode, region: int, keys: frozenset[bytes]) -> bool:
    """Is the region the same without looking into it: with the same map, or the same one of shared content?"""
    old, new = before.layout, after.layout
    assert old is not None
    assert new is not None
    lent = find(old.bases, region)
    if lent is not None:
        return find(new.bases, region) == lent
    return _owns(old, region) and _owns(new, region) and before.content == after.content and (
        map_key(side.log, after.content, region) not in keys
    )  # fmt: skip


def _owns(layout: Layout, region: int) -> bool:
    return region > 0 and contains(layout.ranges, region)


def _rewritten(side: Side, leaf: _Leaf, keys: frozenset[bytes]) -> bool:
    return any(block_key(side.log, leaf.content, leaf.block, slot) in keys for slot in leaf.parts.slots())


def _leaves(side: Side, inode: Inode, region: int) -> dict[int, _Leaf]:
    """The blocks of one region, each by where its objects are."""
    found = side.maps.get(inode, region)
    if found is None:
        return {}
    leaves = {}
    for index, parts in found.blocks():
        block, content, whole = region * REGION_BLOCKS + index, inode, parts
        origin = found.foreign.get(index)
        if origin is not None:
            content, block = side.shared.get(origin[0]), origin[1]
            there = side.maps.get(content, block // REGION_BLOCKS)
            own = there.get(block % REGION_BLOCKS) if there is not None else None
            whole = own if own is not None else parts
        leaves[index] = _Leaf(content.content, block, whole, parts.end)
    return leaves
