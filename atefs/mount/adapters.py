"""The kernel adapters by name. Each is imported only where it is used: pyfuse3 need not be there for the other one."""

from __future__ import annotations

import sys
from collections.abc import Callable

from atefs.mount.adapter import KernelAdapter
from atefs.mount.committer import Committer
from atefs.mount.preflight import NoFuseError
from atefs.mount.waiting import Waiting
from atefs.vault.vault import Vault

Make = Callable[[Vault, Committer], KernelAdapter]


def require(name: str) -> None:
    """Raise NoFuseError unless the adapter called `name` (`options.DRIVERS`) can be used: pyfuse3 is an extra."""
    if name == "pyfuse3":
        try:
            import pyfuse3  # noqa: F401
        except ImportError as error:  # absent, or without libfuse, which it was compiled for
            raise NoFuseError(
                f"--driver pyfuse3 needs pyfuse3, which cannot be loaded ({error}); the vault was not touched; "
                "mount without that option, or install it: apt install libfuse3-dev pkg-config gcc python3-dev; "
                f"{sys.executable} -m pip install 'atefs[pyfuse3]'"
            ) from error


def choose(name: str) -> tuple[Waiting, Make]:
    """The request loop of the adapter called `name`, and what makes the adapter around it."""
    if name == "direct":
        from atefs.mount.direct.adapter import DirectAdapter
        from atefs.mount.direct.session import Session

        session = Session()
        return session, lambda vault, committer: DirectAdapter(vault, committer, session)

    from atefs.mount.adapter_pyfuse3 import PyfuseAdapter
    from atefs.mount.loop import RequestLoop

    loop = RequestLoop()
    return loop, lambda vault, committer: PyfuseAdapter(vault, committer, loop)
