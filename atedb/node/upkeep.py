"""Upkeep of the chains in a data folder, beside a server or without one: verified as a whole, mended one at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atedb.chain.disk import RealDisk
from atedb.chain.header import load_header
from atedb.chain.lock import ChainLock
from atedb.chain.recovery import Progress
from atedb.chain.report import VerifyReport
from atedb.engine.donors import Donor
from atedb.engine.files import chain_names, chain_store
from atedb.engine.mending import Hole, Mending
from atedb.engine.verifying import verify_store
from atedb.errors import StoreNotFoundError
from atedb.node.audit import audit
from atedb.node.data_folder import CHAINS, INDEX, require_own
from atedb.node.index import index_folder


class Stored(NamedTuple):
    """A chain: its name, its folder, and that of its index."""

    name: str
    store: Path
    indexed: Path


class Mended(NamedTuple):
    """What `repair` did. restored: the batches that were put back. left: what no copy had. kept: where the log's end is
    that was cut off."""

    restored: list[int]
    left: list[Hole]
    kept: Path | None


def stored_chains(data: Path, chain: str | None) -> list[Stored]:
    """The chain of this name, or all. Raises StoreNotFoundError, LimitError, OwnerError."""
    require_own(data)
    folder = data / CHAINS
    if not folder.is_dir():
        raise StoreNotFoundError(f"there are no chains in {data}; name the folder that atedb solo was given")
    names = chain_names(folder) if chain is None else [chain.removeprefix("/")]
    stored = [Stored(name, chain_store(folder, name), index_folder(data / INDEX, f"/{name}")) for name in names]
    for one in stored:
        if not one.store.is_dir():
            raise StoreNotFoundError(f"there is no chain {one.name} in {data}; see them all with: atedb verify {data}")
    return stored


def verify(one: Stored, progress: Progress | None = None) -> VerifyReport:
    """What is wrong with a chain: its log, and unless it is in use or damaged, its index. Nothing is changed.

    Raises DamagedError when the header is damaged, UnsupportedError.
    """
    report = verify_store(RealDisk(), one.store, progress)
    if not report.damage and report.in_use is None:
        wrong = audit(one.store, one.indexed, progress)
        if wrong is not None:
            report.remarks.append(wrong)
    return report


def repair(one: Stored, copies: Sequence[Path], *, cut: bool) -> Mended:
    """Put back what the copies have. cut: end the log in front of the first batch that none has.

    Raises InUseError, DamagedError when there is too little left to begin with, InvalidError for a copy of another
    chain, StorageError, NoSpaceError.
    """
    disk = RealDisk()
    with contextlib.ExitStack() as stack:
        stack.callback(ChainLock(one.store).release)
        chain_id = load_header(disk, one.store).chain_id
        donors = [stack.enter_context(contextlib.closing(Donor(disk, copy, chain_id))) for copy in copies]
        mending = Mending(disk, one.store, donors)
        left = mending.fill()
        kept = _cut(mending, one.store, left) if cut else None
    return Mended(mending.restored, left, kept)


def _cut(mending: Mending, store: Path, left: Sequence[Hole]) -> Path | None:
    lost = [hole for hole in left if not hole.content]
    if not lost:
        return None
    kept = store / f"damaged-{time.strftime('%Y-%m-%dT%H-%M-%S', time.gmtime())}"
    mending.cut(lost[0], kept)
    return kept
