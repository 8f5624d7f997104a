"""Merging what two devices did apart: each pair of changes has the outcome that docs/guide.md states."""

from __future__ import annotations

import os
import stat

import pytest

from atedb.chain.event import Lane
from atefs.errors import NotFoundError
from atefs.vault import sides
from atefs.vault.codec import block_key
from atefs.vault.inode import Attributes
from atefs.vault.limits import BLOCK, ROOT_INO
from atefs.vault.rename import EXCHANGE
from atefs.vault.vault import Vault
from tests.vault.conftest import ME
from tests.vault.replicas import Replica, Server, State, contents, survey, tree


class Pair:
    """Two devices that have seen the same; `meet` sends what `one` did first, so that `two` has to merge."""

    def __init__(self) -> None:
        server = Server()
        self.one, self.two = Replica(server, "one"), Replica(server, "two")
        self.a, self.b = self.one.vault, self.two.vault

    def meet(self) -> dict[bytes, bytes]:
        """The contents that both have afterwards."""
        self.one.sync()
        self.two.sync()
        self.one.sync()
        for replica in (self.one, self.two):
            replica.settle_down()
            replica.sync()
        for replica in (self.one, self.two, self.one):
            replica.sync()
            assert survey(replica.chain) == []
            assert replica.chain.sets == replica.chain.replayed_sets()
        assert tree(self.a) == tree(self.b)
        fresh = Vault(self.one.chain)
        assert tree(fresh) == tree(self.a)
        return {path: data for path, (_, data) in contents(self.a).items()}


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    put(pair.a, b"f", b"base")
    pair.a.mkdir(ROOT_INO, b"d", 0o755, ME)
    pair.a.mkdir(ROOT_INO, b"e", 0o755, ME)
    pair.one.sync()
    pair.two.sync()
    return pair


def put(vault: Vault, name: bytes, data: bytes, parent: int = ROOT_INO) -> int:
    ino = vault.mknod(parent, name, stat.S_IFREG | 0o644, 0, ME).ino
    vault.write(ino, 0, data)
    return ino


def number(vault: Vault, path: bytes) -> int:
    ino = ROOT_INO
    for name in path.split(b"/"):
        ino = vault.lookup(ino, name).ino
    return ino


def conflicts(pair: Pair) -> list[bytes]:
    return [conflict.origin_name for conflict in pair.two.conflicts]


BIG = os.urandom(3 * BLOCK)


def test_different_names_and_different_files_merge(pair: Pair) -> None:
    put(pair.a, b"a", b"of one")
    pair.b.write(number(pair.b, b"f"), 0, b"BASE")
    put(pair.b, b"b", BIG)
    assert pair.meet() == {b"/f": b"BASE", b"/a": b"of one", b"/b": BIG}
    assert conflicts(pair) == []
    assert pair.a.getattr(ROOT_INO).size == 5


def test_of_one_name_made_twice_both_are_kept(pair: Pair) -> None:
    put(pair.a, b"new", b"of one")
    put(pair.b, b"new", b"of two")
    kept = pair.meet()
    assert kept.pop(b"/new") == b"of one"
    (other,) = set(kept) - {b"/f"}
    assert other.startswith(b"/new.conflict-two-20010909T0146")
    assert kept[other] == b"of two"
    assert conflicts(pair) == [b"new"]


@pytest.mark.parametrize("size", [10, 3 * BLOCK], ids=["small", "large"])
def test_of_one_file_written_twice_both_are_kept(pair: Pair, size: int) -> None:
    file = number(pair.a, b"f")
    pair.a.write(file, 0, b"A" * size)
    pair.b.write(file, 0, b"B" * size)
    kept = pair.meet()
    assert kept.pop(b"/f") == b"A" * size
    ((name, data),) = kept.items()
    assert (name.startswith(b"/f.conflict-two-"), data) == (True, b"B" * size)
    assert conflicts(pair) == [b"f"]


