"""Arguments that say which chains of a server a command is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def chain_arguments(*, required: bool) -> Callable[[F], F]:
    """The arguments DATA and CHAIN."""

    def decorate(function: F) -> F:
        chain = click.argument("chain", required=required)
        data = click.argument("data", type=click.Path(file_okay=False, path_type=Path))
        return data(chain(function))

    return decorate
