"""The settings of the server: where they come from, which one counts, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from atedb.node import config
from atedb.node.config import Config, ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text('data = "/srv/from-file"\nport = 1\nhttp_port = 2\nlisten = "::"\ntenant_rate = 10_000\n')
    return path


def test_the_file_then_the_environment_then_the_flags(file: Path) -> None:
    found = config.load({"port": 5, "http_port": None}, file, {"ATEDB_PORT": "3", "ATEDB_HTTP_PORT": "4"})
    assert found == Config(data=Path("/srv/from-file"), listen="::", port=5, http_port=4, tenant_rate=10_000)


def test_without_any_setting_it_listens_on_loopback(home: Path) -> None:
    found = config.load({}, None, os.environ)
    assert found == Config(data=home / ".local/share/atedb", listen="127.0.0.1", port=5000, http_port=5080)


def test_the_file_in_the_configuration_folder_is_read(home: Path, file: Path) -> None:
    (home / "config").mkdir()
    (home / "config" / "atedb.toml").write_text("port = 77\n")
    assert config.load({}).port == 77
    assert config.load({}, file).port == 1
    assert config.load({}, None, {**os.environ, "ATEDB_CONFIG": str(file)}).port == 1


def test_a_relative_data_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load({"data": Path("data")}).data == tmp_path / "data"


def test_the_files_of_the_certificate_are_named_like_any_other_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    file.write_text('tls_certificate = "/from/file.crt"\ntls_key = "/from/file.key"\n')
    found = config.load({"tls_certificate": Path("flag.pem")}, file, {"ATEDB_TLS_KEY": "/from/environment.key"})
    assert found.tls_certificate == tmp_path / "flag.pem"
    assert found.tls_key == Path("/from/environment.key")
    assert config.load({}, file, {}).tls_certificate == Path("/from/file.crt")
    assert config.load({}).tls_certificate is None


@pytest.mark.parametrize(
    ("flags", "text", "environ", "place"),
    [
        ({}, "prot = 5\n", {}, "prot in .*some.toml: there is no such setting"),
        ({}, 'port = "5"\n', {}, "port in .*some.toml = '5': Expected `int`"),
        ({}, "port = \n", {}, "some.toml cannot be read"),
        ({}, "tenant_rate = 1\n", {}, "tenant_rate"),
        ({}, "", {"ATEDB_PROT": "5"}, "ATEDB_PROT: there is no such setting"),
        ({}, "", {"ATEDB_PORT": "five"}, "ATEDB_PORT = 'five': Expected `int`"),
        ({}, "", {"ATEDB_PORT": "65536"}, "ATEDB_PORT = '65536': Expected `int` <= 65535"),
        ({"port": -1}, "", {}, "--port = -1: Expected `int` >= 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    file: Path, flags: dict[str, object], text: str, environ: dict[str, str], place: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=place) as refused:
        config.load(flags, file, environ)
    assert refused.value.exit_code == ExitCode.USAGE


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        config.load({}, tmp_path / "none.toml")
