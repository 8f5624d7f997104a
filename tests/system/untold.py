"""`atefs` whose kernel is told nothing of others' changes while a file is there: `… tests.system.untold FILE mount …`.

The moment between a change's arrival and the kernel's hearing of it then lasts as long as a test needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from atefs.mount.direct.adapter import DirectAdapter


def _keep_quiet(adapter: Any, while_there: Path) -> None:
    tell = adapter.outdate

    def outdate(self: Any, *stale: Iterable[Any]) -> None:
        while while_there.exists():
            time.sleep(0.01)
        tell(self, *stale)

    adapter.outdate = outdate


if __name__ == "__main__":
    from atefs.cli.main import main

    file = Path(sys.argv.pop(1))
    _keep_quiet(DirectAdapter, file)
    if find_spec("pyfuse3") is not None:
        from atefs.mount.adapter_pyfuse3 import PyfuseAdapter

        _keep_quiet(PyfuseAdapter, file)
    main()
