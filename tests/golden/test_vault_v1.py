"""A vault of format version 1, as the program made it when the version was fixed, and as it makes it now.

Both are read by this program, and by another one that knows docs/formats.md only.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Lane
from atedb.crypto.aead import AES_256_GCM
from atedb.crypto.slots import KdfParams, KeySlots, Secret
from atefs.mount.opening import open_chain
from atefs.vault.check import Survey
from atefs.vault.inode import Attributes, Caller
from atefs.vault.limits import BLOCK
from atefs.vault.vault import Vault
from tests.golden.vault_decoder import DecodedVault, Node, root_key, sha256

GOLDEN = Path(__file__).parent / "vault-v1"
PASSPHRASE = "Grüße aus dem Gewölbe"
NOW = 1_700_000_000_123_456_789
LONG_AGO = -1_000_000_001
ME = Caller(1000, 100, 0o022)
QUOTA = 1 << 30
LINE = b"All work and no play makes Jack a dull boy.\n"
LONG_NAME = b"n" * 255


def text(size: int) -> bytes:
    """Bytes that compress."""
    return (LINE * (size // len(LINE) + 1))[:size]


def noise(size: int, which: str = "") -> bytes:
    """Bytes that do not, and are the same each time."""
    return hashlib.shake_256(b"noise" + which.encode()).digest(size)


def write_vault(store: Path) -> None:
    """The vault that lies in `vault-v1`; run by hand, once for each version of the format: see CONTRIBUTING.md."""
    root = bytes(range(32))
    slots = KeySlots.create(root, clock=lambda: NOW)
    slots.add(root, Secret.passphrase(PASSPHRASE), "golden", KdfParams(opslimit=1, memlimit=8192))
    store.mkdir(mode=0o700)
    slots.save(store)
    chain = Chain.create(store, root, suite=AES_256_GCM)
    vault = Vault.make(chain, lambda: NOW, 1000, 100, mode=0o750, quota=QUOTA)
    _make_files(vault)
    _make_others(vault)
    vault.commit()
    _change(vault)
    chain.close()


def _file(vault: Vault, parent: int, name: bytes, *pieces: tuple[int, bytes]) -> int:
    ino = vault.mknod(parent, name, stat.S_IFREG | 0o644, 0, ME).ino
    for offset, data in pieces:
        vault.write(ino, offset, data)
    return ino


def _make_files(vault: Vault) -> None:
    sub = vault.mkdir(1, b"folder", 0o755, ME).ino
    inline = _file(vault, sub, b"inline", (0, text(3000)))
    vault.link(inline, 1, b"second name of inline")
    vault.setxattr(inline, b"user.colour", b"blue")
    vault.setxattr(inline, b"user.\xff", b"\0\xff")
    vault.setattr(inline, Attributes(mode=0o600, atime=LONG_AGO, mtime=LONG_AGO))
    _file(vault, sub, b"empty")
    _file(vault, sub, b"whole blocks", (0, text(2 * BLOCK)))
    _file(vault, sub, b"patched", (0, text(BLOCK)), (2 * BLOCK, noise(10_000)))
    _file(vault, sub, b"short", (0, text(BLOCK + 5000)))
    _file(vault, sub, b"sparse", (9 << 20, noise(100)), (1 << 50, b"far out"))
    _file(vault, sub, b"cut", (0, text(9000)), (9 << 20, text(9000)))
    _file(vault, sub, b"deleted", (0, text(100)))
    _file(vault, sub, b"deleted too", (0, text(20_000)))
    _file(vault, sub, b"deleted while open", (0, text(20_000)), (20 << 20, text(20_000)))


def _make_others(vault: Vault) -> None:
    vault.symlink(1, b"link", b"folder/in\xffline", ME)
    vault.mknod(1, b"fifo", stat.S_IFIFO | 0o640, 0, ME)
    vault.mknod(1, b"null", stat.S_IFCHR | 0o666, 0x103, Caller(0, 0, 0))
    vault.mknod(1, b"socket", stat.S_IFSOCK | 0o600, 0, ME)
    vault.mkdir(1, b"\xff\xfe not UTF-8", 0o1777, Caller(0, 0, 0))
    _file(vault, 1, LONG_NAME, (0, b"x"))


def _change(vault: Vault) -> None:
    """Patches of each sort, holes, a file cut inside a block, deletions; each in a batch of its own."""
    sub = vault.lookup(1, b"folder").ino
    patched, short, cut = (vault.lookup(sub, name).ino for name in (b"patched", b"short", b"cut"))
    for offset, data in ((3 * 4096, noise(4096, "page")), (40_001, noise(700, "free")), (7 * 4096, text(4096))):
        vault.write(patched, offset, data)
        vault.commit()
    vault.write(patched, 3 * 4096 + 100, b"over a page")  # the page's patch has an order from now on
    vault.write(short, 2 * 4096, noise(4096, "short"))
    vault.commit()
    vault.setattr(short, Attributes(size=2 * 4096 + 808, mtime=NOW + 1))
    vault.setattr(cut, Attributes(size=8500, ctime=NOW + 2))  # its region 1 waits to be deleted
    vault.unlink(sub, b"deleted")
    vault.unlink(sub, b"deleted too")
    vault.remember(vault.lookup(sub, b"deleted while open").ino)
    vault.unlink(sub, b"deleted while open")
    vault.commit()


def _patched() -> bytes:
    content = bytearray(text(BLOCK) + bytes(BLOCK) + noise(10_000))
    content[3 * 4096 : 4 * 4096] = noise(4096, "page")
    content[40_001:40_701] = noise(700, "free")
    content[7 * 4096 : 8 * 4096] = text(4096)
    content[3 * 4096 + 100 : 3 * 4096 + 111] = b"over a page"
    return bytes(content)


def _node(mode: int, content: bytes | None = None, size: int = 0, **more: object) -> Node:
    """A node as `_make_files` leaves them, unless said otherwise."""
    node = Node(mode, (1000, 100), 1, size, (NOW,) * 4, 0, {}, "")
    if content is not None:
        node = node._replace(size=size or len(content), content=sha256(content))
    return node._replace(**more)  # type: ignore[arg-type]


INLINE = _node(
    0o100600, text(3000), nlink=2, times=(LONG_AGO, LONG_AGO, NOW, NOW),
    xattrs={b"user.colour": b"blue", b"user.\xff": b"\0\xff"},
)  # fmt: skip
TREE = {
    b"": _node(0o040750, size=8, nlink=4),
    b"/folder": _node(0o040755, size=7, nlink=2),
    b"/folder/inline": INLINE,
    b"/second name of inline": INLINE,
    b"/folder/empty": _node(0o100644, b""),
    b"/folder/whole blocks": _node(0o100644, text(2 * BLOCK)),
    b"/folder/patched": _node(0o100644, _patched()),
    b"/folder/short": _node(0o100644, text(8192) + noise(808, "short"), times=(NOW, NOW + 1, NOW, NOW)),
    b"/folder/sparse": _node(0o100644, b"@9437184:" + noise(100) + b"@%d:far out" % (1 << 50), (1 << 50) + 7),
    b"/folder/cut": _node(0o100644, text(8500), times=(NOW, NOW, NOW + 2, NOW)),
    b"/link": _node(0o120777, b"folder/in\xffline"),
    b"/fifo": _node(0o010640),
    b"/null": _node(0o020666, owner=(0, 0), rdev=0x103),
    b"/socket": _node(0o140600),
    b"/\xff\xfe not UTF-8": _node(0o041777, owner=(0, 0), nlink=2),
    b"/" + LONG_NAME: _node(0o100644, b"x"),
}


def tree_of(vault: Vault) -> dict[bytes, Node]:
    """The vault's tree, as the program reads it."""
    found: dict[bytes, Node] = {}
    waiting = [(b"", 1)]
    while waiting:
        path, ino = waiting.pop()
        found[path] = _seen(vault, ino)
        if vault.getattr(ino).is_dir:
            inside = [row for row in vault.readdir(ino) if row.name not in (b".", b"..")]
            assert all(vault.lookup(ino, row.name).ino == row.ino for row in inside)
            waiting += [(path + b"/" + row.name, row.ino) for row in inside]
    return found


