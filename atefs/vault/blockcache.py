"""Content that was read lately, bounded by bytes."""

from __future__ import annotations

from collections import OrderedDict

ContentKey = int | tuple[int, int]
"""An inode number for inline content, (inode, block) for a block as its objects give it."""
_OVERHEAD = 200


class BlockCache:
    """Least recently used goes first. limit: bytes, with what Python needs to hold them."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit
        self._held: OrderedDict[ContentKey, bytes] = OrderedDict()

    def get(self, key: ContentKey) -> bytes | None:
        body = self._held.get(key)
        if body is not None:
            self._held.move_to_end(key)
        return body

    def put(self, key: ContentKey, body: bytes) -> None:
        self.drop(key)
        self._held[key] = body
        self.bytes += len(body) + _OVERHEAD
        while self.bytes > self._limit:
            self.bytes -= len(self._held.popitem(last=False)[1]) + _OVERHEAD

    def forget(self, numbers: set[int]) -> None:
        """Drop all that was kept of these inodes and contents."""
        if numbers:
            for key in [key for key in self._held if (key if isinstance(key, int) else key[0]) in numbers]:
                self.drop(key)

    def drop(self, key: ContentKey) -> None:
        body = self._held.pop(key, None)
        if body is not None:
            self.bytes -= len(body) + _OVERHEAD
