"""What holds for every test: its own home, no warning and no log line that it did not announce, no silent skip."""

from __future__ import annotations

import logging
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

DESCRIPTORS = 1024
"""What systems give a process at first: so a descriptor that somebody forgets to close is noticed anywhere."""

_MACHINE = re.compile("^tests/(system/|chain/test_(resident|flat))")
_FOLDERS = {
    "HOME": "",
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_CACHE_HOME": ".cache",
    "XDG_RUNTIME_DIR": "run",
    "ATE_HOME": "ate",
    "ATE_CONFIG": "config",
}


def pytest_configure(config: pytest.Config) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))
    for line in (
        "long: takes minutes; left out of `make test`, run by `make test-long`",
        "needs(*things): fails, and says why, where a thing is missing: 'fuse', 'root' or the name of a program",
        "expect_log(*patterns): regular expressions, each of which a log record of WARNING or above has to match",
    ):
        config.addinivalue_line("markers", line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the machine as a whole, its mounts, processes and page cache, goes on one after the other."""
    for item in items:
        if _MACHINE.search(item.nodeid):
            item.add_marker(pytest.mark.xdist_group("machine"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for thing in marker.args:
            missing = _missing(thing)
            if missing:
                pytest.fail(f"this test needs {thing}: {missing}", pytrace=False)


def _missing(thing: str) -> str:
    if thing == "root":
        return "" if os.geteuid() == 0 else "it has to be run as root"
    if thing == "fuse":
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "/dev/fuse is missing or may not be opened"
        return "" if shutil.which("fusermount3") else "fusermount3 is not installed (package fuse3)"
    return "" if shutil.which(thing) else f"the program {thing} is not installed"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder; every folder that the programs use lies in it, and no ATE_ or ATEDB_ setting leaks in."""
    folder = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("ATE_", "ATEDB_")):
            monkeypatch.delenv(name)
    for name, below in _FOLDERS.items():
        monkeypatch.setenv(name, str(folder / below))
    (folder / "run").mkdir(mode=0o700)
    return folder


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def expect_log(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Call it with a regular expression to announce a log record. Others fail, and so does one that stays away."""
    collector = _Collector()
    root = logging.getLogger()
    root.addHandler(collector)
    patterns: list[str] = [pattern for marker in request.node.iter_markers("expect_log") for pattern in marker.args]
    yield patterns.append
    root.removeHandler(collector)
    unexpected = [line for line in collector.lines if not any(re.search(pattern, line) for pattern in patterns)]
    assert not unexpected, "log lines that the test did not announce:\n" + "\n".join(unexpected)
    absent = [pattern for pattern in patterns if not any(re.search(pattern, line) for line in collector.lines)]
    assert not absent, f"announced log lines that did not come: {absent}"
