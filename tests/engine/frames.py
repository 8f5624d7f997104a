"""A client's side of a chain, without a disk: real frames, sealed and signed, one after the other."""

from __future__ import annotations

from atedb.chain.batch import BatchPlace, Sealer
from atedb.chain.event import Change, Lane
from atedb.chain.files import ChainFiles
from atedb.chain.format import CERTIFICATE, FRAME_HEADER_SIZE, FrameHeader, batch_hash
from atedb.chain.header import ChainHeader, make_header
from atedb.chain.position import START, Position
from atedb.crypto.keys import KeyRing, root_signing_key
from atedb.crypto.sethash import SetHash
from atedb.crypto.signing import Certificate, SigningKey

ROOT = bytes(range(32))
SUITE = "xchacha20-poly1305"


def encoded(header: ChainHeader) -> bytes:
    """The bytes of a header's file."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(header), indent=1) + b"\n"


class Author:
    """One device that writes to a chain. `at` is the batch after which it writes next."""

    def __init__(self, header: ChainHeader | None = None, *, seed: int = 1, root: bytes = ROOT) -> None:
        self.header = header or make_header(root, SUITE, 1)
        self.files = ChainFiles(encoded(self.header), b"slots")
        self.keys = KeyRing(root, self.header.chain_id, SUITE)
        self.device = SigningKey(bytes([seed]) * 32)
        self.live = SetHash(self.keys.purpose("live set hash"))
        self.sealer = Sealer(self.keys, self.device, self.live)
        signer = root_signing_key(root, bytes.fromhex(self.header.salt))
        self.certificate = Certificate.issue(signer, self.header.chain_id, self.device.public, 1).encode()
        self.certified = False
        self.versions: dict[bytes, int] = {}
        self.at = START

    def key(self, name: str) -> bytes:
        """The object called `name`."""
        return self.keys.object_key(b"T", name.encode())

    def meta(self, name: str, body: bytes = b"m") -> Change:
        """A change on the meta lane."""
        return Change(self.key(name), Lane.META, body)

    def blob(self, name: str, body: bytes = b"b") -> Change:
        """A change on the blob lane."""
        return Change(self.key(name), Lane.BLOB, body)

    def end(self, name: str, lane: Lane = Lane.META) -> Change:
        """The end of an object."""
        return Change(self.key(name), lane, b"", tombstone=True)

    def frame(self, *changes: Change, versions: list[int] | None = None, certified: bool | None = None) -> bytes:
        """The next batch. What it claims of the live set is not true; only those with keys could tell.

        versions: instead of those that follow. certified: False leaves the certificate out.
        """
        statements = () if self.certified or certified is False else ((CERTIFICATE, self.certificate),)
        self.certified = True
        numbers = versions or [self.versions.get(change.key, 0) + 1 for change in changes]
        self.versions.update(zip([change.key for change in changes], numbers, strict=True))
        place = BatchPlace(self.at.sequence + 1, 0, self.at.sequence, self.at.hash, statements)
        sealed = self.sealer.seal(place, changes, numbers, self.live)
        self.at = Position(place.sequence, sealed.hash)
        return b"".join(sealed.frame)

    def frames(self, count: int, size: int = 10) -> list[bytes]:
        """Several small batches."""
        return [self.frame(self.meta(f"object {self.at.sequence % 7}", bytes(size))) for _ in range(count)]


def position_of(frame: bytes) -> Position:
    """The batch that a frame holds."""
    header = FrameHeader.decode(frame)
    head = frame[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + header.head]
    return Position(int.from_bytes(head[:8], "little"), batch_hash(head))
