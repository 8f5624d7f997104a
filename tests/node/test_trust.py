"""`--trust`: whose signatures the server verifies, and what that leaves to whoever reads the chain."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
import trio

from atedb.chain import frame as frame_module
from atedb.chain.chain import Chain
from atedb.chain.format import FRAME_HEADER_SIZE, FrameHeader
from atedb.chain.replica import Replica
from atedb.crypto import signing
from atedb.crypto.signing import SIGNATURE_SIZE, SigningKey
from atedb.errors import DamagedError, InvalidError
from atedb.net.client import ServerConnection
from atedb.node.host import ChainHost
from tests.engine.frames import ROOT, Author
from tests.net.wire import PATH, ListChain, Node, connected
from tests.node.chains import make_hosts

Body = Callable[[ChainHost, ServerConnection], Awaitable[None]]


def served(folder: Path, author: Author, body: Body, *, centralized: bool) -> None:
    """Run `body` with the author's chain in a node, and a connection to it."""

    async def main() -> None:
        hosts = make_hosts(folder, centralized=centralized)
        async with hosts.open(PATH, create=author.files) as host:
            node = Node(chains={PATH: cast(ListChain, host)})
            async with connected(node, opened=False) as connection:
                await connection.open(PATH)
                await body(host, connection)
        await hosts.aclose()

    trio.run(main)


def forged(frame: bytes) -> bytes:
    """The frame with another signature."""
    at = FRAME_HEADER_SIZE + FrameHeader.decode(frame).head
    return frame[:at] + b"!" * SIGNATURE_SIZE + frame[at + SIGNATURE_SIZE :]


def verifications(folder: Path, monkeypatch: pytest.MonkeyPatch, *, centralized: bool, proven: bool) -> int:
    """Signatures of batches that the server verifies while 20 are appended."""
    author = Author()
    seen: list[bytes] = []

    async def body(_host: ChainHost, connection: ServerConnection) -> None:
        assert connection.takes_proof == centralized
        if proven:
            await connection.prove(author.device.public, author.device.sign)
        for frame in author.frames(20):
            await connection.append([frame])

    def counted(public: bytes, message: bytes, signature: bytes) -> None:
        seen.append(message)
        signing.verify_signature(public, message, signature)

    monkeypatch.setattr(frame_module, "verify_signature", counted)
    served(folder, author, body, centralized=centralized)
    return len(seen)


def test_a_device_that_has_proven_its_key_costs_no_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verifications(tmp_path, monkeypatch, centralized=True, proven=True) == 0


def test_one_that_has_not_and_any_other_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verifications(tmp_path / "a", monkeypatch, centralized=True, proven=False) == 20
    assert verifications(tmp_path / "b", monkeypatch, centralized=False, proven=False) == 20


def test_who_has_proven_one_device_is_not_believed_for_another(tmp_path: Path) -> None:
    author = Author()
    other = Author(author.header, seed=2)

    async def body(_host: ChainHost, connection: ServerConnection) -> None:
        await connection.append([author.frame(author.meta("a"))])
        other.at = author.at
        await connection.prove(author.device.public, author.device.sign)
        frame = other.frame(other.meta("b"))
        with pytest.raises(InvalidError, match="does not verify"):
            await connection.append([forged(frame)])
        await connection.append([frame])

    served(tmp_path, author, body, centralized=True)


def test_nor_is_a_device_that_the_chain_does_not_know(tmp_path: Path) -> None:
    author = Author()

    async def body(_host: ChainHost, connection: ServerConnection) -> None:
        await connection.prove(author.device.public, author.device.sign)
        with pytest.raises(InvalidError, match="never certified"):
            await connection.append([author.frame(author.meta("a"), certified=False)])

    served(tmp_path, author, body, centralized=True)


def test_a_proof_is_good_for_its_key_and_its_conversation_only(tmp_path: Path) -> None:
    author = Author()
    proofs: list[bytes] = []

    def remembered(statement: bytes) -> bytes:
        proofs.append(author.device.sign(statement))
        return proofs[-1]

    async def first(_host: ChainHost, connection: ServerConnection) -> None:
        await connection.prove(author.device.public, remembered)

    async def second(_host: ChainHost, connection: ServerConnection) -> None:
        for sign in (lambda _: proofs[0], SigningKey(b"?" * 32).sign):
            with pytest.raises(InvalidError, match="does not have the device's key"):
                await connection.prove(author.device.public, sign)

    served(tmp_path, author, first, centralized=True)
    served(tmp_path, author, second, centralized=True)


def test_a_server_that_verifies_everything_takes_no_proof(tmp_path: Path) -> None:
    author = Author()

    async def body(_host: ChainHost, connection: ServerConnection) -> None:
        with pytest.raises(InvalidError, match="verifies the signature of each batch"):
            await connection.prove(author.device.public, author.device.sign)

    served(tmp_path, author, body, centralized=False)


def given(folder: Path, *, centralized: bool) -> list[bytes]:
    """What a server gives of a batch with a bad signature that a device of the chain has appended, after a restart."""
    author = Author()
    found: list[bytes] = []

    async def write(_host: ChainHost, connection: ServerConnection) -> None:
        if centralized:
            await connection.prove(author.device.public, author.device.sign)
        with suppress(InvalidError):
            await connection.append([forged(author.frame(author.meta("a")))])

    async def read(host: ChainHost, connection: ServerConnection) -> None:
        if host.tail.sequence:
            news = await anext(connection.follow(1))
            assert isinstance(news, list)
            found.extend(news)

    served(folder, author, write, centralized=centralized)
    shutil.rmtree(folder / "index")
    served(folder, author, read, centralized=centralized)
    if found:
        store = folder / "replica"
        chain = Chain.create(store, ROOT, header=author.header, remote=True)
        with pytest.raises(DamagedError, match="not sound: the signature"):
            Replica(chain).receive(found, lambda *_: None)
        chain.close()
    return found


def test_what_a_device_signed_badly_is_stored_where_devices_are_believed_and_refused_by_each_client(
    tmp_path: Path,
) -> None:
    assert len(given(tmp_path, centralized=True)) == 1


def test_a_server_that_verifies_everything_stores_no_such_batch(tmp_path: Path) -> None:
    assert given(tmp_path, centralized=False) == []
