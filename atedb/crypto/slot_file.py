"""The text of the key slots, and the two files that hold it."""

from __future__ import annotations

import errno
import fcntl
import hmac
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from atedb.crypto.hashing import derive, digest, keyed
from atedb.crypto.slot import Slot
from atedb.errors import (
    AteError,
    DamagedError,
    InUseError,
    NoSpaceError,
    ReadOnlyError,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
    UnsupportedError,
)

NAMES: Final = ("keys", "keys.copy")
FORMAT: Final = "atedb key slots"
VERSION: Final = 1
MAX_FILE_SIZE = 64 << 10
MAX_SLOTS = 16

_CHECKSUM_LINE = re.compile(rb' "checksum": "([0-9a-f]{64})"\n\}\n')
_CHECKSUM_LINE_SIZE = len(b' "checksum": ""\n}\n') + 64
_MAC_LINE = re.compile(rb' "mac": "([0-9a-f]{64})",\n')
_MAC_LINE_SIZE = len(b' "mac": "",\n') + 64

_log = logging.getLogger(__name__)


class _Head(msgspec.Struct):
    format: str
    version: int


class _Body(_Head):
    generation: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    slots: Annotated[list[Slot], msgspec.Meta(max_length=MAX_SLOTS)]


class _Document(_Body, forbid_unknown_fields=True):
    mac: str
    checksum: str


class SlotTable(NamedTuple):
    """The slots, their generation, and the text that states both. The text alone is what is hashed and stored."""

    generation: int
    slots: Sequence[Slot]
    text: bytes

    @classmethod
    def seal(cls, root: bytes, generation: int, slots: Sequence[Slot]) -> SlotTable:
        """The table with its keyed hash and checksum. root: 32 bytes."""
        document = msgspec.json.encode(_Body(FORMAT, VERSION, generation, list(slots)))
        body = msgspec.json.format(document, indent=1).removesuffix(b"\n}") + b",\n"
        body += b' "mac": "%s",\n' % _mac(root, body).hex().encode()
        return cls(generation, slots, body + b' "checksum": "%s"\n}\n' % digest(body).hex().encode())

    @classmethod
    def parse(cls, text: bytes, name: str) -> SlotTable:
        """The table from a file's bytes. name: for messages. Raises DamagedError, UnsupportedError."""
        tail = _CHECKSUM_LINE.fullmatch(text[-_CHECKSUM_LINE_SIZE:])
        if tail is None or digest(text[:-_CHECKSUM_LINE_SIZE]).hex().encode() != tail[1]:
            raise DamagedError(f"{name} is damaged: its checksum does not fit")
        try:
            head = msgspec.json.decode(text, type=_Head)
            if head.format != FORMAT or head.version != VERSION:
                raise UnsupportedError(
                    f"{name} has the format {head.format!r} version {head.version}, and this program knows {FORMAT!r} "
                    f"version {VERSION}; nothing was changed; use a newer version of atefs"
                )
            document = msgspec.json.decode(text, type=_Document)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            raise DamagedError(f"{name} is damaged: its checksum fits, but atefs did not write it") from None
        if len({slot.id for slot in document.slots}) < len(document.slots):
            raise DamagedError(f"{name} is damaged: two key slots have one identifier")
        for slot in document.slots:
            slot.verify()
        return cls(document.generation, document.slots, text)

    def verify(self, root: bytes) -> None:
        """Raises DamagedError where the slots were changed by somebody who does not have the root key."""
        body = self.text[: -_CHECKSUM_LINE_SIZE - _MAC_LINE_SIZE]
        line = _MAC_LINE.fullmatch(self.text[len(body) : -_CHECKSUM_LINE_SIZE])
        if line is None or not hmac.compare_digest(_mac(root, body).hex().encode(), line[1]):
            raise DamagedError(
                "the key given opens the vault, but its key slots were changed by something other than atefs: a slot "
                "may have been added, removed or altered; nothing was changed; put the file `keys` back from a backup, "
                "or run `atefs fsck --repair`, which keeps the key that you give and drops all others"
            )


