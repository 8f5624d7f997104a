"""The control socket: who may ask, for what, and what a bad client costs."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from atedb.errors import ExitCode, InUseError
from atefs.mount import client
from atefs.mount.control import REQUEST_MAX, ControlServer, Tell

MOUNTPOINT = Path("/somewhere")


async def count(tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
    for number in range(3):
        await tell({"number": number})
    return {"counted": 3}


async def fail(_tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
    async with trio.open_nursery():
        raise InUseError("in a group of exceptions")


async def refuse(_tell: Tell, _wanted: dict[str, Any]) -> dict[str, object]:
    await trio.lowlevel.checkpoint()
    raise InUseError("somebody has it")


def serving(play: Callable[[Path], Any]) -> Any:
    """The result of `play`, called in a thread with the socket's path while the server answers."""

    async def main() -> Any:
        server = ControlServer(MOUNTPOINT, {"count": count, "fail": fail, "refuse": refuse})
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve)
                result = await trio.to_thread.run_sync(play, server.path)
                nursery.cancel_scope.cancel()
        finally:
            server.close()
        assert not server.path.exists()
        return result

    return trio.run(main)


def raw(path: Path, request: bytes) -> bytes:
    """What the server answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(os.fspath(path))
        sock.sendall(request)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


def test_an_answer_comes_after_its_progress() -> None:
    seen: list[dict[str, Any]] = []
    assert serving(lambda _: client.ask(MOUNTPOINT, "count", seen.append)) == {"counted": 3}
    assert seen == [{"number": 0}, {"number": 1}, {"number": 2}]


def test_a_refusal_keeps_its_words_and_its_exit_code() -> None:
    def play(_: Path) -> None:
        with pytest.raises(client.RefusedError, match="somebody has it") as refused:
            client.ask(MOUNTPOINT, "refuse")
        assert refused.value.exit_code == ExitCode.IN_USE

    serving(play)


@pytest.mark.parametrize("request_", [b"\n", b"{}\n", b'{"op": []}\n', b'"count"\n', b"\xff\xfe\n", b"x" * REQUEST_MAX])
def test_nonsense_is_answered_with_what_there_is(request_: bytes) -> None:
    answer = json.loads(serving(lambda path: raw(path, request_)))
    assert "count, fail, refuse" in answer["error"]


def test_silent_clients_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atefs.mount.control.REQUEST_SECONDS", 0.2)

    def play(path: Path) -> None:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        try:
            for sock in silent:
                sock.connect(os.fspath(path))
            assert client.ask(MOUNTPOINT, "count") == {"counted": 3}
        finally:
            for sock in silent:
                sock.close()

    serving(play)


def test_a_client_that_leaves_in_the_middle_costs_only_itself() -> None:
    def play(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(path))
            sock.sendall(b'{"op": "count"}\n')
        assert client.ask(MOUNTPOINT, "count") == {"counted": 3}

    serving(play)


@pytest.mark.expect_log("a control request failed")
def test_a_request_that_fails_in_an_unforeseen_way_costs_only_itself() -> None:
    def play(_: Path) -> None:
        with pytest.raises(client.NoDriverError, match="its log says why"):
            client.ask(MOUNTPOINT, "fail")
        assert client.ask(MOUNTPOINT, "count") == {"counted": 3}

    serving(play)


def test_without_a_driver_that_is_said() -> None:
    with pytest.raises(client.NoDriverError, match="/somewhere"):
        client.ask(MOUNTPOINT, "count")


def test_a_process_is_watched_until_it_ends() -> None:
    ready, go = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, ready, 0), (os.POSIX_SPAWN_CLOSE, go)]
    pid = os.posix_spawn("/bin/cat", ["cat"], {}, file_actions=actions)
    watch = client.Watch(pid)
    assert not watch.ended(0.01)
    threading.Thread(target=os.close, args=(go,)).start()
    assert watch.ended(20)
    watch.close()
    os.waitpid(pid, 0)
    os.close(ready)
