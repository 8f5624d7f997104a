"""`atedb verify`: whether the chains of a server are what clients have written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atedb.cli import output
from atedb.cli.chains import chain_arguments
from atedb.errors import DamagedError, ExitCode

if TYPE_CHECKING:
    from atedb.chain.report import VerifyReport

_SHOWN = 20


@click.command()
@chain_arguments(required=False)
@output.json_option
def verify(data: Path, chain: str | None, as_json: bool) -> int:
    """Prove that the chains in the data folder DATA are whole: all of them, or CHAIN alone ("you@example.com/vault").

    All hashes, signatures and links between batches are verified, and the server's index is compared with the log. No
    keys are needed for that: what is sealed is not opened. Nothing is changed, and the server may run; of a chain that
    it has open, the index is left out.

    \b
    Examples:
      atedb verify /srv/atedb
      atedb verify /srv/atedb you@example.com/vault --json
    """
    from atedb.node import upkeep

    damaged: list[str] = []
    found: list[dict[str, Any]] = []
    for one in upkeep.stored_chains(data, chain):
        name = one.name
        try:
            with output.progress(f"verifying {name}") as progress:
                report = upkeep.verify(one, progress)
        except DamagedError as error:
            damaged.append(name)
            found.append({"chain": name, "error": str(error)})
            if not as_json:
                click.echo(f"{name}: {error}")
            continue
        if report.damage:
            damaged.append(name)
        found.append({"chain": name, "report": report})
        if not as_json:
            _show(name, report)
    if as_json:
        output.print_json(_plain(found))
    if damaged:
        raise DamagedError(
            f"{len(damaged)} of {len(found)} chains are damaged; nothing was changed; see: atedb repair --help"
        )
    return ExitCode.OK


def _show(name: str, report: VerifyReport) -> None:
    sound = "damaged" if report.damage else "whole"
    click.echo(
        f"{name}: {sound}, up to batch {report.sequence}; {output.size(report.bytes)} in {report.segments} segments, "
        f"{report.batches} batches, {report.events} events"
    )
    for damage in report.damage[:_SHOWN]:
        click.echo(f"  {damage}")
    if len(report.damage) > _SHOWN:
        click.echo(f"  and {len(report.damage) - _SHOWN} more places")
    for remark in report.remarks:
        click.echo(f"  {remark}")


def _plain(found: list[dict[str, Any]]) -> Any:
    import msgspec

    return msgspec.to_builtins(found)
