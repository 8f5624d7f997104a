"""Service manager, log files, daemon."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from atedb.errors import ExitCode, InUseError
from atefs.mount import daemon, logs
from atefs.mount.notify import notify


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@abstract-and-absent"])
def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level = before[0], before[1]


def test_a_log_file_is_private(tmp_path: Path, root_logger: logging.Logger) -> None:
    path = tmp_path / "log" / "driver.log"
    logs.to_file(path)
    logging.getLogger("atefs.test").info("a line")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_text().endswith("INFO atefs.test: a line\n")
    assert root_logger.handlers


def pid_and_end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_parent_returns_when_the_child_is_ready(tmp_path: Path) -> None:
    def serve(report: daemon.Report) -> ExitCode:
        report.progress(1, 2)
        report.ready()
        return ExitCode.BUSY

    seen: list[tuple[int, int]] = []
    pid = daemon.in_background(serve, tmp_path / "log", lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2)]
    assert pid_and_end(pid) == ExitCode.BUSY


def test_what_the_child_refuses_the_parent_says(tmp_path: Path) -> None:
    def serve(report: daemon.Report) -> ExitCode:
        raise InUseError("somebody has it")

    with pytest.raises(daemon.DriverFailedError, match="somebody has it") as failed:
        daemon.in_background(serve, tmp_path / "log")
    assert failed.value.exit_code == ExitCode.IN_USE


def test_a_child_that_dies_without_a_word_is_noticed(tmp_path: Path) -> None:
    def serve(report: daemon.Report) -> ExitCode:
        os._exit(9)

    with pytest.raises(daemon.DriverFailedError, match="ended before it was ready"):
        daemon.in_background(serve, tmp_path / "log")


def test_a_defect_in_the_child_goes_to_the_log(tmp_path: Path) -> None:
    def serve(report: daemon.Report) -> ExitCode:
        raise ZeroDivisionError("a defect")

    with pytest.raises(daemon.DriverFailedError, match="a defect"):
        daemon.in_background(serve, tmp_path / "log")
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()
