"""The node's HTTP interface, over streams in memory: what it answers, and what it costs to be asked badly."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from atedb.node import metrics
from atedb.node.http import CONNECTIONS_MAX, REQUEST_SECONDS, HttpServer, Page, json_page
from atedb.node.metrics import Metric, Sample, counter, gauge


def broken() -> Page:
    raise ValueError("a defect")


ROUTES = {"/health": lambda: json_page(200, {"status": "ok"}), "/broken": broken}


def exchange(request: bytes, *, end: bool = True, server: HttpServer | None = None) -> bytes:
    """What is answered to the bytes; end: nothing more is sent after them."""
    answer = bytearray()

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon((server or HttpServer(ROUTES)).answer, theirs)
            await ours.send_all(request)
            if end:
                await ours.send_eof()
            async for part in ours:
                answer.extend(part)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return bytes(answer)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_page_is_answered_and_the_connection_closed() -> None:
    answer = exchange(b"GET /health?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 200
    assert body == b'{"status":"ok"}\n'
    assert b"Connection: close" in head
    assert b"Content-Type: application/json" in head
    assert b"\r\nserver:" not in head.lower()


def test_head_has_no_body() -> None:
    answer = exchange(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 16" in answer


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"GET /health/ HTTP/1.1", 404),
        (b"POST /health HTTP/1.1", 405),
        (b"GET /\xff HTTP/1.1", 400),
        (b"nonsense", 400),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
    ],
)
def test_what_is_asked_wrongly_is_refused(request_line: bytes, expected: int) -> None:
    assert status(exchange(request_line + b"\r\nHost: localhost\r\n\r\n")) == expected


@pytest.mark.expect_log("ERROR atedb.node.http: the page /broken could not be made")
def test_a_defect_in_a_page_is_logged_and_told_without_details() -> None:
    answer = exchange(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 500
    assert b"defect" not in answer


def test_a_body_is_not_read() -> None:
    ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 1000
    assert status(exchange(ask, end=False)) == 200


@pytest.mark.parametrize("ask", [b"", b"GET /hea"])
def test_whoever_says_nothing_is_left_after_a_while(ask: bytes) -> None:
    async def main() -> float:
        ours, theirs = memory_stream_pair()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HttpServer(ROUTES).answer, theirs)
            await ours.send_all(ask)
            assert [part async for part in ours] == []
        return trio.current_time() - start

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == pytest.approx(REQUEST_SECONDS)


def test_more_connections_than_allowed_are_closed_and_places_come_back() -> None:
    server = HttpServer(ROUTES)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS_MAX):
                ours, theirs = memory_stream_pair()
                nursery.start_soon(server.answer, theirs)
            await trio.testing.wait_all_tasks_blocked()
            ours, theirs = memory_stream_pair()
            await server.answer(theirs)
            assert await ours.receive_some() == b""

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert status(exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", server=server)) == 200


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(noise: bytes) -> None:
    answer = exchange(noise)
    assert not answer or status(answer) in {200, 400, 404, 405, 431, 501}


def test_metrics_are_what_prometheus_reads() -> None:
    def source() -> list[Metric]:
        services = [Sample(1, {"service": "a"}), Sample(0, {"service": 'b"\n\\'})]
        return [gauge("open", "Open.", 3), counter("seconds", "Seconds.", 0.5), Metric("up", "gauge", "Up.", services)]

    assert metrics.render([source]) == (
        "# HELP atedb_open Open.\n# TYPE atedb_open gauge\natedb_open 3\n"
        "# HELP atedb_seconds Seconds.\n# TYPE atedb_seconds counter\natedb_seconds 0.5\n"
        '# HELP atedb_up Up.\n# TYPE atedb_up gauge\natedb_up{service="a"} 1\natedb_up{service="b\\"\\n\\\\"} 0\n'
    )
