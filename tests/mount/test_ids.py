"""Whose numbers are whose: two change places, and everybody else is as they are."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atefs.mount.ids import SAME, Ids
from atefs.mount.options import ID_MAX, OptionError, parse
from atefs.vault import acl
from atefs.vault.inode import Attributes

NUMBERS = st.integers(0, 6)
PAIRS = st.none() | st.tuples(NUMBERS, NUMBERS)
IDS = st.builds(Ids, PAIRS, PAIRS)
ENTRIES = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 7), NUMBERS), max_size=6)


def packed(entries: list[tuple[int, int, int]]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@given(IDS, NUMBERS)
def test_what_is_brought_to_the_other_side_comes_back_and_no_two_become_one(ids: Ids, number: int) -> None:
    for there in (ids.user, ids.group):
        assert there(there(number)) == number
    assert sorted(map(ids.user, range(7))) == list(range(7))


@given(IDS, ENTRIES)
def test_access_control_lists_go_along(ids: Ids, entries: list[tuple[int, int, int]]) -> None:
    swapped = [
        (tag, rights, ids.user(who) if tag == acl.USER else ids.group(who) if tag == acl.GROUP else who)
        for tag, rights, who in entries
    ]
    for name in acl.NAMES:
        assert ids.xattr(name, packed(entries)) == packed(swapped)
    assert ids.xattr(b"user.name", packed(entries)) == packed(entries)
    assert ids.xattr(acl.ACCESS, packed(entries) + b"!") == packed(entries) + b"!"


def test_who_asks_and_what_chown_asks_for_have_the_vault_s_numbers() -> None:
    ids = Ids((1000, 501), (1000, 20))
    assert ids.caller(501, 20, 0o22) == (1000, 1000, 0o22)
    assert ids.caller(7, 8) == (7, 8, 0)
    assert ids.wanted(Attributes(uid=501)) == Attributes(uid=1000)
    assert ids.wanted(Attributes(gid=20, mode=0o600)) == Attributes(gid=1000, mode=0o600)
    for wanted in (Attributes(size=5), Attributes(uid=3)):
        assert SAME.wanted(wanted) is wanted
        assert ids.wanted(wanted) == wanted


def test_mount_options_name_them() -> None:
    options = parse(["uid=501,gid=20"])
    assert (options.uid, options.gid) == (501, 20)
    for wrong in ("uid=", "uid=me", f"gid={ID_MAX}", "uid=-1"):
        with pytest.raises(OptionError):
            parse([wrong])
