"""A chain small enough to flip each of its bytes, with a bit of everything in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from atedb.chain import log as log_module
from atedb.chain.chain import Chain
from atedb.chain.event import Change, Lane, Term
from atedb.chain.format import SEGMENT_HEADER_SIZE
from atedb.chain.frame import Frame, read_frame
from atedb.chain.log import segment_path
from atedb.crypto.aead import AES_256_GCM
from atedb.crypto.slots import KdfParams, KeySlots, Secret
from tests.chain.conftest import ROOT

SECRET = Secret.passphrase("a passphrase for tests")
CHEAP = KdfParams(opslimit=1, memlimit=8192)
SEGMENT_TARGET = 2600
GROUP = b"G" * 16


class Small(NamedTuple):
    """The chain on disk. objects: name -> body, None where it has ended. members: those of the one set."""

    store: Path
    heads: Path
    objects: dict[bytes, bytes | None]
    members: dict[bytes, bytes]

    def open(self, **options: object) -> Chain:
        """Open it as its owner does."""
        options.setdefault("heads", self.heads)
        return Chain.open(self.store, ROOT, terms=terms, **options)  # type: ignore[arg-type]

    def at(self, folder: Path) -> Small:
        """A copy in `folder`."""
        shutil.copytree(self.store.parent, folder)
        return self._replace(store=folder / self.store.name, heads=folder / self.heads.name)


def terms(tombstone: bool, body: bytes) -> tuple[Term, ...]:
    """An object whose body begins with `+` and a member's 16 bytes is in the set as long as it lives."""
    if body[:1] != b"+":
        return ()
    return (Term(GROUP, body[1:17], None if tombstone else body[17:]),)


def listed(name: bytes, text: bytes = b"") -> bytes:
    """The body of an object that is in the set."""
    return b"+" + name.ljust(16) + text


def key(name: bytes) -> bytes:
    """The object key of `name`."""
    return name.ljust(16, b".")


def put(name: bytes, body: bytes, lane: Lane = Lane.META) -> Change:
    """The next state of an object."""
    return Change(key(name), lane, body, compress=len(body) > 64, terms=terms(False, body) if lane == Lane.META else ())


def end(name: bytes, epitaph: bytes = b"", lane: Lane = Lane.META) -> Change:
    """The end of an object."""
    return Change(key(name), lane, epitaph, tombstone=True, terms=terms(True, epitaph))


BATCHES: list[list[Change]] = [
    [put(b"a", listed(b"a", b"1")), put(b"b", listed(b"b", b"1")), put(b"x", b"block x" * 20, Lane.BLOB)],
    [put(b"c", listed(b"c", b"1")), put(b"y", b"block y", Lane.BLOB)],
    [put(b"a", listed(b"a", b"2")), put(b"x", b"block x again", Lane.BLOB)],
    [end(b"b", listed(b"b")), end(b"y", b"", Lane.BLOB)],
    [put(b"d", b"plain"), put(b"z", b"block z" * 3, Lane.BLOB)],
    [put(b"c", listed(b"c", b"2"))],
]


def build(folder: Path) -> Small:
    """The chain of BATCHES, closed; in two segments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_module, "SEGMENT_TARGET", SEGMENT_TARGET)
        store, heads = folder / "store", folder / "heads"
        store.mkdir(parents=True)
        slots = KeySlots.create(ROOT, clock=lambda: 1)
        slots.add(ROOT, SECRET, "test", CHEAP)
        slots.save(store)
        chain = Chain.create(store, ROOT, suite=AES_256_GCM, heads=heads)
        objects: dict[bytes, bytes | None] = {}
        members: dict[bytes, bytes] = {}
        for changes in BATCHES:
            chain.commit(changes)
            chain.barrier()
            for change in changes:
                assert isinstance(change.body, bytes)
                objects[change.key.rstrip(b".")] = None if change.tombstone else change.body
                for _, member, value in change.terms:
                    members.pop(member, None) if value is None else members.update({member: value})
        chain.close()
    assert len(list((store / "segments").iterdir())) == 2
    return Small(store, heads, objects, members)


def content(chain: Chain, small: Small) -> tuple[dict[bytes, bytes | None], dict[bytes, bytes]]:
    """What an open chain answers."""
    return {name: chain.load(key(name)) for name in small.objects}, chain.members(GROUP)


def expect_content(chain: Chain, small: Small) -> None:
    """The chain answers as it did when it was made."""
    assert content(chain, small) == (small.objects, small.members)


def frames(store: Path, number: int) -> list[Frame]:
    """All frames of a sound segment."""
    data = segment_path(store, number).read_bytes()
    found, at = [], SEGMENT_HEADER_SIZE
    while at < len(data):
        found.append(read_frame(lambda offset, length: data[offset : offset + length], at, bodies=True))
        at = found[-1].end
    return found


def place_of(store: Path, sequence: int) -> tuple[Path, Frame]:
    """The file and the frame of a batch."""
    for number in (1, 2):
        for frame in frames(store, number):
            if frame.head.sequence == sequence:
                return segment_path(store, number), frame
    raise LookupError(sequence)


def body_of(store: Path, sequence: int, name: bytes) -> tuple[Path, int]:
    """The file, and the offset of the sealed body of an object in a batch."""
    path, frame = place_of(store, sequence)
    return path, next(at for event, at in frame.bodies() if event.key == key(name) and at is not None)


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Change one byte in place."""
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ mask]))


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything in a folder: modification times and contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    }


Make = Callable[[], Small]
