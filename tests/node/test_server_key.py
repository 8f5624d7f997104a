"""The server's key is made once, is nobody else's, and is never replaced by a new one behind people's backs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from atedb.errors import DamagedError
from atedb.node.server_key import NAME, load_or_make


def test_the_key_stays_the_same(tmp_path: Path) -> None:
    first = load_or_make(tmp_path)
    again = load_or_make(tmp_path)
    assert (first.private, first.fingerprint) == (again.private, again.fingerprint)
    other = tmp_path / "other"
    other.mkdir()
    assert load_or_make(other).fingerprint != first.fingerprint


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    load_or_make(tmp_path)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_could_have_read_is_not_used(tmp_path: Path, mode: int) -> None:
    load_or_make(tmp_path)
    (tmp_path / NAME).chmod(mode)
    with pytest.raises(DamagedError, match="others"):
        load_or_make(tmp_path)


def test_every_change_is_noticed_and_nothing_is_made_anew(tmp_path: Path) -> None:
    key = load_or_make(tmp_path)
    path = tmp_path / NAME
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        for bad in (good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :], good[:place]):
            path.write_bytes(bad)
            with pytest.raises(DamagedError, match="not what was written"):
                load_or_make(tmp_path)
            assert path.read_bytes() == bad
    path.write_bytes(good)
    assert load_or_make(tmp_path).private == key.private
