"""What a kernel adapter is: the piece between the kernel's requests and the vault.

The driver knows adapters by this interface only, so that several can exist side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from atefs.mount.ids import Ids
    from atefs.mount.locks import SharedLocks


class KernelAdapter(Protocol):
    """Made with the vault that it serves; lives from `attach` to `detach`.

    ids: whose numbers are whose; to be set before `attach`, if not all are the same.
    """

    ids: Ids

    def attach(self, mountpoint: Path, options: frozenset[str]) -> None:
        """Mount. options: for the kernel (man 8 mount.fuse3), and what it knows by what is negotiated: `noacl`, and
        `shared` where others change the vault as well, so that the kernel must not take itself for the one who knows
        sizes and times (a write-back cache does).

        Raises NoFuseError or AteError.
        """

    def share_locks(self, locks: SharedLocks) -> bool:
        """To be called before `attach`: locks of programs count on other machines, too. False: it cannot do that."""

    async def serve(self) -> None:
        """Answer requests until the kernel has unmounted, or `stop` was called."""

    def stop(self) -> None:
        """Make `serve` return. To be called by another task of the same event loop."""

    def detach(self) -> None:
        """Give up the connection; what is still mounted is unmounted lazily."""

    def outdate(self, attributes: Iterable[int], pages: Iterable[int], entries: Iterable[tuple[int, bytes]]) -> None:
        """Have the kernel forget attributes of inodes, those with their content, and names in folders.

        In a thread, while requests are answered, and in this order: for attributes the kernel never waits; for content
        until reads that are under way have their answers; for a name until whoever has the folder lets go of it, which
        may be a program in fsync that waits for a server.
        """

    @property
    def requests(self) -> int:
        """How many requests were answered."""
