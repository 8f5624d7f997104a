"""Comparing a vault with the model, with its own chain, and with itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from atedb.errors import NotResident
from atefs.vault import codec
from atefs.vault.inode import Inode
from atefs.vault.layout import sectors
from atefs.vault.limits import REGION_BLOCKS
from atefs.vault.vault import Vault
from tests.vault.memory_chain import MemoryChain
from tests.vault.model import PAGE, Model

T = TypeVar("T")
_MANY = 10_000


def patiently(operation: Callable[[], T]) -> T:
    """What the mount does: fetch what is not in memory, and try again."""
    for _ in range(_MANY):
        try:
            return operation()
        except NotResident as absent:
            absent.fetch()
    raise AssertionError("it never had all it needs")


def check_same(vault: Vault, model: Model) -> None:
    """Every inode the model has is in the vault, and the same."""
    for ino, node in model.nodes.items():
        inode = patiently(lambda ino=ino: vault.getattr(ino))  # type: ignore[misc]
        seen = (inode.mode, inode.uid, inode.gid, inode.nlink, inode.mtime, inode.ctime, inode.atime)
        wanted = (node.mode, node.uid, node.gid, node.nlink, node.mtime, node.ctime, node.atime)
        assert seen == wanted, (ino, seen, wanted)
        assert dict(inode.xattrs or {}) == node.xattrs
        if node.is_dir:
            check_directory(vault, ino, model)
        elif inode.is_link:
            assert patiently(lambda ino=ino: vault.readlink(ino)) == node.target  # type: ignore[misc]
        elif inode.is_file:
            assert inode.size == node.size
            check_content(vault, ino, model)
            assert inode.blocks == patiently(lambda inode=inode: counted_blocks(vault, inode))  # type: ignore[misc]


def check_directory(vault: Vault, ino: int, model: Model) -> None:
    node = model.nodes[ino]
    rows = patiently(lambda: vault.readdir(ino))
    assert (rows[0].name, rows[0].ino, rows[1].name, rows[1].ino) == (b".", ino, b"..", node.parent)
    assert {row.name: row.ino for row in rows[2:]} == node.entries
    assert all(row.type == model.nodes[row.ino].mode >> 12 for row in rows)
    assert vault.getattr(ino).size == len(node.entries) == len(rows) - 2


def check_content(vault: Vault, ino: int, model: Model) -> None:
    node = model.nodes[ino]
    around = {page + step for page in node.pages for step in (-1, 0, 1) if page + step >= 0} | {0, node.size // PAGE}
    for page in sorted(around):
        seen = patiently(lambda page=page: vault.read(ino, page * PAGE, PAGE))  # type: ignore[misc]
        assert seen == node.read(page * PAGE, PAGE), (ino, page)
    check_holes(vault, ino, model)


def check_holes(vault: Vault, ino: int, model: Model) -> None:
    """Whatever is not zero lies in the allocated runs."""
    node = model.nodes[ino]
    runs = patiently(lambda: list(vault._holes.runs(vault.getattr(ino), 0)))
    assert all(start < end <= node.size for start, end in runs)
    assert all(before[1] < after[0] for before, after in pairwise(runs))
    for page, data in node.pages.items():
        used = data.rstrip(b"\0")
        first = page * PAGE + len(used) - len(used.lstrip(b"\0"))
        if used:
            assert any(start <= first and page * PAGE + len(used) <= end for start, end in runs)


def counted_blocks(vault: Vault, inode: Inode) -> int:
    """st_blocks by looking at everything that exists, what waits to be reaped included."""
    if inode.inline:
        data = vault._inodes.content(inode)
        total = sectors(len(data))
    else:
        total = 0
    layout = inode.layout
    if layout is None:
        return total
    maps = vault._reader._maps
    for region in layout.regions():
        found = maps.get(inode, region)
        assert found is not None
        for index in range(REGION_BLOCKS):
            dirty = layout.dirty.get(region * REGION_BLOCKS + index)
            total += sectors(max(found.end(index), dirty.end if dirty else 0))
    for base in layout.cut:
        total += sum(maps.borrowed(base.number, base.origin + step).sectors() for step in range(base.length))
    for start, end in layout.doomed or []:
        total += sum(maps.load(inode.content, region).sectors() for region in range(start, end))
    return total


def check_nothing_left_over(vault: Vault, chain: MemoryChain, model: Model) -> None:
    """With everything committed and reaped, the chain holds what the tree consists of and nothing else."""
    assert vault.dirty_bytes == 0
    assert vault.dirty_objects == 0
    wanted = {codec.superblock_key(chain), codec.numbers_key(chain, chain.device)} & set(chain.objects)
    for ino, node in model.nodes.items():
        inode = vault.getattr(ino)
        wanted.add(codec.inode_key(chain, ino))
        wanted.update(codec.entry_key(chain, ino, name) for name in node.entries)
        layout = inode.layout
        if layout is None:
            continue
        assert not layout.doomed
        for start, end in [(0, 1), *layout.ranges]:
            for region in range(start, end):
                found = vault._reader._maps.get(inode, region)
                assert found is not None
                if region:
                    wanted.add(codec.map_key(chain, ino, region))
                for index, parts in found.blocks():
                    block = region * REGION_BLOCKS + index
                    wanted.update(codec.block_key(chain, ino, block, slot) for slot in parts.slots())
    assert set(chain.objects) == wanted
    assert chain.sets == chain.replayed_sets()
    assert chain.members(codec.orphans_group(chain)) == {}
