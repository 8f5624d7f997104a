"""Inode numbers: each device has a range of its own, so that no two ever give out the same one apart."""

from __future__ import annotations

from atedb.chain.event import Change
from atedb.crypto.aead import random_bytes
from atefs.vault.codec import Keys, NumbersRecord, decode_numbers, numbers_change, numbers_key
from atefs.vault.limits import INO_RANGE
from atefs.vault.objects import Objects

_LOWEST = 2**40
"""Below lie the numbers that vaults gave out in order before there were ranges."""


class Numbers:
    """Gives out numbers that nobody ever had. dirty: what is reserved has to go out with the next commit.

    A device's range starts at random among 2^62 numbers and is never left: two ranges meet only where one has grown by
    as many numbers as lie between their starts.
    """

    def __init__(self, objects: Objects) -> None:
        self.dirty = False
        self.device = objects.log.device
        self._start = self._next = self._limit = 0
        self.load(objects)

    @property
    def keeper(self) -> int:
        """How inodes without a name say that this device keeps them; 0: one that changes nothing."""
        return int.from_bytes(self.device[:8], "little") >> 1

    def load(self, objects: Objects) -> None:
        """Go on after all that the chain says is reserved."""
        body = objects.load(numbers_key(objects.log, self.device)) if self.device else None
        if body is not None:
            record = decode_numbers(body)
            if (record.start, record.limit) != (self._start, self._limit):
                self._start, self._next, self._limit = record.start, record.limit, record.limit

    def follow(self, other: Numbers) -> None:
        """Go on after all that `other`, an earlier or later state of the same, has reserved."""
        self._start = self._start or other._start
        self._next = self._limit = max(self._limit, other._limit)
        self.dirty = self._start > 0

    def allocate(self) -> int:
        """A number that no inode and no content ever had; reserved by the commit that first uses it. Loads nothing."""
        number = self._next
        if number >= self._limit:
            if not self._start:
                self._start = number = self._next = random_start()
            self._limit = number + INO_RANGE
            self.dirty = True
        self._next = number + 1
        return number

    def change(self, keys: Keys) -> Change:
        """What has to be committed before a number is used."""
        self.dirty = False
        return numbers_change(keys, NumbersRecord(self.device, self._start, self._limit))


def random_start() -> int:
    """Where a new range begins."""
    return _LOWEST + (int.from_bytes(random_bytes(8), "little") >> 2)
