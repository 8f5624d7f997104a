"""Where a daemon's log lines go."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MAX_BYTES = 4 << 20


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating log that others may not read."""

    def _open(self):  # type: ignore[no-untyped-def]
        fd = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(fd, self.mode, encoding=self.encoding)


def to_file(path: Path, *, debug: bool = False) -> None:
    """Log to a file, of which one older part is kept. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _install(_PrivateFile(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8"), debug)


def to_stderr(*, debug: bool = False) -> None:
    """Log to the terminal or the service manager."""
    _install(logging.StreamHandler(sys.stderr), debug)


def _install(handler: logging.Handler, debug: bool) -> None:
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for ours in ("atefs", "atedb"):
        logging.getLogger(ours).setLevel(logging.DEBUG if debug else logging.INFO)
