"""A real `atedb solo` for a test: a process of its own, on ports that the system chooses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atedb.crypto.signing import SigningKey
from atedb.net.url import ServerUrl
from tests.system.mounted import run, until

ATEDB = [sys.executable, "-m", "atedb.cli"]
_TOLD = re.compile(
    r"fingerprint of this server's key: (?P<fingerprint>[0-9a-f]{64})\n"
    r"(Serving chains on wss?://\S+:(?P<port>\d+)/db/NAME/VAULT\n)+"
    r"Health and metrics on http://127.0.0.1:(?P<http>\d+)/health"
)


class Solo:
    """A server and its data folder, which stays when the server is stopped or killed. command: how it is run."""

    command: Sequence[str] = ATEDB

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.out, self.log = folder / "solo.out", folder / "solo.log"
        self.port = self.http_port = 0
        self.fingerprint = b""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Start it and wait until clients can connect; the second time, on the same port."""
        words = [*self.command, "solo", os.fspath(self.data), f"--port={self.port}", "--http-port=0", *arguments]
        with self.out.open("wb") as out, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env={**os.environ, **(environment or {})}
            )
        until(lambda: self._told() is not None or self._process_ended(), "the server to start")
        told = self._told()
        assert told, f"the server did not start:\n{self.log.read_text()}"
        self.port, self.http_port = int(told["port"]), int(told["http"])
        self.fingerprint = bytes.fromhex(told["fingerprint"])

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it with a signal, and wait; its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(60)

    def kill(self) -> None:
        """End it as a crash would."""
        self.stop(signal.SIGKILL)

    def tenant(self, *words: str) -> str:
        """`atedb tenant …` for this server; what it printed."""
        return run(*ATEDB, "tenant", words[0], "--data", self.data, *words[1:]).stdout

    def admit(self, name: str, *keys: SigningKey, limits: Sequence[str] = ()) -> None:
        """Add a tenant with these keys."""
        self.tenant("add", name, *(f"--key={key.public.hex()}" for key in keys), *limits)

    def url(self, path: str = "/you@example.com/vault", host: str = "127.0.0.1") -> ServerUrl:
        """The address of a chain here."""
        return ServerUrl.parse(f"ws://{host}:{self.port}/db{path}")

    def page(self, path: str) -> tuple[int, str]:
        """A page of the HTTP interface: status and text."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        """What /health says."""
        found: dict[str, Any] = json.loads(self.page("/health")[1])
        return found

    def number(self, name: str) -> float:
        """One of the numbers of /metrics."""
        found = re.search(rf"^atedb_{name} (\S+)$", self.page("/metrics")[1], re.MULTILINE)
        assert found, f"there is no {name}"
        return float(found[1])

    def complaints(self) -> list[str]:
        """Lines of warning and above in its log."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if re.search(" (WARNING|ERROR|CRITICAL) |Traceback", line)]

    def clean_up(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def _told(self) -> re.Match[str] | None:
        return _TOLD.search(self.out.read_text())

    def _process_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None
