"""Sizes as people write them."""

from __future__ import annotations

import click


def parse_size(text: str) -> int:
    """ "20G" as bytes; K, M, G and T are powers of 1024. Raises click.BadParameter."""
    units = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in units else ""
    try:
        value = float(number.removesuffix(unit) if unit else number)
    except ValueError:
        value = -1
    if value < 0:
        raise click.BadParameter(f"{text!r} is not a size; write for example 20G")
    return int(value * (1 << units[unit]))
