"""`atedb solo` that lies: `python -m tests.system.liar FILE solo …`, where FILE names the lie that it tells just now.

It has all that a real server has, and no keys. Each lie is told where the honest server would say the truth, so that
clients meet it as they would meet a server that somebody has taken over.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import trio

from atedb.chain.format import FRAME_HEADER_SIZE
from atedb.chain.position import Position
from atedb.net import session
from atedb.net.messages import Opened
from atedb.node.host import ChainHost
from tests.engine.frames import position_of

LIES = Path(sys.argv[1]) if __name__ == "__main__" else Path()
_real_follow = ChainHost.follow
_real_append = ChainHost.append
_real_bodies = ChainHost.bodies
_real_document = ChainHost.document


def lie() -> str:
    """What is lied about now; empty for nothing."""
    return LIES.read_text()


def _opened(number: int, header: bytes, sequence: int, digest: bytes, *rest: Any) -> Opened:
    """What a client is told at the beginning."""
    match lie():
        case "older":
            sequence, digest = sequence - 1, bytes(32)
        case "nothing":
            sequence, digest = 0, bytes(32)
        case "other":
            digest = bytes(32)
        case "newer":
            sequence += 1000
        case "another chain":
            header = (LIES.parent / "other chain").read_bytes()
    return Opened(number, header, sequence, digest, *rest)


async def _follow(host: ChainHost, *words: Any, **more: Any) -> AsyncGenerator[Any, None]:
    held: list[bytes] = []
    async for true in _real_follow(host, *words, **more):
        said = [frame for one in true for frame in _instead(one, held)] if isinstance(true, list) else true
        if said:
            yield said


def _instead(frame: bytes, held: list[bytes]) -> list[bytes]:
    """What is said in place of a batch."""
    match lie():
        case "alter head":
            return [_flipped(frame, FRAME_HEADER_SIZE + 20)]
        case "alter body":
            return [_flipped(frame, len(frame) - 12)]
        case "cut short":
            return [frame[:-8]]
        case "leave out":
            held.append(frame)
            return [frame] if len(held) > 1 else []
        case "exchange":
            held.append(frame)
            return held[::-1] if len(held) == 2 else []
        case "repeat":
            return [frame, frame]
        case "nonsense":
            return [b"\0" * 600]
        case "huge":
            return [frame + bytes(64 << 20)]
        case "never":
            return []
    return [frame]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def _append(host: ChainHost, client: object, frames: Sequence[bytes], **more: Any) -> Position:
    match lie():
        case "acknowledge unstored":
            return position_of(frames[-1])
        case "acknowledge another":
            return position_of(frames[-1])._replace(hash=bytes(32))
        case "acknowledge more":
            stored = await _real_append(host, client, frames, **more)
            return Position(stored.sequence + 7, stored.hash)
        case "never acknowledge":
            await trio.sleep_forever()
    return await _real_append(host, client, frames, **more)


async def _bodies(host: ChainHost, wanted: Sequence[tuple[int, int]], *, limit: int) -> list[bytes]:
    match lie():
        case "another body":
            return await _real_bodies(host, [(sequence, place + 1) for sequence, place in wanted], limit=limit)
        case "altered body":
            return [_flipped(body, len(body) // 2) for body in await _real_bodies(host, wanted, limit=limit)]
        case "cut body":
            return [body[:-1] for body in await _real_bodies(host, wanted, limit=limit)]
        case "too many bodies":
            return [b"x"] * (len(wanted) + 1)
        case "huge body":
            return [bytes(200 << 20)]
        case "never a body":
            await trio.sleep_forever()
    return await _real_bodies(host, wanted, limit=limit)


async def _document(host: ChainHost, name: str) -> tuple[bytes, int]:
    data, generation = await _real_document(host, name)
    match lie(), name:
        case "altered keys", "keys":
            return _flipped(data, len(data) // 2), generation
        case "no keys", "keys":
            return b"", generation
        case "others' keys", "keys":
            return (LIES.parent / "other keys").read_bytes(), generation + 1
    return data, generation


def main(words: list[str]) -> None:
    """Run `atedb` with these words."""
    from atedb.cli.main import main as run

    patched: Any = ChainHost
    patched.follow, patched.append = _follow, _append
    patched.bodies, patched.document = _bodies, _document
    setattr(session, "Opened", _opened)  # noqa: B010
    run(words)


if __name__ == "__main__":
    main(sys.argv[2:])
