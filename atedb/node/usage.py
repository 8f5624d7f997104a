"""What each tenant's chains store on this node: the first part of a chain's path names its tenant."""

from __future__ import annotations

from atedb.errors import QuotaError

_RESERVE_SHARE = 64
_RESERVE_LEAST, _RESERVE_MOST = 1 << 20, 64 << 20


def tenant_of(path: str) -> str:
    """The tenant that a path belongs to."""
    return path.strip("/").split("/", 1)[0]


class Usage:
    """Stored bytes by chain and by tenant."""

    def __init__(self) -> None:
        self._chains: dict[str, int] = {}
        self._tenants: dict[str, int] = {}

    def set(self, path: str, stored: int) -> None:
        """The chain at a path stores so many bytes."""
        tenant = tenant_of(path)
        self._tenants[tenant] = self._tenants.get(tenant, 0) + stored - self._chains.get(path, 0)
        self._chains[path] = stored

    def add(self, path: str, size: int) -> None:
        """The chain at a path stores so many bytes more."""
        self.set(path, self._chains.get(path, 0) + size)

    def stored(self, path: str) -> int:
        """Bytes of one chain."""
        return self._chains.get(path, 0)

    def used(self, tenant: str) -> int:
        """Bytes of all chains of a tenant."""
        return self._tenants.get(tenant, 0)

    @property
    def total(self) -> int:
        """Bytes of all chains."""
        return sum(self._tenants.values())

    def require(self, path: str, size: int, quota: int | None, *, shrinks: bool) -> None:
        """Raises QuotaError unless the tenant of a path may store `size` bytes more.

        shrinks: fewer bytes are live afterwards. Deleting adds to a log like all else, so what deletes may go a little
        beyond the quota: 1/64 of it, but 1 to 64 MiB.
        """
        if quota is None:
            return
        room = quota - self.used(tenant_of(path))
        if shrinks:
            room += min(max(quota // _RESERVE_SHARE, _RESERVE_LEAST), _RESERVE_MOST)
        if size > room:
            raise QuotaError(f"the quota of {quota} bytes is used up; nothing was added; delete something")
