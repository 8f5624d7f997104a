"""The server's certificate, for clients that come by TLS: loaded at the start, and anew when its files have changed."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

import trio

from atedb import threads
from atedb.node.config import Config, ConfigError

LOOK_SECONDS = 5.0

log = logging.getLogger(__name__)

Mark = tuple[tuple[int, int, int], ...]
"""What tells the files from what they were."""


class ServerCertificate:
    """The certificate and key in `files`, which are one file or two, in PEM; the certificates of those who vouch for it
    follow its own. Raises ConfigError. context: for the next connection.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._certificate = certificate
        self._key = key or certificate
        self._mark = self._look()
        self.context = self._load()

    @classmethod
    def of(cls, config: Config) -> ServerCertificate | None:
        """The one that the settings name; None for a server without TLS. Raises ConfigError."""
        if config.tls_certificate is None:
            if config.tls_key is not None:
                raise ConfigError(
                    "tls_key is set and tls_certificate is not; nothing was started; set both, or neither"
                )
            return None
        try:
            return cls(config.tls_certificate, config.tls_key)
        except ConfigError as error:
            raise ConfigError(f"{error}; nothing was started") from None

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """`renew` for ever. A service; see `supervisor`."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_SECONDS)
            await threads.run(self.renew)

    def renew(self) -> None:
        """Take over files that have changed; while they are not a certificate and its key, the former ones stay."""
        mark = self._look()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self.context = self._load()
        except ConfigError as error:
            log.warning("the former certificate stays in use: %s", error)
            return
        log.info("the certificate in %s has changed; the next connections get the new one", self._certificate)

    def _look(self) -> Mark:
        marks = []
        for path in (self._certificate, self._key):
            try:
                about = os.stat(path)
                marks.append((about.st_ino, about.st_mtime_ns, about.st_size))
            except OSError:
                marks.append((0, 0, 0))
        return tuple(marks)

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_none)
        except ssl.SSLError as error:
            why: object = error.reason or error
        except OSError as error:
            why = error.strerror
        except ValueError as error:
            why = error
        else:
            return context
        files = dict.fromkeys((str(self._certificate), str(self._key)))
        raise ConfigError(f"there is no certificate with its key in {' and '.join(files)}: {why}")


def _none() -> str:
    """Nobody is there to be asked for a passphrase."""
    raise ValueError("the key is locked with a passphrase")
