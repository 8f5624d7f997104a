"""The rules that tests/conftest.py keeps are kept: a test that breaks one does fail."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parent

BREAKS = {
    "a_warning": "import warnings\ndef test(): warnings.warn('odd')",
    "a_log_line": "import logging\ndef test(): logging.getLogger('atedb').warning('odd')",
    "a_log_line_in_a_thread": "import logging, threading\ndef test():\n"
    "    thread = threading.Thread(target=logging.error, args=('odd',))\n    thread.start()\n    thread.join()",
    "an_announced_line_that_stays_away": "import pytest\n@pytest.mark.expect_log('odd')\ndef test(): pass",
    "an_exception_in_a_thread": "import threading\ndef test():\n    thread = threading.Thread(target=lambda: 1 / 0)\n"
    "    thread.start()\n    thread.join()",
    "a_file_left_open": "import gc\ndef test():\n    open('/dev/null')\n    gc.collect()",
    "a_missing_program": "import pytest\n@pytest.mark.needs('no-such-program')\ndef test(): pass",
    "an_unknown_marker": "import pytest\n@pytest.mark.lnog\ndef test(): pass",
}
KEEPS = {
    "an_announced_line": "import logging, pytest\n@pytest.mark.expect_log('^WARNING .*odd$')\ndef test():"
    " logging.getLogger('atedb').warning('odd')",
    "an_isolated_home": "import os, pathlib\ndef test(home):\n    assert pathlib.Path.home() == home\n"
    "    assert 'ATE_PASSPHRASE_FILE' not in os.environ\n    assert os.environ['ATE_HOME'].startswith(str(home))",
    "a_needed_program": "import pytest\n@pytest.mark.needs('sh')\ndef test(): pass",
}


def failures(pytester: pytest.Pytester, source: str) -> int:
    """How many outcomes other than a pass the suite's own configuration gives a test file with this source."""
    pytester.makepyprojecttoml((TESTS.parent / "pyproject.toml").read_text())
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    (pytester.path / "tests").mkdir()
    (pytester.path / "tests" / "test_it.py").write_text(source)
    outcomes = pytester.runpytest_subprocess("tests").parseoutcomes()
    return outcomes.get("failed", 0) + outcomes.get("errors", 0)


@pytest.mark.parametrize("case", BREAKS)
def test_what_breaks_a_rule_fails(pytester: pytest.Pytester, case: str) -> None:
    assert failures(pytester, BREAKS[case]) > 0


@pytest.mark.parametrize("case", KEEPS)
def test_what_keeps_the_rules_passes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setenv("ATE_PASSPHRASE_FILE", "/nowhere")
    assert failures(pytester, KEEPS[case]) == 0
