"""Clients that were let in and mean harm: each attempt is refused by its name, in bounded time, and harms nobody."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from atedb.chain import frame as framing
from atedb.chain.frame import Frame
from atedb.chain.position import Position
from atedb.engine import filelog
from atedb.errors import AteError, InvalidError, LimitError
from atedb.net.client import ServerConnection
from atedb.net.errors import RefusedError
from atedb.node import checking, index
from atedb.node.guests import NodeGuest
from tests.engine.frames import Author
from tests.node import attacks
from tests.node.attacks import ANNA, ATTACKS, BEN, PATH, Attack, Node, begin, with_node

Careless = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize(("attack", "error"), ATTACKS, ids=lambda one: one.__name__)
def test_what_a_client_may_not_do_is_refused_and_changes_nothing(
    tmp_path: Path, attack: Attack, error: type[AteError]
) -> None:
    async def body(node: Node) -> None:
        async with node.connected(ANNA) as connection:
            author = await begin(connection)
            before = author.at
            with pytest.raises(error):
                await attack(connection, author)
            author.at = before
            assert not connection.lost
            if attack is not attacks.replayed:
                await connection.append([author.frame(author.meta("fine"))])

    with_node(tmp_path, body)


def believe_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at who signed a batch."""
    monkeypatch.setattr(checking, "verify_frame_signature", lambda *_words, **_more: None)


def believe_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the hashes of what is in a batch."""
    monkeypatch.setattr(framing, "_verify_bodies", lambda *_words: None)


def believe_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at what a batch follows: neither the node nor the log."""
    monkeypatch.setattr(checking, "require_next", lambda *_words: None)
    real = filelog.FileLog._write

    def careless(log: filelog.FileLog, request: filelog._Append) -> None:
        at = request.expected = log._written
        marks = [mark for _, mark, _ in request.heads]
        request.heads = []
        for mark in marks:
            request.heads.append((at.sequence + 1, mark, at.hash))
            at = Position(at.sequence + 1, mark)
        real(log, request)

    monkeypatch.setattr(filelog.FileLog, "_write", careless)


def believe_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object may go back."""
    real = index.Draft.add

    def careless(draft: index.Draft, frame: Frame) -> None:
        with suppress(InvalidError):
            real(draft, frame)
        draft.at = Position(frame.head.sequence, frame.hash)

    monkeypatch.setattr(index.Draft, "add", careless)


def believe_wholeness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks whether a batch has its blobs: neither the node nor the log."""
    monkeypatch.setattr(checking, "_whole", lambda data: checking.Checked(framing.decode_frame(data), data))

    def link(data: bytes) -> tuple[int, bytes, bytes]:
        frame = framing.decode_frame(data)
        return frame.head.sequence, frame.hash, frame.head.previous

    monkeypatch.setattr(filelog, "_link", link)


@pytest.mark.parametrize(
    ("attack", "missing"),
    [
        (attacks.forged, [believe_signatures]),
        (attacks.of_a_stranger, [believe_signatures]),
        (attacks.of_another_chain, [believe_signatures]),
        (attacks.altered, [believe_bodies]),
        (attacks.out_of_order, [believe_order]),
        (attacks.with_a_gap, [believe_order]),
        (attacks.older_version, [believe_versions]),
        (attacks.replayed, [believe_order, believe_versions]),
        (attacks.slim, [believe_wholeness]),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_without_its_protection_the_attack_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack, missing: list[Careless]
) -> None:
    """The negative twins: what refuses an attack is the check that is meant to, and nothing else."""
    assert not accepted(tmp_path / "careful", attack)
    for careless in missing:
        careless(monkeypatch)
    assert accepted(tmp_path / "careless", attack)


def accepted(folder: Path, attack: Attack) -> bool:
    """Whether a client gets through with it."""
    told = False
    folder.mkdir()

    async def body(node: Node) -> None:
        nonlocal told
        async with node.connected(ANNA) as connection:
            author = await begin(connection)
            try:
                await attack(connection, author)
                told = True
            except AteError:
                pass

    with_node(folder, body)
    return told


def test_a_chain_of_somebody_else_is_refused_and_without_a_chain_nothing_is_served(tmp_path: Path) -> None:
    async def body(node: Node) -> None:
        async with node.connected(ANNA) as anna, node.connected(BEN) as ben:
            author = await begin(anna)
            for path in (PATH, "/anna/none", "/nobody/vault"):
                with pytest.raises(RefusedError):
                    await ben.open(path, create=author.files)
            for question in (ben.stats, lambda: ben.append([b"x"]), lambda: ben.bodies([(1, 1)])):
                with pytest.raises(InvalidError):
                    await question()
            assert (await anna.stats()).sequence == 1

    with_node(tmp_path, body)


def test_without_rights_asked_for_somebody_elses_chain_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative twin."""
    real = NodeGuest.authorize

    def careless(guest: NodeGuest, path: str) -> object:
        guest._name = ""
        return real(guest, path)

    monkeypatch.setattr(NodeGuest, "authorize", careless)

    async def body(node: Node) -> None:
        async with node.connected(ANNA) as anna, node.connected(BEN) as ben:
            await begin(anna)
            assert (await ben.open(PATH)).tail.sequence == 1

    with_node(tmp_path, body)


def test_whoever_attacks_all_the_time_does_not_keep_the_others_from_working(tmp_path: Path) -> None:
    async def body(node: Node) -> None:
        async with AsyncExitStack() as stack:
            hostile = [await stack.enter_async_context(node.connected(ANNA)) for _ in range(4)]
            author = await begin(hostile[0])
            for connection in hostile[1:]:
                await connection.open(PATH)

            async def attack(connection: ServerConnection) -> None:
                while True:
                    for one, _ in ATTACKS:
                        mine = Author(author.header)
                        mine.at, mine.certified = author.at, True
                        try:
                            await one(connection, mine)
                        except (AteError, LimitError):
                            pass

            async with trio.open_nursery() as nursery:
                for connection in hostile:
                    nursery.start_soon(attack, connection)
                async with node.connected(BEN) as ben:
                    honest = Author(seed=5, root=b"ben's root".ljust(32))
                    await ben.open("/ben/vault", create=honest.files)
                    for frame in honest.frames(50):
                        await ben.append([frame])
                    assert (await ben.stats()).sequence == 50
                nursery.cancel_scope.cancel()

    with_node(tmp_path, body)
