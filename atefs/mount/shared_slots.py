"""The key slots of a vault that several machines have: the newest change of them goes to the server and to all others.

A keyed hash under the vault's root key covers them, so that a server can neither add a key nor alter one. Which table
is newer is told by its generation.
"""

from __future__ import annotations

import logging
from pathlib import Path

from atedb.crypto.slot_file import SlotFile, SlotTable
from atedb.errors import AteError, StaleDocumentError
from atedb.net.client import ServerConnection
from atedb.net.errors import ConnectionLostError

log = logging.getLogger(__name__)

SLOTS = "keys"
"""The file in a store, and the document of a chain on a server."""


class SharedSlots:
    """Those of one store. root: the vault's root key."""

    def __init__(self, store: Path, root: bytes) -> None:
        self._store = store
        self._root = root
        self._agreed = 0

    @property
    def changed(self) -> bool:
        """Whether the file was written since the server was asked last."""
        return (self._store / SLOTS).stat().st_mtime_ns != self._agreed

    async def agree(self, connection: ServerConnection) -> None:
        """Take the server's slots if they are newer, give it ours if those are. What is wrong with its own is logged.

        Raises ConnectionLostError.
        """
        self._agreed = (self._store / SLOTS).stat().st_mtime_ns
        try:
            await self._compare(connection)
        except StaleDocumentError:
            self._agreed = 0  # somebody else was quicker: look again
        except ConnectionLostError:
            raise
        except AteError as error:
            log.warning("the key slots that the server has stay as they are: %s", error)

    async def _compare(self, connection: ServerConnection) -> None:
        file = SlotFile(self._store)
        mine = file.read()
        mine.verify(self._root)
        text, generation = await connection.document(SLOTS)
        theirs = SlotTable.parse(text, "what the server has as key slots")
        theirs.verify(self._root)
        if theirs.generation > mine.generation:
            file.write(theirs)
            log.info("the keys that open the vault were changed on another machine")
        elif theirs.generation < mine.generation:
            await connection.put_document(SLOTS, mine.text, generation)
        elif theirs.text != mine.text:
            log.warning("the keys that open the vault were changed on two machines apart; those of each stay there")
