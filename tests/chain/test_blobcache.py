"""The cache of fetched bodies: it stays within its limit, lets go of the oldest, and keeps what is pinned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atedb.chain.blobcache import BlobCache, Wanted
from atedb.errors import NotResident
from tests.chain.conftest import noise

BODY = 4096


def wanted(number: int) -> Wanted:
    return Wanted(number, number % 3)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fresh(cache: BlobCache) -> BlobCache:
    """The same folder, as the next process finds it."""
    return BlobCache(cache.folder, cache.limit)


def test_what_was_put_is_got_by_this_process_and_the_next(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs", 1 << 20)
    bodies = {wanted(i): noise(100 + i) for i in range(20)}
    for place, body in bodies.items():
        assert cache.get(place, len(body), nowait=False) is None
        cache.put(place, body)
    for one in (cache, fresh(cache)):
        assert {place: one.get(place, len(body), nowait=False) for place, body in bodies.items()} == bodies
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "blobs").rglob("*"))


def test_the_limit_is_kept_and_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs", 10 * BODY)
    for i in range(10):
        cache.put(wanted(i), noise(BODY))
        os.utime(cache._path(wanted(i)), (i, i))
    cache = fresh(cache)
    cache.get(wanted(0), BODY, nowait=False)  # an old one, used again
    for i in range(10, 15):
        cache.put(wanted(i), noise(BODY))
    assert on_disk(cache.folder) == cache.bytes == 10 * BODY
    left = [i for i in range(15) if fresh(cache).has(wanted(i))]
    assert left == [0, *range(6, 15)]


def test_with_no_room_at_all_what_was_just_fetched_is_there_to_be_used(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs", 0)
    body = noise(BODY)
    cache.put(wanted(1), body)
    assert cache.get(wanted(1), BODY, nowait=True) == body
    assert on_disk(cache.folder) == 0


def test_what_is_pinned_stays_and_does_not_count(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs", 3 * BODY)
    cache.put(wanted(1), b"1" * BODY)
    assert cache.pin([wanted(1), wanted(2)]) == [wanted(2)]
    cache.put(wanted(2), b"2" * BODY, pinned=True)
    for i in range(10, 20):
        cache.put(wanted(i), noise(BODY))
    again = fresh(cache)
    assert again.bytes == 3 * BODY
    assert sorted(again.pinned()) == [wanted(1), wanted(2)]
    assert again.get(wanted(1), BODY, nowait=False) == b"1" * BODY
    again.unpin([wanted(1), wanted(2)])
    for i in range(20, 30):
        again.put(wanted(i), noise(BODY))
    assert not fresh(again).has(wanted(1))
    assert on_disk(again.folder) == 3 * BODY


def test_a_body_of_another_length_is_not_given(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "blobs", 1 << 20)
    cache.put(wanted(1), noise(BODY))
    assert fresh(cache).get(wanted(1), BODY + 1, nowait=False) is None
    cache.discard(wanted(1))
    assert not cache.has(wanted(1))
    assert cache.bytes == 0


def test_a_body_that_is_not_in_memory_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlobCache(tmp_path / "blobs", 1 << 20)
    cache.put(wanted(1), noise(BODY))

    def blocked(fd: int, buffers: object, offset: int, flags: int = 0) -> int:
        raise BlockingIOError if flags & os.RWF_NOWAIT else AssertionError

    monkeypatch.setattr(os, "preadv", blocked)
    with pytest.raises(NotResident):
        fresh(cache).get(wanted(1), BODY, nowait=True)


def test_a_disk_without_room_costs_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no room")

    cache = BlobCache(tmp_path / "blobs", 1 << 20)
    monkeypatch.setattr(Path, "replace", full)
    cache.put(wanted(1), b"1" * BODY)
    assert cache.get(wanted(1), BODY, nowait=False) == b"1" * BODY
    monkeypatch.undo()
    assert fresh(cache).get(wanted(1), BODY, nowait=False) is None
