"""A server in memory, and chains that follow it: what the tests of replicas share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atedb.chain.blobcache import Wanted
from atedb.chain.chain import Chain
from atedb.chain.disk import Disk
from atedb.chain.event import Change, Lane, Term
from atedb.chain.frame import decode_frame
from atedb.chain.header import ChainHeader
from atedb.chain.position import START, Position
from atedb.chain.rebase import Rebase
from atedb.chain.replica import Replica
from atedb.chain.slim import sealed_body, slim_frame
from tests.chain.conftest import ROOT

GROUP = b"the only set"


class Server:
    """Keeps whole frames in order, and takes only what follows its tail."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.asked: list[Wanted] = []

    @property
    def tail(self) -> Position:
        """Its newest batch."""
        return self.position(len(self.frames))

    def position(self, sequence: int) -> Position:
        """The batch at a sequence."""
        return Position(sequence, decode_frame(self.frames[sequence - 1]).hash) if sequence else START

    def append(self, frames: Sequence[bytes]) -> bool:
        """Take frames; False, and nothing is taken, when they do not follow."""
        head = decode_frame(frames[0]).head
        if (head.sequence - 1, head.previous) != self.tail:
            return False
        self.frames += frames
        return True

    def after(self, sequence: int) -> list[bytes]:
        """Slim frames."""
        return [slim_frame(frame) for frame in self.frames[sequence:]]

    def bodies(self, wanted: Sequence[Wanted]) -> list[bytes]:
        """As `FetchBodies`."""
        self.asked += wanted
        return [
            sealed_body(decode_frame(self.frames[one.sequence - 1]), self.frames[one.sequence - 1], one.place)
            for one in wanted
        ]


class Device:
    """One chain that follows a server. seen: what it was told of the others' events."""

    def __init__(self, chain: Chain, server: Server) -> None:
        self.chain = chain
        self.server = server
        self.replica = Replica(chain)
        self.seen: list[tuple[bool, bytes, bytes]] = []
        assert chain.absent is not None
        chain.absent.fetch_bodies = server.bodies

    @classmethod
    def make(cls, folder: Path, server: Server, header: ChainHeader | None = None, disk: Disk | None = None) -> Device:
        """A new one in `folder`."""
        chain = Chain.create(
            folder / "store", ROOT, header=header, remote=True, terms=terms_of, disk=disk, heads=folder / "heads"
        )
        return cls(chain, server)

    @classmethod
    def open(cls, folder: Path, server: Server, disk: Disk | None = None) -> Device:
        """The one in `folder` again."""
        chain = Chain.open(folder / "store", ROOT, terms=terms_of, disk=disk, heads=folder / "heads")
        return cls(chain, server)

    def put(self, **bodies: str) -> None:
        """One batch: META objects, each also a member of the only set."""
        self.chain.commit([change(self.chain, name, body) for name, body in bodies.items()])

    def put_blob(self, name: str, body: bytes) -> None:
        """One batch with a blob."""
        self.chain.commit([Change(self.chain.object_key(b"B", name.encode()), Lane.BLOB, body)])

    def end(self, name: str) -> None:
        """End a META object."""
        self.chain.commit([ending(self.chain, name)])

    def state(self) -> dict[str, str]:
        """All META objects, by the only set; the set and the objects agree."""
        members = self.chain.members(self.chain.group_key(b"G", GROUP))
        found = {}
        for key, value in members.items():
            name, _, body = value.decode().partition("=")
            plain = self.chain.load(key)
            assert plain is not None
            assert plain[32:] == value
            found[name] = body
        return found

    def blob(self, name: str) -> bytes | None:
        """A blob, fetched where it must be."""
        return self.chain.load(self.chain.object_key(b"B", name.encode()))

    def send(self, limit: int = 1 << 20) -> bool:
        """Send what is pending; False when somebody was first."""
        self.chain.barrier()
        while frames := self.replica.pending(self.replica.acked.sequence, limit):
            if not self.server.append(frames):
                return False
            self.replica.acknowledge(self.server.tail)
        return True

    def fetch(self) -> None:
        """Take in what the others did, merging if need be."""
        self.replica.check_tail(self.server.tail)
        rest = self.replica.receive(self.server.after(self.replica.acked.sequence), self.note)
        if rest:
            self.replica.rebase(rest, mine_wins, self.note)

    def sync(self) -> None:
        """Both."""
        self.fetch()
        assert self.send()

    def note(self, tombstone: bool, plaintext: bytes, key: bytes) -> None:
        """As `Seen`."""
        self.seen.append((tombstone, plaintext, key))


def terms_of(tombstone: bool, body: bytes) -> tuple[Term, ...]:
    """The first 16 bytes of a META body name the set, the next 16 the member; the rest is `name=body`."""
    return (Term(body[:16], body[16:32], None if tombstone else body[32:]),) if len(body) >= 32 else ()


def change(chain: Chain, name: str, body: str) -> Change:
    """The next state of a META object."""
    return meta(chain, name, f"{name}={body}".encode(), tombstone=False)


def ending(chain: Chain, name: str) -> Change:
    """The end of a META object."""
    return meta(chain, name, b"", tombstone=True)


def meta(chain: Chain, name: str, value: bytes, *, tombstone: bool) -> Change:
    """A change with the row of the set that goes with it."""
    key = chain.object_key(b"T", name.encode())
    body = chain.group_key(b"G", GROUP) + key + value
    return Change(key, Lane.META, body, tombstone=tombstone, terms=terms_of(tombstone, body))


def mine_wins(rebase: Rebase) -> None:
    """Every object that is pending becomes what it is here; each pending event is a batch of its own."""
    last = {changed.key: changed for changed in rebase.mine_changes()}
    assert rebase.mine_keys == frozenset(last)
    for key, changed in last.items():
        if changed.tombstone:
            if rebase.merged.exists(key):
                epitaph = changed.plaintext or b""
                terms = terms_of(True, epitaph)
                rebase.commit([Change(key, Lane(changed.lane), epitaph, tombstone=True, terms=terms)])
            continue
        body = rebase.mine.load(key)
        assert body is not None
        assert changed.plaintext in (None, body)
        terms = () if changed.lane else terms_of(False, body)
        rebase.commit([Change(key, Lane(changed.lane), body, terms=terms)])
