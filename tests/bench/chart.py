"""From the figures that a comparison of filesystems left as JSON, the table and the chart of docs/performance.md.

.venv/bin/python tests/bench/chart.py FIGURES.json docs/performance.svg > table.md

FIGURES.json: {system: [{row: {"v": rate, "u": unit, …}, …}, …]}, one object for each pass; "ours" is atefs. The table
has medians over the passes. The chart shows each as a multiple of gocryptfs's.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

ROWS = {
    "seq_write": "sequential write",
    "seq_read_cold": "sequential read, cold",
    "seq_write_text": "sequential write, text",
    "seq_read_text_cold": "sequential read, text, cold",
    "rand4k_read_cold": "4 KiB reads, cold",
    "rand4k_write": "4 KiB overwrites",
    "rand4k_write_fsync": "4 KiB overwrite and fsync",
    "create4k": "create 4 KiB files",
    "create4k_fsync": "create 4 KiB and fsync",
    "append4k_fdatasync": "append 4 KiB and fdatasync",
    "par4_append_fsync": "four append and fsync",
    "stat_cold": "stat, cold",
    "readdir_cold": "readdir, cold",
    "find_stat_cold": "find with stat, cold",
    "open_read_cold": "open and read, cold",
    "overwrite4k": "overwrite small files",
    "rename": "rename",
    "unlink": "unlink",
    "mkdir": "mkdir",
    "untar": "untar",
    "tar_c_cold": "tar, cold",
    "cp_a": "cp -a",
    "diff_r": "diff -r",
    "rm_rf": "rm -rf",
    "git_add": "git add",
    "git_commit": "git commit",
    "git_status_cold": "git status, cold",
    "sqlite_txn": "SQLite, journal",
    "sqlite_wal_txn": "SQLite, WAL",
}
NAMES = {"ours": "atefs", "native": "ext4, bare"}
BASE = "gocryptfs"
COLOURS = {"ours": "#0b5cad", "native": "#444444", "gocryptfs": "#c2410c", "s3ql": "#7c3aed", "cryfs": "#b45309",
           "encfs": "#0f766e", "securefs": "#be185d", "rclone": "#64748b"}  # fmt: skip
LEAST, MOST = 0.1, 32.0
LEFT, WIDTH, TOP, STEP = 210, 560, 58, 21


class Figures(NamedTuple):
    """systems: in the order of the file, ours first. rates: of a system and row, the median; units: of a row."""

    systems: list[str]
    rates: dict[tuple[str, str], float]
    units: dict[str, str]


def figures(file: Path) -> Figures:
    """Read what a comparison wrote."""
    passes: dict[str, list[dict[str, dict[str, float | str]]]] = json.loads(file.read_bytes())
    rates: dict[tuple[str, str], float] = {}
    units: dict[str, str] = {}
    for system, found in passes.items():
        for row in ROWS:
            values = [float(one[row]["v"]) for one in found if "v" in one.get(row, {})]
            if values:
                rates[system, row] = median(values)
                units[row] = str(next(one[row]["u"] for one in found if "u" in one.get(row, {})))
    return Figures(sorted(passes, key=lambda system: system != "ours"), rates, units)


def table(found: Figures) -> str:
    """In Markdown: a line for each row, a column for each system, and ours as a multiple of the base."""
    names = [NAMES.get(system, system) for system in found.systems]
    lines = ["| | " + " | ".join(names) + f" | of {BASE} |", "|---" * (len(names) + 2) + "|"]
    for row, title in ROWS.items():
        cells = [_short(found.rates.get((system, row))) for system in found.systems]
        ours, base = found.rates.get(("ours", row)), found.rates.get((BASE, row))
        share = f"{ours / base:.2f}" if ours and base else "-"
        lines.append(f"| {title}, {found.units.get(row, '')} | " + " | ".join(cells) + f" | {share} |")
    return "\n".join(lines)


def _short(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


def chart(found: Figures) -> str:
    """An SVG: a line for each row, a dot for each system, on a logarithmic scale of multiples of the base."""
    rows = [row for row in ROWS if (BASE, row) in found.rates]
    bottom = TOP + STEP * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 30}" height="{bottom + 30}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for i, system in enumerate(found.systems):
        x = 20.0 + i * 96
        parts.append(_dot(system, x, 20))
        parts.append(f'<text x="{x + 10}" y="24">{escape(NAMES.get(system, system))}</text>')
    for multiple in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32):
        x = _across(multiple)
        colour, width = ("#c2410c", 1.5) if multiple == 1 else ("#e2e2e2", 1.0)
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{bottom}" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle" fill="#444">{multiple:g}x</text>')
    for i, row in enumerate(rows):
        y = TOP + STEP * i + STEP // 2 - 4
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(ROWS[row])}</text>')
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + WIDTH}" y2="{y}" stroke="#f0f0f0"/>')
        for system in reversed(found.systems):  # ours last, on top
            if (system, row) in found.rates:
                parts.append(_dot(system, _across(found.rates[system, row] / found.rates[BASE, row]), y))
    return "\n".join([*parts, "</svg>", ""])


def _across(multiple: float) -> float:
    share = math.log(min(MOST, max(LEAST, multiple)) / LEAST) / math.log(MOST / LEAST)
    return round(LEFT + share * WIDTH, 1)


def _dot(system: str, x: float, y: float) -> str:
    colour = COLOURS.get(system, "#999999")
    if system == "ours":
        return f'<circle cx="{x}" cy="{y}" r="6" fill="{colour}"/>'
    return f'<circle cx="{x}" cy="{y}" r="4" fill="none" stroke="{colour}" stroke-width="1.6"/>'


def main() -> None:
    source, target = map(Path, sys.argv[1:3])
    found = figures(source)
    target.write_text(chart(found))
    print(table(found))


if __name__ == "__main__":
    main()
