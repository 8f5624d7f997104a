"""`atedb solo` as a process of its own, with real clients: start and end, crash, who is let in, floods."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

from atedb.chain.position import START, Position
from atedb.crypto.signing import SigningKey
from atedb.errors import AteError, ExitCode, LimitError, QuotaError, StoreNotFoundError
from atedb.net.client import ServerConnection, connect
from atedb.net.errors import ConnectionLostError, RefusedError, UnavailableError, WrongServerError
from atedb.node.server import STOP_SECONDS
from tests.engine.frames import Author, position_of
from tests.system.mounted import until
from tests.system.solo import ATEDB, Solo

ANNA, BEN = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
PATH = "/anna/vault"
T = TypeVar("T")


@pytest.fixture
def solo(tmp_path: Path) -> Iterator[Solo]:
    """A server that does not run yet. It must not complain."""
    server = Solo(tmp_path)
    try:
        yield server
        assert server.complaints() == []
    finally:
        server.clean_up()


def visit(solo: Solo, body: Callable[[ServerConnection], Awaitable[T]], key: SigningKey = ANNA) -> T:
    """Connect, and do something; what it gave."""

    async def main() -> T:
        with trio.fail_after(60):
            async with connect(solo.url(), key, solo.fingerprint) as connection:
                return await body(connection)

    return trio.run(main)


def write(solo: Solo, author: Author, frames: Sequence[bytes], path: str = PATH, key: SigningKey = ANNA) -> Position:
    """Add batches to a chain, which is made if need be; the new tail."""

    async def body(connection: ServerConnection) -> Position:
        await connection.open(path, create=author.files)
        return await connection.append(frames)

    return visit(solo, body, key)


def read(solo: Solo, count: int, path: str = PATH, key: SigningKey = ANNA) -> list[bytes]:
    """The first `count` batches of a chain."""

    async def body(connection: ServerConnection) -> list[bytes]:
        await connection.open(path)
        found: list[bytes] = []
        async for frames in connection.follow(1, slim=False):
            assert isinstance(frames, list)
            found += frames
            if len(found) >= count:
                break
        return found

    return visit(solo, body, key)


def tail(solo: Solo, path: str = PATH, key: SigningKey = ANNA) -> Position:
    """The newest batch of a chain."""

    async def body(connection: ServerConnection) -> Position:
        return (await connection.open(path)).tail

    return visit(solo, body, key)


def test_what_was_written_is_there_after_a_restart_and_the_server_is_the_same(solo: Solo) -> None:
    solo.start()
    author = Author()
    frames = author.frames(20, 1000)
    assert write(solo, author, frames) == position_of(frames[-1])
    fingerprint = solo.fingerprint
    assert solo.stop() == 0
    solo.start()
    assert solo.fingerprint == fingerprint
    assert read(solo, 20) == frames


def test_ctrl_c_ends_it_in_order_too(solo: Solo) -> None:
    solo.start()
    assert solo.stop(signal.SIGINT) == 0


def write_until_lost(solo: Solo, author: Author, how: signal.Signals) -> Position:
    """Append batches as fast as it goes, several on their way at once, until the server, which gets a signal meanwhile,
    has gone; the newest one that was acknowledged."""

    async def main() -> Position:
        newest, told = START, False

        async def append(connection: ServerConnection, frames: Sequence[bytes]) -> None:
            nonlocal newest
            try:
                newest = max(newest, await connection.append(frames))
            except ConnectionLostError:
                pass

        async with connect(solo.url(), ANNA, solo.fingerprint) as connection:
            await connection.open(PATH, create=author.files)
            with trio.move_on_after(60):
                while not connection.lost:
                    async with trio.open_nursery() as nursery:
                        for _ in range(4):
                            nursery.start_soon(append, connection, author.frames(3, 3000))
                            await trio.lowlevel.checkpoint()
                    if newest.sequence > 60 and not told:
                        told = True
                        os.kill(solo.pid, how)
        return newest

    return trio.run(main)


def require_kept(solo: Solo, acknowledged: Position) -> None:
    """Fails unless the batch is in the chain."""
    found = read(solo, acknowledged.sequence)
    assert position_of(found[acknowledged.sequence - 1]) == acknowledged


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_acknowledged_is_there_after_the_end(solo: Solo, how: signal.Signals) -> None:
    solo.start()
    acknowledged = write_until_lost(solo, Author(), how)
    assert acknowledged.sequence > 60
    assert solo.stop(0) == (0 if how == signal.SIGTERM else -how)
    solo.start()
    require_kept(solo, acknowledged)


@pytest.mark.parametrize("kept", [100_000, 0], ids=["half", "nothing"])
def test_a_log_that_lost_what_was_acknowledged_is_noticed_by_the_comparison_and_by_the_server(
    solo: Solo, kept: int
) -> None:
    """The negative twin: the same, but the end of the log is cut off after the crash."""
    solo.start()
    acknowledged = write_until_lost(solo, Author(), signal.SIGKILL)
    solo.stop(0)
    [segment] = solo.data.glob("chains/**/segments/*.seg")
    os.truncate(segment, kept)
    solo.start()
    with pytest.raises(UnavailableError):
        require_kept(solo, acknowledged)
    assert any("damaged" in line or "missing" in line for line in solo.complaints())
    solo.log.unlink()


def test_what_is_under_way_is_answered_before_it_ends(solo: Solo) -> None:
    solo.start()
    author = Author()
    frames = [author.frame(author.meta(f"large {number}", os.urandom(1 << 20))) for number in range(24)]

    async def body(connection: ServerConnection) -> list[Position]:
        await connection.open(PATH, create=author.files)
        answers: list[Position] = []

        async def append(part: Sequence[bytes]) -> None:
            try:
                answers.append(await connection.append(part))
            except AteError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, frames[:1])
            for first in range(1, 24, 4):
                nursery.start_soon(append, frames[first : first + 4])
                await trio.lowlevel.checkpoint()
            while not answers:
                await trio.sleep(0)
            os.kill(solo.pid, signal.SIGTERM)
        return answers

    answers = visit(solo, body)
    assert solo.stop(0) == 0
    solo.start()
    assert tail(solo) == max(answers)


@pytest.mark.parametrize("signals", [1, 2])
def test_it_waits_for_a_slow_request_unless_it_is_told_again(solo: Solo, signals: int) -> None:
    """The request is slow because its tenant's rate is used up: the one before it was five times as large."""
    solo.admit("anna", ANNA, limits=["--rate=4096"])
    solo.start()
    author = Author()
    outcomes: list[object] = []

    async def body(connection: ServerConnection) -> float:
        async def append(frames: Sequence[bytes]) -> None:
            try:
                outcomes.append(await connection.append(frames))
            except ConnectionLostError:
                outcomes.append("lost")

        await connection.open(PATH, create=author.files)
        await connection.append([author.frame(author.meta("large", os.urandom(20 << 10)))])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append, author.frames(1))
            await trio.testing.wait_all_tasks_blocked()
            await connection.ping()  # what was sent before has arrived then
            os.kill(solo.pid, signal.SIGTERM)
            start = trio.current_time()
            await trio.to_thread.run_sync(until, lambda: "stopping" in solo.log.read_text(), "it to stop")
            if signals == 2:
                os.kill(solo.pid, signal.SIGTERM)
            code = await trio.to_thread.run_sync(solo.stop, 0)
        assert code == 0
        return trio.current_time() - start

    took = visit(solo, body)
    if signals == 1:
        assert outcomes == [author.at]
        assert took > 2
    else:
        assert outcomes == ["lost"]
        assert [line for line in solo.complaints() if "a second signal" not in line] == []
        solo.log.unlink()


