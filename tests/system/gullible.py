"""`atefs` with one protection taken away: `python -m tests.system.gullible PROTECTION mount …`. For negative twins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from atedb.chain.position import Position
from atedb.chain.replica import Replica
from atedb.crypto.slot_file import SlotTable


def _believe_tails() -> None:
    """What the server says that it has is not compared with what is here."""
    patched: Any = Replica
    patched.check_tail = lambda replica, tail: None


def _believe_acknowledgements() -> None:
    """What the server says that it has stored is not compared with what was sent."""

    def acknowledge(replica: Any, position: Position) -> None:
        known = replica.position(min(position.sequence, replica._layer.state.sequence))
        if known.sequence > replica.acked.sequence:
            replica._note.acked, replica._layer.acked = known, known.sequence

    patched: Any = Replica
    patched.acknowledge = acknowledge


def _believe_keys() -> None:
    """Key slots need not be made by somebody who has the root key."""
    patched: Any = SlotTable
    patched.verify = lambda table, root: None


PROTECTIONS: dict[str, Callable[[], None]] = {
    "tails": _believe_tails,
    "acknowledgements": _believe_acknowledgements,
    "keys": _believe_keys,
}


if __name__ == "__main__":
    from atefs.cli.main import main

    PROTECTIONS[sys.argv.pop(1)]()
    main()
