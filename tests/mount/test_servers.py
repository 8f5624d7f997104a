"""Who this machine is to servers, which of them it knows, and which one a store follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from atedb.errors import DamagedError
from atedb.net.url import ServerUrl
from atefs.mount import servers
from atefs.mount.identity import identity, identity_file

URL = "ws://server:5000/db/you@example.com/vault"


def test_an_identity_is_made_once_and_closed_to_others() -> None:
    first = identity().public
    assert identity().public == first
    assert identity_file().stat().st_mode & 0o777 == 0o600
    assert first.hex() not in identity_file().read_text()


def test_an_identity_that_is_damaged_is_not_replaced() -> None:
    identity()
    before = identity_file().read_bytes()
    for damaged in (b"", before[:-5] + b"\n", before.replace(b"v1", b"v9"), b"\xff" * 80):
        identity_file().write_bytes(damaged)
        with pytest.raises(DamagedError, match="nothing was changed"):
            identity()
        assert identity_file().read_bytes() == damaged


def test_a_server_is_pinned_when_it_is_met_and_stays_what_it_was() -> None:
    assert servers.known_servers() == {}
    servers.pin("ws://a:1", b"\x01" * 32)
    servers.pin("ws://b:1", b"\x02" * 32)
    servers.pin("ws://a:1", b"\x03" * 32)
    assert servers.known_servers() == {"ws://a:1": b"\x01" * 32, "ws://b:1": b"\x02" * 32}
    assert servers.servers_file().stat().st_mode & 0o777 == 0o600


def test_lines_written_by_hand_count_and_stay() -> None:
    servers.pin("ws://a:1", b"\x01" * 32)
    with servers.servers_file().open("a") as file:
        file.write("# the one in the cellar\n\nwss://c:2 " + "ab" * 32)
    servers.pin("ws://b:1", b"\x02" * 32)
    assert set(servers.known_servers()) == {"ws://a:1", "ws://b:1", "wss://c:2"}
    assert "cellar" in servers.servers_file().read_text()


def test_a_line_that_is_no_server_is_named() -> None:
    servers.pin("ws://a:1", b"\x01" * 32)
    with servers.servers_file().open("a") as file:
        file.write("ws://b:1 deadbeef\n")
    with pytest.raises(DamagedError, match="line 2"):
        servers.known_servers()


def test_a_store_says_which_server_it_follows(tmp_path: Path) -> None:
    assert servers.attached(tmp_path) is None
    servers.attach(tmp_path, ServerUrl.parse(URL + "#" + "ab" * 32))
    assert servers.attached(tmp_path) == ServerUrl.parse(URL)
    (tmp_path / servers.SERVER).write_text("nonsense\n")
    with pytest.raises(DamagedError, match="say where its server is"):
        servers.attached(tmp_path)
