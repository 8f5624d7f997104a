"""The settings of `atedb solo`: from a TOML file, then the environment, then the command line; the last one counts.

A setting that nobody knows, or a value that is none, ends the start: a server with a misspelt limit has no limit.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from atedb.errors import AteError, ExitCode

FILE_NAME = "atedb.toml"
PREFIX = "ATEDB_"
FILE_VARIABLE = "ATEDB_CONFIG"
_PORT = Meta(ge=0, le=65535)


class ConfigError(AteError):
    """A setting that is unknown or has a value that it cannot have."""

    exit_code = ExitCode.USAGE


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where chains are kept, where clients come in, and what one server and one tenant may use.

    data: the folder of chains, tenants and the server's key. listen: an address, or a name that has some. port: for
    chains. http_port: for health and metrics, on loopback. A port of 0 is chosen by the system. connections: of all
    clients together. tenant_connections, tenant_rate (bytes a second): of a tenant that has no limits of its own.
    trust: whether the server verifies each batch's signature, or has a device prove its key once in a connection.
    tls_certificate: in PEM, with those that vouch for it; clients come by TLS then. tls_key: in PEM; none: in the same
    file.
    """

    data: Path
    listen: str = "127.0.0.1"
    port: Annotated[int, _PORT] = 5000
    http_port: Annotated[int, _PORT] = 5080
    connections: Annotated[int, Meta(ge=1, le=100_000)] = 4096
    tenant_connections: Annotated[int, Meta(ge=1, le=100_000)] = 256
    tenant_rate: Annotated[int, Meta(ge=4096)] = 128 << 20
    trust: Literal["distributed", "centralized"] = "distributed"
    tls_certificate: Path | None = None
    tls_key: Path | None = None


_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Config)}


def load(flags: Mapping[str, object], file: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The settings in force.

    flags: what was given on the command line; None where nothing was. file: the TOML file, else the one that
    ATEDB_CONFIG names, else `atedb.toml` in the configuration folder, if it is there.
    Raises ConfigError, which names the place of a setting that is wrong.
    """
    settings: dict[str, Any] = {"data": _default_data(environ)}
    settings |= _from_file(file, environ)
    settings |= _from_environment(environ)
    settings |= {
        name: _checked(name, value, f"--{name.replace('_', '-')}", strict=True)
        for name, value in flags.items()
        if value is not None
    }
    settings |= {name: Path(os.path.abspath(value)) for name, value in settings.items() if isinstance(value, Path)}
    return Config(**settings)


def _from_file(named: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    if named is None and environ.get(FILE_VARIABLE):
        named = Path(environ[FILE_VARIABLE])
    file = named or _config_home(environ) / FILE_NAME
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return {}
        raise ConfigError(f"there is no configuration file {file}; nothing was started") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration file {file} cannot be read: {error}; nothing was started") from None
    return {name: _checked(name, value, f"{name} in {file}", strict=True) for name, value in found.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        variable[len(PREFIX) :].lower(): _checked(variable[len(PREFIX) :].lower(), value, variable, strict=False)
        for variable, value in environ.items()
        if variable.startswith(PREFIX) and variable != FILE_VARIABLE and value
    }


def _checked(name: str, value: object, where: str, *, strict: bool) -> object:
    """One setting, of its type. where: how to name its place. strict: False where a number is written as text."""
    if name not in _FIELDS:
        raise ConfigError(f"{where}: there is no such setting; nothing was started; there are: {', '.join(_FIELDS)}")
    try:
        return msgspec.convert(value, _FIELDS[name], strict=strict, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where} = {value!r}: {error}; nothing was started") from None


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError(kind)


def _home(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    named = environ.get(variable, "")
    return Path(named) if named.startswith("/") else Path.home() / fallback


def _config_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("ATE_CONFIG")
    return Path(named) if named else _home(environ, "XDG_CONFIG_HOME", ".config") / "ate"


def _default_data(environ: Mapping[str, str]) -> Path:
    return _home(environ, "XDG_DATA_HOME", ".local/share") / "atedb"
