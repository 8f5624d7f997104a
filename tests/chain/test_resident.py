"""Reads that would wait for the disk say so instead, and succeed once what they lack has been fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane
from atedb.chain.log import segment_path
from atedb.errors import NotResident
from tests.chain.conftest import ROOT, noise


def forget_pages(path: Path) -> None:
    """Drop a file's pages from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.fixture
def cold(store: Path) -> Chain:
    chain = Chain.create(store, ROOT)
    body = noise(100_000)
    chain.commit([Change(chain.object_key(b"T", b"a"), Lane.BLOB, body)])
    chain.close()
    forget_pages(segment_path(store, 1))
    return Chain.open(store, ROOT)


def test_a_read_that_would_wait_raises_and_succeeds_after_the_fetch(cold: Chain) -> None:
    key = cold.object_key(b"T", b"a")
    with cold.nonblocking():
        with pytest.raises(NotResident) as absent:
            cold.load(key)
        absent.value.fetch()
        body = cold.load(key)
    assert body is not None
    assert len(body) == 100_000
    cold.close()


def test_without_asking_for_it_a_read_waits(cold: Chain) -> None:
    assert cold.load(cold.object_key(b"T", b"a")) is not None
    cold.close()
