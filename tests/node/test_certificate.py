"""Clients that come by TLS: which certificate they get, which one they take, and what becomes of it when it changes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from atedb.crypto.signing import SigningKey
from atedb.net.client import connect
from atedb.net.errors import ConnectionLostError
from atedb.net.url import ServerUrl
from atedb.node import certificate as certificate_module
from atedb.node.certificate import ServerCertificate
from atedb.node.config import Config, ConfigError
from atedb.node.server import Running
from tests.engine.frames import Author
from tests.net.certificates import certificate, halves
from tests.node.whole import with_node

ANNA = SigningKey(b"a" * 32)


def with_server(folder: Path, tls: tuple[Path, Path | None], body: Callable[[ServerUrl], Awaitable[None]]) -> None:
    """Run `body` beside a server that speaks TLS."""
    (folder / "data").mkdir()
    config = Config(data=folder / "data", port=0, http_port=0, tls_certificate=tls[0], tls_key=tls[1])

    async def main(running: Running, url: ServerUrl) -> None:
        assert running.tls
        await body(url)

    with_node(config, main)


async def let_in(url: ServerUrl, authorities: Path | None) -> None:
    async with connect(url, ANNA, None, authorities=authorities) as connection:
        author = Author()
        await connection.open(url.path, create=author.files)


@pytest.mark.parametrize("two_files", [False, True])
def test_a_client_talks_to_a_server_for_which_somebody_vouches_whom_it_trusts(tmp_path: Path, two_files: bool) -> None:
    both = certificate(tmp_path)

    async def body(url: ServerUrl) -> None:
        await let_in(url, both)

    with_server(tmp_path, halves(both) if two_files else (both, None), body)


def test_and_to_no_other_one(tmp_path: Path) -> None:
    both, other = certificate(tmp_path), certificate(tmp_path, "other.pem")

    async def body(url: ServerUrl) -> None:
        for authorities in (None, other):
            with pytest.raises(ConnectionLostError, match="certificate verify failed"):
                await let_in(url, authorities)
        with pytest.raises(ConnectionLostError, match="no certificates"):
            await let_in(url, tmp_path / "none.pem")

    with_server(tmp_path, (both, None), body)


def test_nor_to_one_whose_certificate_is_for_another_address(tmp_path: Path) -> None:
    both = certificate(tmp_path, host="127.0.0.2")

    async def body(url: ServerUrl) -> None:
        with pytest.raises(ConnectionLostError, match="IP address mismatch"):
            await let_in(url, both)

    with_server(tmp_path, (both, None), body)


def test_without_tls_nobody_gets_in_where_there_is_tls(tmp_path: Path) -> None:
    both = certificate(tmp_path)

    async def body(url: ServerUrl) -> None:
        with pytest.raises(ConnectionLostError):
            await let_in(url._replace(tls=False), None)
        await let_in(url, both)

    with_server(tmp_path, (both, None), body)


def test_a_certificate_that_is_replaced_is_shown_to_the_next_client_and_who_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate_module, "LOOK_SECONDS", 0.01)
    both = certificate(tmp_path)
    first, fresh = tmp_path / "first.pem", certificate(tmp_path, "fresh.pem")
    first.write_bytes(both.read_bytes())

    async def body(url: ServerUrl) -> None:
        async with connect(url, ANNA, None, authorities=first) as connection:
            os.replace(fresh, both)
            while True:
                try:
                    await let_in(url, both)
                    break
                except ConnectionLostError:
                    continue  # it has not looked yet
            with pytest.raises(ConnectionLostError):
                await let_in(url, first)
            await connection.ping()

    with_server(tmp_path, (both, None), body)


@pytest.mark.expect_log("the former certificate stays in use")
def test_while_the_files_do_not_belong_together_the_former_certificate_stays(tmp_path: Path) -> None:
    own, key = halves(certificate(tmp_path))
    other, other_key = halves(certificate(tmp_path, "other.pem"))
    serving = ServerCertificate(own, key)
    former = serving.context
    os.replace(other, own)
    serving.renew()
    assert serving.context is former
    serving.renew()
    assert serving.context is former
    os.replace(other_key, key)
    serving.renew()
    assert serving.context is not former


def locked(path: Path) -> Path:
    """The file with a key that asks for a passphrase."""
    alone, key = halves(path)
    loaded = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return alone


def test_what_is_no_certificate_with_its_key_ends_the_start(tmp_path: Path) -> None:
    both = certificate(tmp_path)
    alone, _ = halves(both)
    _, other_key = halves(certificate(tmp_path, "other.pem"))
    empty = tmp_path / "empty"
    empty.touch()
    wrong: list[tuple[Path, Path | None, str]] = [
        (alone, None, "certificate"),
        (alone, other_key, "MISMATCH|mismatch"),
        (tmp_path / "none.pem", None, "No such file"),
        (empty, None, "certificate"),
    ]
    for file, key, why in wrong:
        with pytest.raises(ConfigError, match=why):
            ServerCertificate(file, key)
    with pytest.raises(ConfigError, match="passphrase"):
        ServerCertificate(locked(both), both.with_suffix(".key"))
    with pytest.raises(ConfigError, match="tls_key is set and tls_certificate is not"):
        ServerCertificate.of(Config(data=tmp_path, tls_key=both))
    assert ServerCertificate.of(Config(data=tmp_path)) is None
