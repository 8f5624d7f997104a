"""The server's long-lived key in `DATA/server.key`. Clients know the server by it: it is made once, and never anew."""

from __future__ import annotations

import re
from pathlib import Path

from atedb.chain.disk import RealDisk, translated
from atedb.crypto.hashing import digest
from atedb.crypto.kem import KEM_PRIVATE_SIZE, KemKey
from atedb.errors import DamagedError

NAME = "server.key"
_FORMAT = "atedb server key 1"
_TEXT = re.compile(rf"{_FORMAT}\n([0-9a-f]{{{2 * KEM_PRIVATE_SIZE}}})\n([0-9a-f]{{64}})\n")


def load_or_make(data: Path) -> KemKey:
    """The key of the server whose data folder this is; the first time, a new one, durable on return.

    Raises DamagedError for a file that is not what was written, or that others may read; StorageError.
    """
    path, disk = data / NAME, RealDisk()
    try:
        about = path.stat()
    except FileNotFoundError:
        key = KemKey.generate()
        text = f"{_FORMAT}\n{key.private.hex()}\n{digest(key.private).hex()}\n"
        disk.replace(path, text.encode())
        return key
    except OSError as error:
        raise translated(error, f"looking for {path}") from error
    if about.st_mode & 0o077:
        raise DamagedError(
            f"{path} could be read or written by others, so that the server's key may be known; nothing was started; "
            f"if nobody had it: chmod 600 {path}"
        )
    found = _TEXT.fullmatch(disk.read_bytes(path).decode("ascii", "replace"))
    if found and digest(bytes.fromhex(found[1])).hex() == found[2]:
        return KemKey(bytes.fromhex(found[1]))
    raise DamagedError(
        f"{path} is not what was written; nothing was started; put it back from a copy. Without one remove the file: "
        "a new key is made, and every client has to be told its fingerprint"
    )
