"""Verification of a chain that is stored blindly: its log, and what the engine wrote down of it. Nothing is changed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from atedb.chain.disk import Disk
from atedb.chain.header import load_header
from atedb.chain.lock import holder
from atedb.chain.recovery import Progress
from atedb.chain.report import VerifyReport
from atedb.chain.verify import verify_log
from atedb.engine.places import NAME as PLACES
from atedb.engine.places import Places
from atedb.engine.tail import load_tail
from atedb.errors import DamagedError


def verify_store(disk: Disk, store: Path, progress: Progress | None = None) -> VerifyReport:
    """Verify the chain in the folder `store`; it may be in use meanwhile.

    All hashes, signatures and links are compared; what is sealed stays so. Raises StoreNotFoundError, UnsupportedError,
    DamagedError when the header is damaged.
    """
    acknowledged = acknowledged_up_to(disk, store)
    return verify_log(store, None, data=True, progress=progress, disk=disk, stored=acknowledged)


def acknowledged_up_to(disk: Disk, store: Path) -> int:
    """The newest batch of which the engine knows that it told somebody that it was durable; a lower bound."""
    found = 0
    with contextlib.suppress(DamagedError):
        noted = load_tail(disk, store)
        found = noted.sequence if noted is not None else 0
    if holder(store) is None and PLACES in disk.names(store):
        places = Places(disk, store, load_header(disk, store).chain_id)
        try:
            found = max(found, places.durable_after(found))
        finally:
            places.close()
    return found