def _seen(vault: Vault, ino: int) -> Node:
    inode = vault.getattr(ino)
    times = (inode.atime, inode.mtime, inode.ctime, inode.btime)
    content = ""
    if inode.is_link:
        content = sha256(vault.readlink(ino))
    elif inode.is_file and inode.size < 1 << 20:
        content = sha256(vault.read(ino, 0, inode.size + 1))
    elif inode.is_file:
        content = sha256(b"".join(_far_out(vault, ino, inode.size)))
    return Node(
        inode.mode, (inode.uid, inode.gid), inode.nlink, inode.size, times, inode.rdev,
        {name: vault.getxattr(ino, name) for name in vault.listxattr(ino)}, content,
    )  # fmt: skip


def _far_out(vault: Vault, ino: int, size: int) -> list[bytes]:
    """The pieces of a sparse file, each after its offset."""
    pieces = []
    at = 0
    while at < size:
        start = vault.seek_data(ino, at)
        at = vault.seek_hole(ino, start)
        pieces.append(b"@%d:" % start + vault.read(ino, start, at - start))
    return pieces


@pytest.fixture(params=["golden", "today's"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The vault as it was made once, and as it is made now."""
    if request.param == "golden":
        shutil.copytree(GOLDEN, tmp_path / "store")
    else:
        write_vault(tmp_path / "store")
    return tmp_path / "store"


def test_the_vault_opens_with_its_passphrase_and_has_its_tree(store: Path) -> None:
    slots = KeySlots.load(store)
    chain = open_chain(store, slots.unlock(Secret.passphrase(PASSPHRASE)))
    vault = Vault(chain)
    assert tree_of(vault) == TREE
    assert not Survey(chain).run()
    chain.close()


def test_what_waits_to_be_deleted_is_deleted_and_the_vault_goes_on(store: Path) -> None:
    chain = open_chain(store, KeySlots.load(store).unlock(Secret.passphrase(PASSPHRASE)))
    vault = Vault(chain, lambda: NOW)
    before = chain.object_count(Lane.BLOB)
    assert not vault.reap()
    vault.commit()
    assert chain.object_count(Lane.BLOB) == before - 3
    ino = vault.mknod(1, b"new", stat.S_IFREG | 0o644, 0, ME).ino
    vault.commit()
    assert ino > 65_536, "a number from the range that was reserved before could have been used before"
    chain.close()
    decoded = DecodedVault(store, root_key(store, PASSPHRASE.encode()))
    assert decoded.orphans == set()
    assert set(decoded.nodes) == {*TREE, b"/new"}


def test_an_independent_reader_has_the_same_tree(store: Path) -> None:
    decoded = DecodedVault(store, root_key(store, PASSPHRASE.encode()))
    assert decoded.nodes == TREE
    assert decoded.quota == QUOTA
    assert len(decoded.orphans) == 2


def test_an_independent_reader_has_the_same_tree_where_content_is_shared(tmp_path: Path) -> None:
    write_vault(tmp_path / "store")
    chain = open_chain(tmp_path / "store", KeySlots.load(tmp_path / "store").unlock(Secret.passphrase(PASSPHRASE)))
    vault = Vault(chain, lambda: NOW)
    vault.reap()
    _copy(vault)
    vault.commit()
    tree = tree_of(vault)
    assert not Survey(chain).run()
    chain.close()
    decoded = DecodedVault(tmp_path / "store", root_key(tmp_path / "store", PASSPHRASE.encode()))
    assert decoded.nodes == tree
    assert len(decoded.orphans) == 3


def _copy(vault: Vault) -> None:
    """Whole files, single blocks, copies that were changed, cut and deleted, and one of which a region waits."""
    sub = vault.lookup(1, b"folder").ino
    for name in (b"whole blocks", b"patched", b"short", b"cut"):
        source, copy = vault.lookup(sub, name).ino, _file(vault, sub, b"copy of " + name)
        assert vault.copy_range(source, 0, copy, 0, 1 << 40) == vault.getattr(source).size
    names = (b"whole blocks", b"patched", b"short")
    whole, patched, short = (vault.lookup(sub, b"copy of " + name).ino for name in names)
    vault.commit()
    vault.copy_range(patched, 0, whole, 2 * BLOCK, 1 << 40)
    vault.write(patched, 5, b"changed")
    vault.setattr(short, Attributes(size=5000))
    vault.unlink(sub, b"whole blocks")
    vault.commit()
    vault.copy_range(whole, 0, patched, 64 * BLOCK, 1 << 40)
    vault.setattr(patched, Attributes(size=7 * BLOCK))
    vault.remember(whole)
    vault.unlink(sub, b"copy of whole blocks")


def test_the_golden_vault_is_small_and_has_no_view() -> None:
    names = {str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*") if path.is_file()}
    assert names == {"chain", "device", "keys", "keys.copy", "manifest", "segments/00000001.seg"}
    assert sum((GOLDEN / name).stat().st_size for name in names) < 100_000
