"""The commands of `atedb` that need no server, in this process: what they print, and what they end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atedb.cli.main import COMMANDS, atedb
from atedb.cli.running import run
from atedb.errors import ExitCode

KEYS = [f"{number:064x}" for number in range(1, 4)]


class Cli:
    """`atedb …`. `err`: what the last command said when it failed."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.err = ""

    def __call__(self, *arguments: str | Path, code: ExitCode = ExitCode.OK) -> str:
        self._capture.readouterr()
        ended = run(atedb, [os.fspath(word) for word in arguments], "atedb")
        out, self.err = self._capture.readouterr()
        assert ended == code, self.err
        return out


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capfd)


def listed(cli: Cli) -> dict[str, object]:
    return {one.pop("name"): one for one in json.loads(cli("tenant", "list", "--json"))}


def test_help_is_quick_and_names_every_command() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "atedb.cli", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert time.monotonic() - start < 2
    assert all(name in done.stdout for name in COMMANDS)


def test_tenants_are_added_listed_and_removed(cli: Cli) -> None:
    assert "takes anybody" in cli("tenant", "list")
    assert listed(cli) == {}
    assert "lets in tenants only" in cli("tenant", "add", "anna", "--key", KEYS[0], "--quota", "10G")
    assert cli("tenant", "add", "anna", "--key", KEYS[1]) == "The tenant anna has 2 keys, a quota of 10.0 GiB.\n"
    cli("tenant", "add", "ben", "--key", KEYS[2], "--rate", "1M", "--connections", "3")
    assert listed(cli) == {
        "anna": {"keys": KEYS[:2], "quota": 10 << 30, "rate": None, "connections": None},
        "ben": {"keys": KEYS[2:], "quota": None, "rate": 1 << 20, "connections": 3},
    }
    table = cli("tenant", "list").splitlines()
    assert table[1].split() == ["anna", "2", "10.0", "GiB", "-", "-"]
    assert cli("tenant", "remove", "anna", "--key", KEYS[1]) == "The tenant anna has one key left.\n"
    assert "chains are kept" in cli("tenant", "remove", "anna")
    cli("tenant", "remove", "ben")
    assert listed(cli) == {}
    assert "takes anybody" not in cli("tenant", "list")


def test_a_limit_is_taken_away_with_none(cli: Cli) -> None:
    cli("tenant", "add", "anna", "--quota", "5M", "--rate", "5M")
    cli("tenant", "add", "anna", "--quota", "none")
    assert listed(cli)["anna"] == {"keys": [], "quota": None, "rate": 5 << 20, "connections": None}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["add", "../x", "--key", KEYS[0]], ExitCode.USAGE),
        (["add", "anna", "--key", "abc"], ExitCode.USAGE),
        (["add", "anna", "--quota", "much"], ExitCode.USAGE),
        (["add", "anna", "--rate", "1"], ExitCode.USAGE),
        (["remove", "anna"], ExitCode.NOT_FOUND),
        (["list", "--config", "/no/such/file"], ExitCode.USAGE),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(cli: Cli, words: list[str], code: ExitCode) -> None:
    cli("tenant", *words, code=code)
    assert len(cli.err.splitlines()) >= 1
    assert listed(cli) == {}


def test_the_folder_is_the_server_s_whatever_names_it(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("tenant", "add", "anna")
    assert (home / ".local/share/atedb/tenants/anna.toml").is_file()
    monkeypatch.setenv("ATEDB_DATA", str(tmp_path / "variable"))
    cli("tenant", "add", "anna")
    assert (tmp_path / "variable/tenants/anna.toml").is_file()
    cli("tenant", "add", "anna", "--data", tmp_path / "option")
    assert (tmp_path / "option/tenants/anna.toml").is_file()


@pytest.mark.needs("root")
def test_somebody_else_s_folder_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4711)
    try:
        for words in (["add", "anna"], ["list"]):
            cli("tenant", *words, "--data", tmp_path, code=ExitCode.USAGE)
            assert "belongs to the user with the number 4711" in cli.err
        assert os.listdir(tmp_path) == []
    finally:
        os.chown(tmp_path, 0, 0)
