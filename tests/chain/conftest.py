"""What the tests of the chain share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term, no_terms

if TYPE_CHECKING:
    from tests.chain.paired import Pair

ROOT = bytes(range(32))
_MEMORY = Path("/dev/shm")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a chain is to be made."""
    return tmp_path / "store"


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, and the system's temporary one, where syncing costs nothing; an ordinary one if there is none such."""
    if not _MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def chain(store: Path) -> Iterator[Chain]:
    """A new chain."""
    chain = Chain.create(store, ROOT)
    yield chain
    chain.close()


@pytest.fixture
def reopen() -> Iterator[Callable[..., Chain]]:
    """Closes a chain and opens it again; the last one is closed at the end."""
    open_now: list[Chain] = []

    def again(chain: Chain, **options: object) -> Chain:
        chain.close()
        options.setdefault("terms", no_terms)
        fresh = Chain.open(chain.store, ROOT, **options)  # type: ignore[arg-type]
        open_now[:] = [fresh]
        return fresh

    yield again
    for chain in open_now:
        chain.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two machines that follow one server."""
    from tests.chain.paired import Pair  # which imports from here

    pair = Pair(tmp_path)
    yield pair
    pair.close()


def put(chain: Chain, name: bytes, body: bytes, lane: Lane = Lane.META) -> Change:
    """A change of the object called `name`."""
    return Change(chain.object_key(b"T", name), lane, body)


def end(chain: Chain, name: bytes) -> Change:
    """The end of the object called `name`."""
    return Change(chain.object_key(b"T", name), Lane.META, b"", tombstone=True)


def term(chain: Chain, group: bytes, member: bytes, value: bytes | None) -> Term:
    """A row of the set called `group`."""
    return Term(chain.group_key(b"G", group), chain.object_key(b"T", member), value)


def crash(chain: Chain) -> None:
    """Let go of a chain as a killed process does: nothing more is written."""
    chain._release()


def noise(size: int) -> bytes:
    """Bytes that do not compress."""
    return os.urandom(size)
