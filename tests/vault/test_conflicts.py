"""Deciding conflicts: what is listed, what keeping and dropping do, and when one is settled by itself."""

from __future__ import annotations

import pytest

from atefs.errors import NotEmptyError, NotFoundError
from atefs.vault.conflicts import Conflict, list_conflicts, resolve
from atefs.vault.limits import ROOT_INO
from atefs.vault.vault import Vault
from tests.vault.conftest import ME
from tests.vault.replicas import Replica, Server, contents
from tests.vault.test_merge import Pair, number, put


@pytest.fixture
def pair() -> Pair:
    """Both devices, with one conflict between them: /f."""
    pair = Pair()
    put(pair.a, b"f", b"of one")
    put(pair.b, b"f", b"of two")
    pair.meet()
    return pair


def only(vault: Vault) -> Conflict:
    (conflict,) = list_conflicts(vault)
    return conflict


def names(vault: Vault) -> dict[bytes, bytes]:
    return {path: data for path, (_, data) in contents(vault).items()}


def test_both_devices_list_it(pair: Pair) -> None:
    conflict = only(pair.a)
    assert conflict == only(pair.b)
    assert (conflict.origin_name, conflict.device, conflict.content) == (b"f", "two", False)
    assert number(pair.a, conflict.name) == conflict.ino


def test_kept_it_takes_the_name(pair: Pair) -> None:
    resolve(pair.a, only(pair.a), keep=True)
    assert list_conflicts(pair.a) == []
    assert pair.meet() == {b"/f": b"of two"}
    assert list_conflicts(pair.b) == []


def test_dropped_it_is_deleted(pair: Pair) -> None:
    resolve(pair.b, only(pair.b), keep=False)
    assert pair.meet() == {b"/f": b"of one"}
    assert list_conflicts(pair.a) == []
    assert pair.a.conflicts.all() == []


def test_it_can_be_decided_once(pair: Pair) -> None:
    conflict = only(pair.a)
    resolve(pair.a, conflict, keep=False)
    with pytest.raises(NotFoundError):
        resolve(pair.a, conflict, keep=True)


def test_one_decided_on_each_device_loses_nothing(pair: Pair) -> None:
    resolve(pair.a, only(pair.a), keep=True)
    resolve(pair.b, only(pair.b), keep=False)
    assert set(pair.meet().values()) == {b"of two"}
    assert list_conflicts(pair.a) == []


def test_renamed_or_deleted_by_hand_it_is_settled(pair: Pair) -> None:
    pair.a.rename(ROOT_INO, only(pair.a).name, ROOT_INO, b"both")
    assert list_conflicts(pair.a) == []
    assert pair.meet() == {b"/f": b"of one", b"/both": b"of two"}
    assert list_conflicts(pair.b) == []


@pytest.mark.parametrize("who", ["one", "two"])
def test_dropped_here_and_written_there_it_is_listed_again(pair: Pair, who: str) -> None:
    conflict = only(pair.a)
    dropping, writing = (pair.a, pair.b) if who == "one" else (pair.b, pair.a)
    resolve(dropping, conflict, keep=False)
    writing.write(conflict.ino, 0, b"OF")
    assert pair.meet() == {b"/f": b"of one", b"/" + conflict.name: b"OF two"}
    assert only(pair.a) == only(pair.b) == conflict


def test_kept_instead_of_what_was_kept_beside_before_that_conflict_is_open_still(pair: Pair) -> None:
    outer = only(pair.a)
    pair.a.write(outer.ino, 0, b"ONE")
    pair.b.write(outer.ino, 0, b"TWO")
    pair.meet()
    (inner,) = [conflict for conflict in list_conflicts(pair.b) if conflict.origin_name == outer.name]
    resolve(pair.b, inner, keep=True)
    assert [(conflict.name, conflict.ino) for conflict in list_conflicts(pair.b)] == [(outer.name, inner.ino)]
    put(pair.a, b"g", b"later")
    pair.meet()
    resolve(pair.a, only(pair.a), keep=True)
    assert pair.meet()[b"/f"] == b"TWOtwo"
    assert list_conflicts(pair.b) == []


def test_one_that_is_pending_is_listed_when_what_was_kept_gets_another_number() -> None:
    """Because two devices have brought back the same file, each by itself."""
    server = Server()
    one, two, three = (Replica(server, name) for name in ("one", "two", "three"))
    ino = put(one.vault, b"f", b"base")
    for replica in (one, two, three):
        replica.sync()
    put(one.vault, b"g", b"another")
    one.vault.rename(ROOT_INO, b"g", ROOT_INO, b"f")
    one.sync()
    two.vault.write(ino, 0, b"BASE")
    two.sync(send=False)
    three.vault.link(ino, ROOT_INO, b"h")
    for replica in (three, two, one, three):
        replica.sync()
        replica.check()
    conflict = only(one.vault)
    assert conflict.ino != ino
    assert names(one.vault) == {b"/f": b"another", b"/h": b"base", b"/" + conflict.name: b"BASE"}


def test_a_folder_with_something_in_it_is_not_dropped() -> None:
    pair = Pair()
    for vault in (pair.a, pair.b):
        put(vault, b"in", b"it", vault.mkdir(ROOT_INO, b"d", 0o755, ME).ino)
    pair.meet()
    for keep in (True, False):
        with pytest.raises(NotEmptyError):
            resolve(pair.a, only(pair.a), keep=keep)
    assert len(names(pair.a)) == 2


def test_a_conflict_that_was_not_sent_yet_outlives_the_next_merge() -> None:
    pair = Pair()
    put(pair.a, b"f", b"of one")
    put(pair.b, b"f", b"of two")
    pair.one.sync()
    pair.two.sync(send=False)
    put(pair.a, b"g", b"later")
    assert len(pair.meet()) == 3
    assert only(pair.a).origin_name == b"f"
