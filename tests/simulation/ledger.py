"""What has to be found in the end: each text that was written, with how safe it was made and who has deleted it."""

from __future__ import annotations

from collections import defaultdict
from enum import IntEnum


class Safety(IntEnum):
    """Of one text, since the machine that wrote it has said so."""

    IN_MEMORY = 0
    HERE = 1
    ON_SERVER = 2


class Ledger:
    """Of one history.

    A text that somebody's operation ended may be gone. Of the others, those that were synced are there whatever
    happens to their machine's power, those that a server acknowledged whatever happens to the machine, and all of them
    where nothing has happened to it.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self._count = 0
        self._safety: dict[bytes, Safety] = {}
        self._writer: dict[bytes, str] = {}
        self._deleted: defaultdict[str, set[bytes]] = defaultdict(set)

    def begin_with(self, before: Ledger) -> None:
        """All that another one names is on the server, and on every machine."""
        self._count = before._count
        self._safety = dict.fromkeys(before._safety, Safety.ON_SERVER)
        self._writer = dict.fromkeys(before._safety, "somebody before")

    def text(self) -> bytes:
        """One that was never written before."""
        self._count += 1
        return b"<%010d>" % self._count

    def written(self, machine: str, text: bytes) -> None:
        """It is in a file that has a name."""
        self._safety[text] = Safety.IN_MEMORY
        self._writer[text] = machine

    def deleted(self, machine: str, texts: set[bytes]) -> None:
        """An operation on this machine has ended them."""
        self._deleted[machine] |= texts

    def of(self, machine: str) -> list[bytes]:
        """What a sync now would have to make safe."""
        return [text for text, writer in self._writer.items() if writer == machine]

    def synced(self, texts: list[bytes], safety: Safety) -> None:
        """A sync has returned that these were written before."""
        for text in texts:
            if text in self._safety:
                self._safety[text] = max(self._safety[text], safety)

    def burnt(self, machine: str) -> None:
        """The machine's disk is lost."""
        for text in self.of(machine):
            if self._safety[text] < Safety.ON_SERVER:
                del self._safety[text], self._writer[text]

    def came_back(self, machine: str, seen: set[bytes], *, whole: bool) -> None:
        """A machine was killed and has begun anew, and shows these texts.

        whole: it has had all that the server had, since its disk was lost last.
        """
        if whole:
            # What it deleted and shows again was not deleted after all.
            self._deleted[machine] -= seen
        for text in self.of(machine):
            if text in seen:
                self._safety[text] = max(self._safety[text], Safety.HERE)
            elif self._safety[text] is Safety.IN_MEMORY:
                del self._safety[text], self._writer[text]
            elif whole and not self._is_deleted(text):
                self.lost.append(f"{machine} had synced {text.decode()}, and it is not there after its crash")

    def missing(self, seen: set[bytes]) -> list[bytes]:
        """What has to be there and is not."""
        return sorted(text for text in self._safety if text not in seen and not self._is_deleted(text))

    def _is_deleted(self, text: bytes) -> bool:
        return any(text in texts for texts in self._deleted.values())
