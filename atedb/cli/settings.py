"""Options that commands about a server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from atedb.cli.sizes import parse_size

F = TypeVar("F", bound=Callable[..., Any])


def config_option(function: F) -> F:
    """The option --config."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Settings in TOML. Default: $ATEDB_CONFIG, else atedb.toml in the configuration folder, if it is there.",
    )(function)


def size_or_none(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | str | None:
    """The callback of an option that takes "20G" (as bytes then) or "none". Raises click.BadParameter."""
    return value if value is None or value == "none" else parse_size(value)
