"""Serving in the background."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atedb.errors import ExitCode, InUseError
from atefs.mount import daemon


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