def test_clients_that_wait_do_not_hold_its_end_up(solo: Solo) -> None:
    solo.start()
    author = Author()

    async def body(connection: ServerConnection) -> int:
        await connection.open(PATH, create=author.files)

        async def follow() -> None:
            with pytest.raises(AteError):
                async for _ in connection.follow(1):
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await connection.append(author.frames(1))
            with trio.fail_after(STOP_SECONDS / 2):
                code = await trio.to_thread.run_sync(solo.stop)
                await connection.wait_lost()
        return code

    assert visit(solo, body) == 0


def test_without_tenants_it_takes_anybody_on_loopback_and_nobody_on_another_address(solo: Solo) -> None:
    solo.start()
    assert "whoever can log in to this machine" in solo.out.read_text()
    author = Author()
    write(solo, author, author.frames(1), key=BEN)
    solo.stop()
    solo.start("--listen", "0.0.0.0")
    assert "whoever can log in" not in solo.out.read_text()
    with pytest.raises(RefusedError, match="not let in here"):
        write(solo, author, author.frames(1), key=BEN)
    solo.admit("anna", ANNA)
    solo.stop()
    solo.start()
    assert "whoever can log in" not in solo.out.read_text()


def refused_start(solo: Solo, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a start said that had to fail."""
    command = [*ATEDB, "solo", os.fspath(solo.data), "--port=0", "--http-port=0", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )


def test_one_server_a_folder_and_one_a_port(solo: Solo, tmp_path: Path) -> None:
    solo.start()
    second = refused_start(solo)
    assert (second.returncode, second.stdout) == (ExitCode.IN_USE, "")
    assert "is in use by a server, process" in second.stderr
    other = Solo(tmp_path / "other")
    third = refused_start(other, f"--port={solo.port}")
    assert third.returncode == ExitCode.IN_USE
    assert f"port {solo.port} of 127.0.0.1 is in use" in third.stderr
    fourth = refused_start(other, f"--http-port={solo.http_port}")
    assert fourth.returncode == ExitCode.IN_USE


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--port", "70000"], {}, "--port = 70000"),
        ([], {"ATEDB_PROT": "1"}, "there is no such setting"),
        (["--config", "/no/such/file"], {}, "there is no configuration file"),
        (["--listen", "host.invalid"], {}, "there is no address to listen on"),
    ],
)
def test_a_wrong_setting_ends_the_start(solo: Solo, words: list[str], environment: dict[str, str], said: str) -> None:
    done = refused_start(solo, *words, **environment)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert said in done.stderr


def test_only_tenants_are_let_in_and_only_to_their_own_chains(solo: Solo) -> None:
    solo.admit("anna", ANNA)
    solo.admit("ben", BEN)
    solo.start()
    author = Author()
    frames = author.frames(3)
    write(solo, author, frames)
    words = set()
    for path in (PATH, "/anna/another", "/nobody/vault"):
        with pytest.raises(RefusedError) as refused:
            tail(solo, path, BEN)
        words.add(str(refused.value))
    assert len(words) == 1
    with pytest.raises(RefusedError):
        write(solo, Author(), [], "/anna/another", BEN)
    with pytest.raises(StoreNotFoundError):
        tail(solo, "/anna/another")
    with pytest.raises(RefusedError):
        tail(solo, key=SigningKey(b"stranger" * 4))
    assert read(solo, 3) == frames


def test_who_is_added_comes_in_at_once_and_who_is_removed_goes_soon(solo: Solo) -> None:
    solo.admit("anna", ANNA)
    solo.start()
    solo.admit("ben", BEN)

    async def stay(connection: ServerConnection) -> None:
        await connection.open("/ben/vault", create=Author().files)
        await trio.to_thread.run_sync(solo.tenant, "remove", "ben")
        await connection.wait_lost()

    visit(solo, stay, BEN)
    with pytest.raises(RefusedError):
        tail(solo, "/ben/vault", BEN)
    assert visit(solo, ServerConnection.ping) > 0


def test_another_server_under_the_same_address_is_noticed(solo: Solo) -> None:
    solo.start()
    solo.fingerprint = bytes(32)
    with pytest.raises(WrongServerError):
        visit(solo, ServerConnection.ping)


def test_a_tenant_stores_no_more_than_its_quota_in_all_its_chains_and_others_do_not_notice(solo: Solo) -> None:
    solo.admit("anna", ANNA, limits=["--quota=3M"])
    solo.admit("ben", BEN)
    solo.start()
    one, two, other = Author(), Author(), Author()
    write(solo, one, [one.frame(one.meta("a", bytes(os.urandom(2 << 20))))])
    large = [two.frame(two.meta("b", os.urandom(2 << 20)))]
    with pytest.raises(QuotaError):
        write(solo, two, large, "/anna/second")
    write(solo, other, [other.frame(other.meta("c", os.urandom(4 << 20)))], "/ben/vault", BEN)
    solo.tenant("add", "anna", "--quota", "none")
    until(lambda: accepted(lambda: write(solo, two, large, "/anna/second")), "the new quota to hold")


def accepted(act: Callable[[], object]) -> bool:
    """Whether something that the quota may forbid was done."""
    try:
        act()
    except QuotaError:
        return False
    return True


def test_a_tenant_has_so_many_connections_and_others_have_their_own(solo: Solo) -> None:
    solo.admit("anna", ANNA, limits=["--connections=2"])
    solo.admit("ben", BEN)
    solo.start()

    async def third(_: ServerConnection) -> None:
        async with connect(solo.url(), ANNA, solo.fingerprint) as second:
            with pytest.raises(LimitError):
                async with connect(solo.url(), ANNA, solo.fingerprint):
                    pass
            async with connect(solo.url(), BEN, solo.fingerprint) as other:
                await other.ping()
            await second.ping()

    visit(solo, third)
    assert visit(solo, ServerConnection.ping) > 0


@pytest.mark.parametrize(("more", "status"), [("", 101), ("Origin: https://example.com\r\n", 403)])
def test_a_web_page_cannot_use_an_open_server(solo: Solo, more: str, status: int) -> None:
    solo.start()
    with socket.create_connection(("127.0.0.1", solo.port), timeout=60) as connection:
        connection.sendall(
            f"GET /db HTTP/1.1\r\nHost: localhost:{solo.port}\r\n{more}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert int(connection.recv(4096).split()[1]) == status


def test_connections_that_say_nothing_or_nonsense_keep_nobody_out(solo: Solo) -> None:
    solo.start()
    before = solo.number("resident_memory_bytes")
    crowd = []
    try:
        for number in range(600):
            crowd.append(socket.create_connection(("127.0.0.1", solo.port)))
            if number % 3:
                try:
                    crowd[-1].sendall(b"GET /db HTTP/1.1\r\nHost: x\r\n" if number % 3 == 1 else os.urandom(4096))
                except OSError:
                    pass  # it has been turned away already
        author = Author()
        frames = author.frames(10)
        assert write(solo, author, frames) == position_of(frames[-1])
        assert solo.number("resident_memory_bytes") - before < 64 << 20
        assert solo.number("connections_turned_away_total") > 0
        assert solo.number("connections") <= 300
    finally:
        for one in crowd:
            one.close()
    until(lambda: solo.number("connections") == 0, "the crowd to be gone")


def test_health_and_metrics_are_for_this_machine_and_name_nobody(solo: Solo) -> None:
    solo.admit("canary@example.com", ANNA)
    solo.start("--listen", "0.0.0.0")
    author = Author()
    write(solo, author, author.frames(5, 1000), "/canary@example.com/secretvault")
    health, numbers = solo.page("/health"), solo.page("/metrics")
    assert (health[0], solo.health()["status"], numbers[0]) == (200, "ok", 200)
    assert solo.number("batches_total") == 5
    assert solo.number("stored_bytes") > 5000
    assert solo.number("tenants") == 1
    private = (solo.data / "server.key").read_text().split()[4]
    said = [health[1], numbers[1], solo.log.read_text(), solo.out.read_text()]
    for canary in (ANNA.public.hex(), private, "secretvault", "canary"):
        assert not any(canary in text for text in said[:2])
    assert not any(private in text for text in said)
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert f"0100007F:{solo.http_port:04X}" in listening
    assert f"00000000:{solo.port:04X}" in listening


def test_the_service_manager_hears_of_its_start_and_its_end(solo: Solo, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(tmp_path / "notify"))
        manager.settimeout(60)
        solo.start(environment={"NOTIFY_SOCKET": os.fspath(tmp_path / "notify")})
        assert manager.recv(100) == b"READY=1"
        solo.stop()
        assert manager.recv(100) == b"STOPPING=1"


def test_what_it_keeps_is_its_owner_s_alone(solo: Solo) -> None:
    solo.admit("anna", ANNA)
    solo.start()
    author = Author()
    write(solo, author, author.frames(1))
    kept = [solo.data, *solo.data.rglob("*")]
    assert len(kept) > 8
    assert [path for path in kept if path.stat().st_mode & 0o077] == []
