"""`python -m tests.fuzz TARGET [options of libFuzzer]`: look for bytes that a target does not bear, for ever.

With atheris, which is not among the requirements of the tests (pip install atheris). What is found is left in a file,
as libFuzzer does; give that file as an option to see it again. -max_total_time=300 ends it after five minutes.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(words: list[str]) -> None:
    """Fuzz one target."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["atedb"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    if len(words) < 2 or words[1] not in TARGETS:
        sys.exit(f"Usage: python -m tests.fuzz {'|'.join(TARGETS)} [options of libFuzzer]")
    name = words[1]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[name]):
            Path(folder, str(number)).write_bytes(seed)
        atheris.Setup([words[0], *words[2:], folder], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
