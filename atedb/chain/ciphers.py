"""What sealed bodies are opened with: the ciphers of batches, found by the records that lead to the bodies."""

from __future__ import annotations

from collections.abc import Callable

from atedb.chain.apply import plaintext
from atedb.chain.batch import bound_prefix
from atedb.chain.disk import Buffer
from atedb.chain.format import encode_core
from atedb.chain.record import ABSENT, BatchKeys, Record
from atedb.crypto.aead import Cipher
from atedb.crypto.keys import KeyRing
from atedb.errors import DamagedError

_MAX = 4096

Opener = tuple[Cipher, bytes]
"""The cipher of a batch, and what its seals are bound to before the event's own core."""


class BatchCiphers(dict[tuple[int, int], Opener]):
    """(sequence, key slot) -> Opener: made when it is first asked for, which may raise DamagedError, and kept a while.

    A dictionary that fills itself (`object.__missing__`), because what is there is then found without a call.
    batch: the view's row with the keys of a batch. advice: what the error says to do when there is none.
    """

    def __init__(self, keys: KeyRing, batch: Callable[[int], bytes | None], *, advice: str = "") -> None:
        super().__init__()
        self._keys = keys
        self._batch = batch
        self._advice = advice

    def __missing__(self, place: tuple[int, int]) -> Opener:
        sequence, slot = place
        row = self._batch(sequence)
        if row is None:
            raise DamagedError(f"the keys of batch {sequence} are missing from the view{self._advice}")
        keys = BatchKeys.decode(row)
        named = keys.slots[slot]
        cipher = self._keys.open_batch_cipher(named.tenant, named.epoch, keys.salt, named.commitment)
        if len(self) >= _MAX:
            self.clear()
        found = self[place] = cipher, bound_prefix(self._keys.chain_id, named)
        return found


def open_body(key: bytes, record: Record, opener: Opener, sealed: Buffer) -> bytes:
    """The plaintext of an object's sealed body. Raises SealBrokenError; DamagedError when it cannot be decompressed."""
    version, _, _, _, length, place, slot, lane, flags, _ = record
    flags &= ~ABSENT  # which says where the body is, and is no part of the event
    cipher, bound = opener
    opened = cipher.open(place, sealed, bound + encode_core(key, version, place, length, slot, lane, flags))
    return plaintext(opened, flags)
