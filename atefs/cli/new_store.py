"""The place of a new store: it is made beside it, and nobody finds half of one there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atedb.errors import StoreExistsError


def refuse_existing(store: Path) -> None:
    """Raise StoreExistsError unless a store can be made here."""
    if (store / "chain").exists():
        raise StoreExistsError(
            f"there is a vault in {store} already; nothing was changed; mount it: atefs mount MOUNTPOINT {store}"
        )
    if store.exists() and (not store.is_dir() or any(store.iterdir())):
        raise StoreExistsError(f"{store} is there and is not an empty folder; nothing was changed; name another folder")


@contextmanager
def made_beside(store: Path) -> Iterator[Path]:
    """The folder, beside `store` and not there yet, to make the store in: whole and durable when the block ends.

    It is moved to its place then, durably. When the block raises, nothing is left of it. Raises OSError.
    """
    from atefs.mount import places

    places.private_folder(store.parent)
    unfinished = store.with_name(f".{store.name}.new-{os.getpid()}")
    try:
        yield unfinished
        unfinished.rename(store)
        _sync_folder(store.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