@pytest.mark.parametrize("blocks", [40, 3000])
def test_a_large_file_changed_twice_is_kept_twice_for_the_price_of_what_was_changed(
    pair: Pair, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All the rest is shared: neither loaded, which may mean to fetch it, nor written again."""
    data = os.urandom(blocks * BLOCK)
    file = put(pair.a, b"big", data)
    pair.one.sync()
    pair.two.sync()
    pair.a.write(file, 5, b"of one")
    pair.a.write(file, len(data), b"end of one")
    pair.b.write(file, 2 * BLOCK, b"of two")
    pair.b.setattr(file, Attributes(size=len(data) - BLOCK))
    loaded: list[bytes] = []
    real = State.load

    def load(state: State, key: bytes) -> bytes | None:
        loaded.append(key)
        return real(state, key)

    monkeypatch.setattr(State, "load", load)
    pair.one.sync()
    loaded.clear()
    pair.two.sync(send=False)
    contents = {block_key(pair.b.chain, file, block, 0) for block in range(blocks)}
    assert len(contents & set(loaded)) <= 4
    written = sum(len(body) for batch in pair.two.pending for _, lane, _, body in batch if lane is Lane.BLOB)
    assert written <= 4 * BLOCK
    monkeypatch.undo()
    kept = pair.meet()
    assert kept.pop(b"/big") == data[:5] + b"of one" + data[11:] + b"end of one"
    (name,) = set(kept) - {b"/f"}
    assert name.startswith(b"/big.conflict-two-")
    assert kept[name] == data[: 2 * BLOCK] + b"of two" + data[2 * BLOCK + 6 : -BLOCK]


def test_a_file_written_alike_twice_is_no_conflict(pair: Pair) -> None:
    for vault in (pair.a, pair.b):
        vault.write(number(vault, b"f"), 0, b"the same")
    assert pair.meet() == {b"/f": b"the same"}
    assert conflicts(pair) == []


def test_blocks_that_one_has_written_leave_the_others_attributes(pair: Pair) -> None:
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    pair.a.setattr(file, Attributes(mode=0o600))
    pair.a.setxattr(file, b"user.a", b"1")
    pair.b.write(file, BLOCK + 5, b"changed")
    pair.b.setattr(file, Attributes(uid=7))
    pair.b.setxattr(file, b"user.b", b"2")
    kept = pair.meet()
    assert kept[b"/big"] == BIG[: BLOCK + 5] + b"changed" + BIG[BLOCK + 12 :]
    inode = pair.a.getattr(file)
    assert (inode.mode & 0o7777, inode.uid, inode.xattrs) == (0o600, 7, {b"user.a": b"1", b"user.b": b"2"})
    assert conflicts(pair) == []


def test_theirs_wins_where_both_changed_an_attribute(pair: Pair) -> None:
    file = number(pair.a, b"f")
    pair.a.setattr(file, Attributes(mode=0o600))
    pair.b.setattr(file, Attributes(mode=0o640, gid=3))
    pair.meet()
    assert (pair.a.getattr(file).mode & 0o7777, pair.a.getattr(file).gid) == (0o600, 3)


@pytest.mark.parametrize("writer", ["a", "b"])
def test_a_file_deleted_here_and_written_there_comes_back(pair: Pair, writer: str) -> None:
    wrote, deleted = (pair.a, pair.b) if writer == "a" else (pair.b, pair.a)
    wrote.write(number(wrote, b"f"), 0, b"written")
    deleted.unlink(ROOT_INO, b"f")
    assert pair.meet() == {b"/f": b"written"}
    assert conflicts(pair) == []


@pytest.mark.parametrize("size", [4, 3 * BLOCK])
def test_a_file_deleted_by_both_or_by_one_is_gone(pair: Pair, size: int) -> None:
    big = put(pair.a, b"big", BIG[:size])
    put(pair.a, b"both", BIG[:size])
    pair.one.sync()
    pair.two.sync()
    pair.a.unlink(ROOT_INO, b"both")
    pair.b.unlink(ROOT_INO, b"both")
    pair.b.unlink(ROOT_INO, b"big")
    assert pair.meet() == {b"/f": b"base"}
    assert pair.one.chain.object_count(1) == 0  # type: ignore[arg-type]
    assert big not in pair.a._inodes._table


@pytest.mark.parametrize("remover", ["a", "b"])
def test_a_directory_removed_here_and_filled_there_comes_back(pair: Pair, remover: str) -> None:
    removed, filled = (pair.a, pair.b) if remover == "a" else (pair.b, pair.a)
    inner = filled.mkdir(number(filled, b"d"), b"inner", 0o755, ME).ino
    put(filled, b"g", b"in it", inner)
    removed.rmdir(ROOT_INO, b"d")
    assert pair.meet() == {b"/f": b"base", b"/d/inner/g": b"in it"}


def test_a_whole_tree_removed_here_and_written_there_keeps_what_was_written(pair: Pair) -> None:
    deep = pair.a.mkdir(number(pair.a, b"d"), b"deep", 0o755, ME).ino
    one, two = put(pair.a, b"one", b"1", deep), put(pair.a, b"two", b"2", deep)
    pair.one.sync()
    pair.two.sync()
    pair.a.write(one, 0, b"written")
    for name in (b"one", b"two"):
        pair.b.unlink(deep, name)
    pair.b.rmdir(number(pair.b, b"d"), b"deep")
    pair.b.rmdir(ROOT_INO, b"d")
    assert pair.meet() == {b"/f": b"base", b"/d/deep/one": b"written"}
    assert two not in pair.a._inodes._table


@pytest.mark.parametrize("writer", ["a", "b"])
def test_a_rename_here_and_a_write_there_are_both_done(pair: Pair, writer: str) -> None:
    wrote, renamed = (pair.a, pair.b) if writer == "a" else (pair.b, pair.a)
    wrote.write(number(wrote, b"f"), 0, b"written")
    renamed.rename(ROOT_INO, b"f", number(renamed, b"d"), b"g")
    assert pair.meet() == {b"/d/g": b"written"}


@pytest.mark.parametrize("deleter", ["a", "b"])
def test_a_rename_here_and_a_deletion_there_leave_the_file(pair: Pair, deleter: str) -> None:
    deleted, renamed = (pair.a, pair.b) if deleter == "a" else (pair.b, pair.a)
    deleted.unlink(ROOT_INO, b"f")
    renamed.rename(ROOT_INO, b"f", ROOT_INO, b"g")
    assert pair.meet() == {b"/g": b"base"}


def test_a_file_renamed_by_both_has_the_name_that_they_gave_it(pair: Pair) -> None:
    pair.a.rename(ROOT_INO, b"f", ROOT_INO, b"of one")
    pair.b.rename(ROOT_INO, b"f", ROOT_INO, b"of two")
    assert pair.meet() == {b"/of one": b"base"}
    assert pair.a.getattr(number(pair.a, b"of one")).nlink == 1


def test_a_file_renamed_and_written_by_both_is_kept_beside_the_name_it_has(pair: Pair) -> None:
    for vault, name in ((pair.a, b"of one"), (pair.b, b"of two")):
        vault.write(number(vault, b"f"), 0, name)
        vault.rename(ROOT_INO, b"f", ROOT_INO, name)
    kept = pair.meet()
    assert kept.pop(b"/of one") == b"of one"
    ((name, data),) = kept.items()
    assert (name.startswith(b"/of one.conflict-two-"), data) == (True, b"of two")


def test_a_file_written_by_both_deep_in_the_tree_is_found_without_a_name_to_go_by(pair: Pair) -> None:
    deep = pair.a.mkdir(number(pair.a, b"d"), b"deep", 0o755, ME).ino
    file = put(pair.a, b"file", b"base", deep)
    pair.one.sync()
    pair.two.sync()
    pair.a.write(file, 0, b"A")
    pair.b.write(file, 0, b"B")
    kept = pair.meet()
    assert {name.split(b".")[0] for name in kept} == {b"/f", b"/d/deep/file"}
    assert set(kept.values()) == {b"base", b"Aase", b"Base"}


def test_two_moves_that_would_make_a_circle_leave_theirs(pair: Pair) -> None:
    d, e = number(pair.a, b"d"), number(pair.a, b"e")
    pair.a.rename(ROOT_INO, b"d", e, b"d")
    pair.b.rename(ROOT_INO, b"e", d, b"e")
    put(pair.b, b"g", b"inside", e)
    assert pair.meet() == {b"/f": b"base", b"/e/g": b"inside"}
    assert number(pair.a, b"e/d") == d


def test_a_directory_moved_by_both_is_where_they_have_put_it(pair: Pair) -> None:
    d, e = number(pair.a, b"d"), number(pair.a, b"e")
    pair.a.rename(ROOT_INO, b"d", ROOT_INO, b"of one")
    pair.b.rename(ROOT_INO, b"d", e, b"of two")
    pair.meet()
    assert number(pair.a, b"of one") == d
    with pytest.raises(NotFoundError):
        pair.a.lookup(e, b"of two")


def test_a_directory_moved_into_one_that_was_removed_brings_it_back(pair: Pair) -> None:
    pair.a.rmdir(ROOT_INO, b"e")
    pair.b.rename(ROOT_INO, b"d", number(pair.b, b"e"), b"d")
    pair.meet()
    assert pair.a.getattr(number(pair.a, b"e/d")).is_dir


def test_a_file_replaced_here_and_written_there_is_kept_beside(pair: Pair) -> None:
    """What editors do: write a new file, and rename it over the old one."""
    pair.a.write(number(pair.a, b"f"), 0, b"in place")
    put(pair.b, b"tmp", b"replaced")
    pair.b.rename(ROOT_INO, b"tmp", ROOT_INO, b"f")
    kept = pair.meet()
    assert kept.pop(b"/f") == b"in place"
    assert list(kept.values()) == [b"replaced"]


def test_a_file_written_here_and_replaced_there_is_kept_beside(pair: Pair) -> None:
    put(pair.a, b"tmp", b"replaced")
    pair.a.rename(ROOT_INO, b"tmp", ROOT_INO, b"f")
    pair.b.write(number(pair.b, b"f"), 0, b"in place")
    kept = pair.meet()
    assert kept.pop(b"/f") == b"replaced"
    assert list(kept.values()) == [b"in place"]


def test_names_exchanged_here_stay_exchanged(pair: Pair) -> None:
    put(pair.b, b"g", b"second")
    pair.two.sync()
    pair.one.sync()
    put(pair.a, b"h", b"other")
    pair.b.rename(ROOT_INO, b"f", ROOT_INO, b"g", EXCHANGE)
    pair.b.rename(ROOT_INO, b"d", ROOT_INO, b"e", EXCHANGE)
    d = number(pair.b, b"e")
    assert pair.meet() == {b"/f": b"second", b"/g": b"base", b"/h": b"other"}
    assert number(pair.a, b"e") == d


def test_of_names_exchanged_here_one_was_moved_there(pair: Pair) -> None:
    """What mine put in its place has to go on having one name."""
    d = number(pair.a, b"d")
    pair.a.rename(ROOT_INO, b"f", ROOT_INO, b"g")
    pair.b.rename(ROOT_INO, b"f", ROOT_INO, b"d", EXCHANGE)
    assert pair.meet() == {b"/g": b"base"}
    assert number(pair.a, b"f") == d


def test_links_made_and_removed_apart_add_up(pair: Pair) -> None:
    file = number(pair.a, b"f")
    pair.a.link(file, ROOT_INO, b"of one")
    pair.b.link(file, number(pair.b, b"d"), b"of two")
    pair.b.unlink(ROOT_INO, b"f")
    assert set(pair.meet()) == {b"/of one", b"/d/of two"}
    assert pair.a.getattr(file).nlink == 2


def test_a_file_of_which_each_has_deleted_another_name_stays(pair: Pair) -> None:
    file = number(pair.a, b"f")
    pair.a.link(file, ROOT_INO, b"g")
    pair.one.sync()
    pair.two.sync()
    pair.a.unlink(ROOT_INO, b"f")
    pair.b.unlink(ROOT_INO, b"g")
    pair.b.write(file, 0, b"BASE")
    assert pair.meet() == {b"/g": b"BASE"}


def test_links_and_special_files_are_carried_over(pair: Pair) -> None:
    put(pair.a, b"a", b"first")
    pair.b.symlink(ROOT_INO, b"link", b"to somewhere", ME)
    pair.b.mknod(ROOT_INO, b"fifo", stat.S_IFIFO | 0o600, 0, ME)
    pair.b.mknod(ROOT_INO, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), ME)
    pair.meet()
    assert pair.a.readlink(number(pair.a, b"link")) == b"to somewhere"
    assert pair.a.getattr(number(pair.a, b"null")).rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO(pair.a.getattr(number(pair.a, b"fifo")).mode)


def test_sparse_and_cut_files_are_carried_over(pair: Pair) -> None:
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    put(pair.a, b"a", b"first")
    pair.b.setattr(file, Attributes(size=BLOCK + 10))
    pair.b.write(file, 200 * BLOCK, b"far away")
    pair.b.punch_hole(file, 5, 10)
    kept = pair.meet()[b"/big"]
    assert kept[: BLOCK + 10] == BIG[:5] + bytes(10) + BIG[15 : BLOCK + 10]
    assert kept[BLOCK + 10 :] == bytes(199 * BLOCK - 10) + b"far away"
    assert pair.a.getattr(file).blocks < 3 * BLOCK // 512


@pytest.mark.parametrize("copier", ["a", "b"])
def test_a_copy_made_here_and_a_write_there_are_both_there(pair: Pair, copier: str) -> None:
    """The copy shares blocks, and so does what it was made of from then on: that alone is no change of it."""
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    copied, wrote = (pair.a, pair.b) if copier == "a" else (pair.b, pair.a)
    target = put(copied, b"copy", b"")
    copied.copy_range(file, 0, target, 0, len(BIG))
    wrote.write(file, 10, b"changed")
    kept = pair.meet()
    assert kept == {b"/f": b"base", b"/copy": BIG, b"/big": BIG[:10] + b"changed" + BIG[17:]}


def test_copies_made_apart_of_one_file_that_both_delete(pair: Pair) -> None:
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    for vault, name in ((pair.a, b"of one"), (pair.b, b"of two")):
        target = put(vault, name, b"")
        vault.copy_range(file, 0, target, 0, len(BIG))
        vault.unlink(ROOT_INO, b"big")
    assert pair.meet() == {b"/f": b"base", b"/of one": BIG, b"/of two": BIG}


def test_a_file_half_deleted_there_comes_back_whole(pair: Pair) -> None:
    """What it shared and has not given back yet is no content of it any more."""
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    target = put(pair.a, b"copy", b"")
    pair.a.copy_range(file, 0, target, 0, len(BIG))
    pair.one.sync()
    pair.a.unlink(ROOT_INO, b"big")
    pair.b.setattr(file, Attributes(size=BLOCK))
    pair.b.write(file, 2 * BLOCK, b"end")
    assert pair.meet() == {b"/f": b"base", b"/copy": BIG, b"/big": BIG[:BLOCK] + bytes(BLOCK) + b"end"}


def test_what_came_back_is_whole_also_if_others_were_first_once_more(pair: Pair) -> None:
    """The blocks that had its number belong to whoever shares them; it must not take that number for its own again."""
    file = put(pair.a, b"big", BIG)
    pair.one.sync()
    pair.two.sync()
    target = put(pair.a, b"copy", b"")
    pair.a.copy_range(file, 0, target, 0, len(BIG))
    pair.a.unlink(ROOT_INO, b"big")
    pair.one.settle_down()
    pair.one.sync()
    pair.b.write(file, 10, b"changed")
    pair.two.sync(send=False)
    assert pair.b.lookup(ROOT_INO, b"big").ino == file
    put(pair.a, b"first", b"once more")
    kept = pair.meet()
    assert kept == {b"/f": b"base", b"/copy": BIG, b"/big": BIG[:10] + b"changed" + BIG[17:], b"/first": b"once more"}
    pair.a.unlink(ROOT_INO, b"copy")
    assert pair.meet()[b"/big"] == BIG[:10] + b"changed" + BIG[17:]


@pytest.mark.parametrize("first", ["one", "two"])
@pytest.mark.parametrize("size", [30, 3 * BLOCK])
def test_what_two_have_changed_and_a_third_has_deleted_comes_back_twice_also_if_it_comes_back_in_pieces(
    first: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large merge is sent in several batches, names last: in between, others see content that has no name yet."""
    pair = Pair()
    three = Replica(pair.one.server, "three")
    data = os.urandom(size)
    file = put(pair.a, b"big", data)
    for replica in (pair.one, pair.two, three):
        replica.sync()
    three.vault.unlink(ROOT_INO, b"big")
    three.settle_down()
    three.sync()
    pair.a.write(file, size, b"of one")
    pair.b.write(file, size, b"of two")
    with monkeypatch.context() as patched:
        patched.setattr(sides, "_PIECE", 1)
        pair.two.sync(send=False)
    assert len(pair.two.pending) > 1
    pair.two.send(len(pair.two.pending) - 1)
    pair.one.sync(send=first == "one")
    if first == "two":
        pair.two.send()
    kept = pair.meet()
    assert set(kept.values()) == {data + b"of one", data + b"of two"}


@pytest.mark.parametrize("change", ["rename", "link", "xattr"])
def test_a_file_half_deleted_here_stays_whole_where_they_have_done_something_with_it(pair: Pair, change: str) -> None:
    """While it gives back what it shared, it has its size and nothing else: that is not brought to what stays."""
    file = put(pair.a, b"big", BIG)
    target = put(pair.a, b"copy", b"")
    pair.a.copy_range(file, 0, target, 0, len(BIG))
    pair.one.sync()
    pair.two.sync()
    match change:
        case "rename":
            pair.a.rename(ROOT_INO, b"big", ROOT_INO, b"other", 0, caller=ME)
        case "link":
            pair.a.link(file, ROOT_INO, b"other")
        case _:
            pair.a.setxattr(file, b"user.note", b"kept", 0)
    pair.b.unlink(ROOT_INO, b"big")
    pair.b.commit()
    name = b"/big" if change == "xattr" else b"/other"
    assert pair.meet() == {b"/f": b"base", b"/copy": BIG, name: BIG}


def test_what_is_open_here_and_deleted_here_stays_until_it_is_closed(pair: Pair) -> None:
    file = number(pair.b, b"f")
    put(pair.a, b"a", b"first")
    pair.b.remember(file)
    pair.b.unlink(ROOT_INO, b"f")
    pair.b.write(file, 0, b"still")
    pair.meet()
    pair.one.settle_down()
    assert pair.b.read(file, 0, 10) == b"still"
    pair.b.forget(file)
    pair.meet()
    assert file not in {ino for ino in pair.b._inodes._table if ino == file}


def test_a_file_that_has_no_name_yet_can_get_one_afterwards(pair: Pair) -> None:
    file = pair.b.tmpfile(ROOT_INO, 0o600, ME).ino
    pair.b.remember(file)
    pair.b.write(file, 0, BIG)
    put(pair.a, b"a", b"first")
    pair.meet()
    pair.b.link(file, ROOT_INO, b"named")
    assert pair.meet()[b"/named"] == BIG


def test_two_devices_never_give_out_the_same_number(pair: Pair) -> None:
    mine = {put(pair.a, b"%d" % n, b"") for n in range(100)}
    theirs = {put(pair.b, b"x%d" % n, b"") for n in range(100)}
    assert not mine & theirs
    pair.meet()


def test_numbers_given_out_twice_by_a_copied_store_lose_nothing(pair: Pair) -> None:
    """Two machines with one store's copy are one device twice: what the second one made gets other numbers."""
    pair.two.chain.device = pair.one.chain.device
    pair.b._numbers.device = pair.one.chain.device
    pair.b._numbers._start = pair.b._numbers._next = pair.b._numbers._limit = pair.a._numbers._next
    for vault, text in ((pair.a, b"of one"), (pair.b, b"of two")):
        folder = vault.mkdir(ROOT_INO, text, 0o755, ME).ino
        put(vault, b"g", text, folder)
    assert number(pair.a, b"of one/g") == number(pair.b, b"of two/g")
    assert pair.meet() == {b"/f": b"base", b"/of one/g": b"of one", b"/of two/g": b"of two"}


def test_a_quota_does_not_keep_changes_from_being_merged(pair: Pair) -> None:
    pair.a.set_quota(100_000)
    put(pair.b, b"big", os.urandom(200_000))
    assert len(pair.meet()[b"/big"]) == 200_000


def test_a_name_that_is_too_long_for_its_conflict_is_cut(pair: Pair) -> None:
    name = b"n" * 255
    put(pair.a, name, b"of one")
    put(pair.b, name, b"of two")
    (kept,) = set(pair.meet()) - {b"/f", b"/" + name}
    assert len(kept) == 256
    assert b".conflict-two-" in kept
