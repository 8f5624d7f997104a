"""What commands print: tables, JSON, sizes, progress."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
PATIENCE = 1.0
"""Seconds before progress is shown."""


def json_option(function: F) -> F:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def print_json(value: object) -> None:
    """For programs: sorted by nothing, indented for the eye. Bytes that are not UTF-8 are written as Python does."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(type(value).__name__)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def when(ns: int) -> str:
    """A time in the local zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 1_000_000_000))


def fields(pairs: dict[str, object]) -> None:
    """Name and value, a line each."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}  {value}")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they must be."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head[i]), *(len(row[i]) for row in text)) if text else len(head[i]) for i in range(len(head))]
    for row in [list(head), *text]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal's stderr, for what takes longer than a second; called with bytes done and in all."""
    start = time.monotonic()
    shown: list[Any] = []

    def tell(done: int, total: int) -> None:
        if not shown:
            if time.monotonic() - start < PATIENCE or not sys.stderr.isatty():
                return
            bar: Any = click.progressbar(length=max(total, 1), label=label, file=sys.stderr)
            bar.__enter__()
            shown.append(bar)
        bar = shown[0]
        bar.length = max(total, 1)
        bar.update(done - bar.pos)

    try:
        yield tell
    finally:
        for bar in shown:
            bar.__exit__(None, None, None)
