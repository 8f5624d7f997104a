"""`atedb repair`: a damaged chain of a server is completed from other copies, or ended in front of what is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atedb.cli.chains import chain_arguments
from atedb.errors import DamagedError, ExitCode

if TYPE_CHECKING:
    from atedb.node.upkeep import Mended


@click.command()
@chain_arguments(required=True)
@click.option(
    "--from", "donors", multiple=True, metavar="STORE", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another copy of the chain: of the server's folder, or the replica of a client. May be given several times.",
)  # fmt: skip
@click.option("--cut", is_flag=True, help="End the chain in front of the first batch that no copy has.")
@output.json_option
def repair(data: Path, chain: str, *, donors: tuple[Path, ...], cut: bool, as_json: bool) -> int:
    """Mend the damaged chain CHAIN in the data folder DATA, while the server is stopped or nobody uses the chain.

    What is damaged is put back from the copies named with --from, byte for byte; hashes say what belongs there, so a
    copy need not be trusted. A copy of the chain's folder from a backup has all batches of its time. A client's replica
    (the folder that atefs info names) has those that it wrote; others' without the contents of files, which is enough
    where these are sound here. It must not be mounted.

    Where only the contents of some files are lost, the chain can be used all the same: reading those ends with an
    error. Where batches are lost, clients can go on after --cut: the chain ends then in front of the first one that is
    lost, and what came after it is kept in a folder beside the log. Clients notice that the server has less than it
    had. On each of them, have that accepted with: atefs trust accept-rollback. They send again what they have written
    themselves.

    \b
    Examples:
      atedb repair /srv/atedb you@example.com/vault --from /backup/vault.chain --from /tmp/laptop-replica
      atedb repair /srv/atedb you@example.com/vault --cut
    """
    from atedb.node import upkeep

    [one] = upkeep.stored_chains(data, chain)
    mended = upkeep.repair(one, donors, cut=cut)
    if as_json:
        left = [str(hole) for hole in mended.left]
        output.print_json({"chain": one.name, "restored": mended.restored, "left": left, "kept": mended.kept})
    else:
        _show(mended)
    with output.progress(f"verifying {one.name}") as progress:
        report = upkeep.verify(one, progress)
    if report.damage:
        raise DamagedError(_advice(one.name, len(report.damage), mended))
    click.echo(f"{one.name} is whole, up to batch {report.sequence}.", err=True)
    return ExitCode.OK


def _show(mended: Mended) -> None:
    if mended.restored:
        click.echo(f"Batches put back: {len(mended.restored)}.")
    for hole in mended.left:
        click.echo(str(hole))
    if mended.kept is not None:
        click.echo(f"The chain was cut; what came after that is kept in {mended.kept}. Remove it when you like.")


def _advice(name: str, places: int, mended: Mended) -> str:
    lost = mended.kept is None and any(not hole.content for hole in mended.left)
    further = "with --cut, the chain ends in front of it and can be used" if lost else "the rest can be used as it is"
    where = f"{places} places" if places > 1 else "one place"
    return f"{name} is still damaged in {where}; no copy that was named has what was there; {further}"
