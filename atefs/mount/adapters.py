"""The kernel adapters by name. Each is imported only where it is used: pyfuse3 need not be there for the other one."""

from __future__ import annotations

from collections.abc import Callable

from atefs.mount.adapter import KernelAdapter
from atefs.mount.committer import Committer
from atefs.mount.reaper import Reaper
from atefs.mount.waiting import Waiting
from atefs.vault.vault import Vault

Make = Callable[[Vault, Committer, Reaper], KernelAdapter]


def choose(name: str) -> tuple[Waiting, Make]:
    """The request loop of the adapter called `name` (`options.DRIVERS`), and what makes the adapter around it."""
    if name == "direct":
        from atefs.mount.direct.adapter import DirectAdapter
        from atefs.mount.direct.session import Session

        session = Session()
        return session, lambda vault, committer, reaper: DirectAdapter(vault, committer, reaper, session)

    from atefs.mount.adapter_pyfuse3 import PyfuseAdapter
    from atefs.mount.loop import RequestLoop

    loop = RequestLoop()
    return loop, lambda vault, committer, reaper: PyfuseAdapter(vault, committer, reaper, loop)
