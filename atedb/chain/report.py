"""What verification and repair have to say, in a form that goes into JSON as it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from atedb.errors import DamagedError, RolledBackError

MAX_NAMED = 1000
"""Objects that one piece of damage lists; the rest is counted."""

BatchRange = tuple[int, int]
"""Sequences, the first and the last."""


class Damage(msgspec.Struct):
    """Bytes of a segment that are not what was written.

    objects: keys, hexadecimal, of the objects that are known to be touched, and `more` of them that are not listed.
    missing: the batches that are not found because of it.
    """

    segment: int
    offset: int
    length: int
    why: str
    objects: list[str] = []
    more: int = 0
    missing: list[BatchRange] = []

    def name(self, keys: Sequence[bytes]) -> None:
        """Add objects that are touched."""
        room = MAX_NAMED - len(self.objects)
        self.objects += [key.hex() for key in keys[:room]]
        self.more += max(0, len(keys) - room)

    def __str__(self) -> str:
        lost = ", ".join(f"{a} to {b}" if a != b else f"{a}" for a, b in self.missing)
        return (
            f"segment {self.segment} at offset {self.offset}, {self.length} bytes: {self.why}"
            + (f"; objects {', '.join(self.objects)}" if self.objects else "")
            + (f" and {self.more} more" if self.more else "")
            + (f"; batches missing: {lost}" if lost else "")
        )


class Tail(msgspec.Struct):
    """An end of the log that no barrier covered: a batch that is being written, or that a power cut tore."""

    segment: int
    offset: int
    length: int


class VerifyReport(msgspec.Struct):
    """What `verify_log` found.

    in_use: by whom. sequence, head: of the newest batch that verifies. bodies, seals: how many were compared with
    their hash, and opened. replayed: whether the live set was compared with what each batch claims of it.
    rolled_back: why the store is older than, or another than, what this machine remembers. remarks: what opening the
    chain mends by itself.
    """

    store: str
    chain: str
    in_use: str | None = None
    segments: int = 0
    bytes: int = 0
    batches: int = 0
    events: int = 0
    bodies: int = 0
    seals: int = 0
    sequence: int = 0
    head: str = ""
    replayed: bool = False
    damage: list[Damage] = []
    tail: Tail | None = None
    rolled_back: str | None = None
    remarks: list[str] = []

    @property
    def missing(self) -> list[BatchRange]:
        """All batches that are not there."""
        return [gap for damage in self.damage for gap in damage.missing]

    def require_sound(self) -> None:
        """Raises DamagedError naming the first damage, or RolledBackError."""
        if self.damage:
            more = f" (and {len(self.damage) - 1} more places)" if len(self.damage) > 1 else ""
            raise DamagedError(
                f"{self.damage[0]}{more}; nothing was changed; salvage the rest with: atefs fsck --repair {self.store}"
            )
        if self.rolled_back:
            raise RolledBackError(self.rolled_back)


class Loss(msgspec.Struct):
    """An object whose newest version is lost. kept: the older version that was put back; None when there is none.

    what: a description of the version that was put back, when there is one.
    """

    object: str
    lane: str
    version: int
    kept: int | None = None
    what: str | None = None


class RepairReport(msgspec.Struct):
    """What `repair` did.

    found: the damage. sequence, head: of the log now. objects: live ones in the new log. losses: of the objects that
    are known; in missing batches there may have been more. moved_to: the folder that keeps the damaged log. resumed:
    an interrupted repair was completed. remarks: what was mended besides.
    """

    store: str
    found: list[Damage] = []
    sequence: int = 0
    head: str = ""
    objects: int = 0
    losses: list[Loss] = []
    missing: list[BatchRange] = []
    moved_to: str | None = None
    resumed: bool = False
    remarks: list[str] = []

    @property
    def put_back(self) -> list[Loss]:
        """Objects that are back in an older version."""
        return [loss for loss in self.losses if loss.kept is not None]

    @property
    def lost(self) -> list[Loss]:
        """Objects that are lost entirely."""
        return [loss for loss in self.losses if loss.kept is None]

    def encode(self) -> bytes:
        """For a file in the store: without the descriptions, which may only be shown."""
        silent = [msgspec.structs.replace(loss, what=None) for loss in self.losses]
        return msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(self, losses=silent)))

    @classmethod
    def decode(cls, data: bytes) -> RepairReport:
        """The report in a file."""
        return msgspec.json.decode(data, type=cls)
