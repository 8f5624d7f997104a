"""The folder where a node keeps everything: its owner's alone, and one server's at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atedb.chain.disk import RealDisk, translated
from atedb.chain.lock import ChainLock, holder
from atedb.errors import AteError, ExitCode, InUseError

CHAINS = "chains"
INDEX = "index"


def made(data: Path, name: str) -> Path:
    """The folder `name` of a data folder, both made where they are not there. Raises StorageError."""
    disk = RealDisk()
    disk.make_folder(data)
    disk.make_folder(data / name)
    return data / name


class OwnerError(AteError):
    """The folder belongs to somebody else."""

    exit_code = ExitCode.USAGE


def require_own(data: Path) -> None:
    """Raises OwnerError for a data folder of another user: what is written there could not be read by its server."""
    try:
        owner = data.stat().st_uid
    except FileNotFoundError:
        return
    except OSError as error:
        raise translated(error, f"looking at {data}") from error
    if owner != os.geteuid():
        raise OwnerError(
            f"{data} belongs to the user with the number {owner}, and you are {os.geteuid()}; nothing was done; "
            f"do it as its owner: sudo -u '#{owner}' atedb …"
        )


@contextmanager
def held(data: Path) -> Iterator[None]:
    """The data folder, made where there is none, for this process alone.

    Raises OwnerError, InUseError while another server has it, StorageError.
    """
    require_own(data)
    RealDisk().make_folder(data)
    try:
        lock = ChainLock(data)
    except InUseError:
        raise InUseError(
            f"{data} is in use by a server, {holder(data)}; nothing was started; name another folder for this one"
        ) from None
    try:
        yield
    finally:
        lock.release()
