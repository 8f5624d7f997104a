"""The key slots of a store: every secret that opens it, in the files `keys` and `keys.copy`.

Both files hold the same text. A checksum in its last line tells damage, and the other file is used; a generation
number tells which is newer after a crash between the two writes. A keyed hash, under a key that only the root key
gives, shows a slot that was added, removed or altered by somebody else. `docs/formats.md` has the layout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from atedb.crypto.aead import random_bytes
from atedb.crypto.secret import Secret, SecretKind
from atedb.crypto.slot import MAX_LABEL, KdfParams, Slot, default_cost, idle, is_label
from atedb.crypto.slot_file import MAX_SLOTS, SlotFile, SlotTable
from atedb.errors import AteError, ExitCode, WrongSecretError

__all__ = ["MAX_SLOTS", "KdfParams", "KeySlots", "NoSuchSlotError", "Secret", "SecretKind", "SlotError", "SlotInfo"]

MIN_KEY_FILE = 32

_log = logging.getLogger(__name__)


class SlotError(AteError):
    """A change of the key slots that is refused."""

    exit_code = ExitCode.FAILED


class NoSuchSlotError(SlotError):
    """No key slot has the identifier given."""

    exit_code = ExitCode.NOT_FOUND


class SlotInfo(NamedTuple):
    """What may be shown of a slot. created: nanoseconds since 1970; memlimit: bytes."""

    id: str
    kind: SecretKind
    label: str
    created: int
    opslimit: int
    memlimit: int


class KeySlots:
    """All key slots of one store. Changes are in memory until `save`.

    unlocked_by: the slot that the last `unlock` opened. generation: counts the changes, so that whoever
    remembers it can tell an older copy put back.
    """

    def __init__(self, table: SlotTable, source: SlotFile | None, clock: Callable[[], int], mend: bool) -> None:
        self._table = table
        self._source = source
        self._clock = clock
        self._mend = mend
        self.unlocked_by: str | None = None

    @classmethod
    def create(cls, root: bytes, clock: Callable[[], int] = time.time_ns) -> KeySlots:
        """No slots yet, for a new root key of 32 bytes. clock: nanoseconds since 1970."""
        return cls(SlotTable.seal(root, 0, []), None, clock, False)

    @classmethod
    def load(cls, path: Path, clock: Callable[[], int] = time.time_ns, mend: bool = True) -> KeySlots:
        """The slots of the store folder `path`.

        mend: where one of the two files is damaged, missing or older than the other, `unlock` writes it anew (not
        before: what the root key has not vouched for is never spread). Without it nothing is ever written.
        Raises StoreNotFoundError, UnsupportedError (a newer format), DamagedError (neither file is whole),
        StorageError.
        """
        source = SlotFile(path)
        return cls(source.read(), source, clock, mend)

    @classmethod
    def parse(cls, text: bytes) -> KeySlots:
        """The slots in the bytes of their file, such as a server has them. Raises DamagedError, UnsupportedError."""
        return cls(SlotTable.parse(text, "what the server has as key slots"), None, time.time_ns, False)

    @property
    def generation(self) -> int:
        """How many changes were made since the store was created."""
        return self._table.generation

    @property
    def uneven(self) -> bool:
        """Whether one of the two files was damaged, missing or older than the other when they were read."""
        return self._source is not None and self._source.uneven

    def list(self) -> Sequence[SlotInfo]:
        """What may be shown of each slot, oldest first."""
        return [
            SlotInfo(slot.id, slot.kind, slot.label, slot.created, slot.kdf.opslimit, slot.kdf.memlimit)
            for slot in self._table.slots
        ]

    def unlock(self, secret: Secret) -> bytes:
        """The root key of 32 bytes. Takes about 0.1 s for each slot of the secret's kind, whichever fits.

        Raises WrongSecretError, in the same words and after the same work whatever the cause; DamagedError when the
        secret opens a slot but the slots were changed by somebody without the root key.
        """
        slot, root = self._find(secret)
        self._table.verify(root)
        self.unlocked_by = slot.id
        if self._mend and self._source is not None and self.uneven:
            self._mend_files(self._source)
        return root

    def rescue(self, secret: Secret) -> bytes:
        """As `unlock`, for slots that were tampered with: keeps the one slot that `secret` proves, drops the others.

        For `atefs fsck --repair`. `save` makes it last.
        """
        slot, root = self._find(secret)
        self._table = SlotTable.seal(root, self._table.generation + 1, [slot])
        self.unlocked_by = slot.id
        return root

    def add(self, root: bytes, secret: Secret, label: str, kdf: KdfParams | None = None) -> str:
        """A further secret that opens the store; the identifier of its slot.

        label: at most 64 printable characters, for the owner's eyes. kdf: another cost than the default for the kind.
        Raises SlotError (no room; a label or secret that cannot be; a secret that opens a slot already), DamagedError.
        """
        self._table.verify(root)
        if len(self._table.slots) >= MAX_SLOTS:
            raise SlotError(
                f"all {MAX_SLOTS} key slots are taken; nothing was changed; free one with `atefs key remove`"
            )
        if not is_label(label):
            raise SlotError(f"a label is at most {MAX_LABEL} printable characters; nothing was changed; shorten it")
        self._refuse(secret, self._table.slots)
        taken = {slot.id for slot in self._table.slots}
        slot_id = next(name for name in iter(lambda: random_bytes(4).hex(), "") if name not in taken)
        slot = Slot.wrap(slot_id, label, self._clock(), root=root, secret=secret, kdf=kdf or default_cost(secret.kind))
        self._change(root, [*self._table.slots, slot])
        return slot_id

    def remove(self, root: bytes, slot_id: str) -> None:
        """Take a slot away: its secret opens nothing any more. Raises NoSuchSlotError, SlotError for the last one."""
        self._table.verify(root)
        slot = self._slot(slot_id)
        if len(self._table.slots) == 1:
            raise SlotError(
                f"slot {slot_id} is the only one, and without it nobody could open the vault; nothing was changed; "
                "add another key first with `atefs key add`"
            )
        self._change(root, [other for other in self._table.slots if other is not slot])

    def replace(self, root: bytes, slot_id: str, new_secret: Secret, kdf: KdfParams | None = None) -> None:
        """Wrap the root key anew in one slot, which keeps its identifier and label: its old secret opens nothing now.

        Raises NoSuchSlotError; SlotError where the new secret is of another kind, cannot be, or opens another slot.
        """
        self._table.verify(root)
        old = self._slot(slot_id)
        if new_secret.kind is not old.kind:
            raise SlotError(
                f"slot {slot_id} holds a {old.kind} and not a {new_secret.kind}; nothing was changed; add the new key "
                "with `atefs key add` and take the old one away with `atefs key remove`"
            )
        others = [slot for slot in self._table.slots if slot is not old]
        self._refuse(new_secret, others)
        new = Slot.wrap(
            old.id, old.label, self._clock(), root=root, secret=new_secret, kdf=kdf or default_cost(old.kind)
        )
        self._change(root, [new if slot is old else slot for slot in self._table.slots])

    def save(self, path: Path) -> None:
        """Write both files in the store folder `path`, durably, the one after the other.

        A crash leaves the slots as they were before or as they are now. Raises StoreExistsError where slots that were
        created would overwrite others, InUseError where another process changed them since `load`, and
        NoSpaceError, ReadOnlyError or StorageError from the disk.
        """
        if not self._table.slots:
            raise SlotError("a vault without any key could never be opened; nothing was written; add a key first")
        if self._source is None or self._source.folder != path:
            self._source = SlotFile(path)
        self._source.write(self._table)

    def _mend_files(self, source: SlotFile) -> None:
        # The vault opens without its second copy too, so that no failure here may keep anybody out.
        try:
            source.write(self._table)
        except AteError as exc:
            _log.warning("one of the two files with the key slots is still not right: %s", exc)
        else:
            _log.info("the key slots in %s were written anew to both their files", source.folder)

    def _find(self, secret: Secret) -> tuple[Slot, bytes]:
        found: tuple[Slot, bytes] | None = None
        attempts = 0
        for slot in self._table.slots:
            if slot.kind is secret.kind:
                attempts += 1
                root = slot.unwrap(secret)
                if root is not None and found is None:
                    found = slot, root
        if not attempts:
            idle(secret)
        if found is None:
            raise WrongSecretError(
                "none of this vault's keys fits what was given; nothing was opened and nothing was changed; check for "
                "a slip and try again (the recovery code, printed when the vault was made, is taken at the same prompt)"
            )
        return found

    def _slot(self, slot_id: str) -> Slot:
        for slot in self._table.slots:
            if slot.id == slot_id:
                return slot
        raise NoSuchSlotError(
            f"there is no key slot {slot_id!r}; nothing was changed; `atefs key list` shows those there are"
        )

    def _refuse(self, secret: Secret, others: Sequence[Slot]) -> None:
        """One secret in two slots would open one after the other was changed; so it gets one only."""
        if not len(secret):
            raise SlotError(f"an empty {secret.kind} protects nothing; nothing was changed; choose another")
        if secret.kind is SecretKind.KEY_FILE and len(secret) < MIN_KEY_FILE:
            raise SlotError(
                f"a key file of {len(secret)} bytes can be guessed; nothing was changed; make one with "
                f"`head -c {MIN_KEY_FILE} /dev/urandom`"
            )
        for slot in others:
            if slot.kind is secret.kind and slot.unwrap(secret) is not None:
                raise SlotError(
                    f"this {secret.kind} opens slot {slot.id} already; nothing was changed; choose another one"
                )

    def _change(self, root: bytes, slots: Sequence[Slot]) -> None:
        self._table = SlotTable.seal(root, self._table.generation + 1, slots)