class SlotFile:
    """The files `keys` and `keys.copy` in one store folder.

    uneven: the last `read` found one of them damaged, missing or older than the other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uneven = False
        self._seen: bytes | None = None

    def read(self) -> SlotTable:
        """The newest whole table. Raises StoreNotFoundError, DamagedError, UnsupportedError, StorageError."""
        found, damage = self._survey()
        table = self._newest(found, damage)
        self.uneven = [other.text for other in found] != [table.text] * len(NAMES)
        self._seen = table.text
        if damage:
            _log.warning("%s, in %s; the other copy is used", "; ".join(damage), self.folder)
        return table

    def write(self, table: SlotTable) -> None:
        """Both files, durably, one after the other.

        Raises StoreExistsError, InUseError (changed since `read`), NoSpaceError, ReadOnlyError, StorageError.
        """
        try:
            with self._locked() as folder:
                self._require_unchanged()
                for name in NAMES:
                    self._replace(name, table.text, folder)
        except OSError as exc:
            raise _translated(exc, f"the key slots in {self.folder} were not written") from exc
        self._seen = table.text
        self.uneven = False

    def _survey(self) -> tuple[list[SlotTable], list[str]]:
        """The tables that are whole, and what is wrong with the others that are there."""
        found: list[SlotTable] = []
        damage: list[str] = []
        for name in NAMES:
            try:
                found.append(SlotTable.parse(self._load(name), name))
            except FileNotFoundError:
                continue
            except DamagedError as exc:
                damage.append(str(exc))
            except OSError as exc:
                raise _translated(exc, f"{name} in {self.folder} cannot be read") from exc
        return found, damage

    def _newest(self, found: list[SlotTable], damage: list[str]) -> SlotTable:
        if not found and not damage:
            raise StoreNotFoundError(
                f"there is no vault in {self.folder}: it has no file `keys`; `atefs init` makes one"
            )
        if not found:
            raise DamagedError(
                f"{'; '.join(damage)}, in {self.folder}; without its key slots nothing opens a vault; the vault itself "
                "was not touched; put the file `keys` back from a backup"
            )
        newest = max(found, key=lambda table: table.generation)
        if any(other.generation == newest.generation and other.text != newest.text for other in found):
            raise DamagedError(
                f"`keys` and `keys.copy` in {self.folder} differ though they are of one age: something other than "
                "atefs changed one; nothing was changed; delete the wrong one, or put `keys` back from a backup"
            )
        return newest

    def _load(self, name: str) -> bytes:
        with (self.folder / name).open("rb") as file:
            text = file.read(MAX_FILE_SIZE + 1)
        if len(text) > MAX_FILE_SIZE:
            raise DamagedError(f"{name} is damaged: it is larger than key slots can be")
        return text

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The folder's descriptor, under an exclusive lock held by whoever changes the slots."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(folder)

    def _require_unchanged(self) -> None:
        found, damage = self._survey()
        now = self._newest(found, damage).text if found or damage else None
        if now == self._seen:
            return
        if self._seen is None:
            raise StoreExistsError(f"{self.folder} holds the key slots of a vault already; nothing was changed")
        raise InUseError(
            f"the key slots in {self.folder} were changed by another process meanwhile; nothing was changed; "
            "run the command again"
        )

    def _replace(self, name: str, text: bytes, folder: int) -> None:
        temporary = name + ".tmp"
        try:
            os.unlink(temporary, dir_fd=folder)
        except FileNotFoundError:
            pass
        # O_EXCL: never through a link that somebody left there; 0600 from the first instant.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        with open(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def _mac(root: bytes, body: bytes) -> bytes:
    return keyed(derive("key slots seal", root), body)


def _translated(exc: OSError, what: str) -> AteError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"{what}: the disk is full; nothing was lost; free some space and try again")
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyError(f"{what}: {exc.strerror}; check the owner and the permissions of the folder")
    return StorageError(f"{what}: {exc.strerror}; nothing was lost; check the disk")
