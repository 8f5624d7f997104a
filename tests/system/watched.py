"""`atefs` that notes the size of each write request in a file, a line each: `… tests.system.watched FILE mount …`."""

from __future__ import annotations

import sys
from pathlib import Path

from atefs.mount.direct.files import Files
from atefs.mount.direct.protocol import BODY, WRITE_IN
from atefs.mount.direct.request import Request


def _note_writes(log: Path) -> None:
    write = Files.write

    def noted(self: Files, request: Request) -> bytes:
        with log.open("a") as lines:
            lines.write(f"{len(request.data) - BODY - WRITE_IN.size}\n")
        return write(self, request)

    Files.write = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    from atefs.cli.main import main

    _note_writes(Path(sys.argv.pop(1)))
    main()
