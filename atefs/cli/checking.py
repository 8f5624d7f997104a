"""`atefs info|fsck|verify|dump`: looking at a store, and mending it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atedb.cli import output
from atedb.errors import DamagedError, ExitCode
from atefs.cli import opening, secrets

if TYPE_CHECKING:
    from atedb.chain.dump import BatchNode, EventNode, GapNode, SegmentNode
    from atedb.chain.report import RepairReport, VerifyReport
    from atefs.vault.check import Problem

_WHERE = click.argument("where", metavar="STORE-OR-MOUNTPOINT", type=click.Path(readable=False, path_type=Path))
_SHOWN = 50
_ALTERED = "the keys had been altered by somebody else; all but the one given now were removed"
_UNEVEN = "one of `keys` and `keys.copy` was damaged, missing or older than the other"


@click.command()
@_WHERE
@output.json_option
def info(where: Path, as_json: bool) -> None:
    """Show what is known about a vault without opening it: no secret is needed.

    \b
    Example:
      atefs info ~/vault
    """
    import msgspec

    from atedb.chain.inspect import read_info
    from atedb.crypto.slots import KeySlots

    store = opening.find_store(where)
    found = read_info(store)
    slots = KeySlots.load(store, mend=False).list()
    if as_json:
        output.print_json({**msgspec.to_builtins(found), "keys": len(slots)})
        return
    output.fields(
        {
            "store": found.store,
            "chain": found.chain,
            "created": output.when(found.created),
            "format": found.format,
            "algorithms": f"{found.suite}, {found.hash}, {found.signature}",
            "log": f"{output.size(found.bytes)} in {found.segments} segments",
            "view": output.size(found.view_bytes),
            "keys": ", ".join(f"{slot.kind} {slot.label!r}" for slot in slots),
            "in use by": found.in_use or "nobody",
        }
    )


@click.command()
@_WHERE
@click.option("--data", is_flag=True, help="Read all contents too, not only the log's structure.")
@secrets.secret_options
@output.json_option
def verify(where: Path, *, data: bool, secret: secrets.SecretSource, as_json: bool) -> None:
    """Prove that a vault's log is whole, unaltered and not rolled back. Changes nothing; the vault may be mounted.

    \b
    Examples:
      atefs verify ~/vault
      atefs verify --data /media/backup/vault
    """
    store = opening.find_store(where)
    report = _verified(store, opening.unlock(store, secret, mend=False), data=data)
    if as_json:
        _print_report(report)
    else:
        _show_verified(report)
    report.require_sound()
    if not as_json:
        unread = "" if data else " Contents were not read; for them add: --data"
        click.echo(f"The log is whole: every batch is there, and is what was written.{unread}")


@click.command()
@_WHERE
@click.option("--repair", "mending", is_flag=True, help="Save what verifies, and put the vault in order again.")
@secrets.secret_options
@output.json_option
def fsck(where: Path, *, mending: bool, secret: secrets.SecretSource, as_json: bool) -> int:
    """Check a vault: its log, and the tree of files in it. Without --repair nothing is changed.

    With --repair, what verifies is put back in place, files without a name go to lost+found, and what was lost is
    said. Copy the store before you do that.

    \b
    Examples:
      atefs fsck ~/vault
      atefs fsck --repair ~/vault
    """
    store = opening.find_store(where)
    opening.refuse_mounted(store, "unmount it first: atefs umount {0}")
    if mending:
        return _mend(store, secret, as_json)
    root = opening.unlock(store, secret, mend=False)
    report = _verified(store, root, data=True)
    problems = [] if report.damage else _surveyed(store, root)
    if as_json:
        _print_report(report, problems=[str(problem) for problem in problems])
    else:
        _show_verified(report)
        _show_problems(problems)
    report.require_sound()
    if problems:
        raise DamagedError(
            f"{len(problems)} things are wrong with the tree of files; nothing was changed; "
            f"put them right with: atefs fsck --repair {store}"
        )
    if not as_json:
        click.echo("Nothing is wrong.")
    return ExitCode.OK


@click.command()
@_WHERE
@secrets.secret_options
@output.json_option
def dump(where: Path, *, secret: secrets.SecretSource, as_json: bool) -> None:
    """Show a vault's log as a tree: segments, the batches in them, the events in those. Contents are not shown.

    With --json one object a line.

    \b
    Example:
      atefs dump ~/vault | less
    """
    import msgspec

    from atedb.chain.dump import dump_log
    from atefs.cli.describe import describer
    from atefs.mount.opening import names_of

    store = opening.find_store(where)
    root = opening.unlock(store, secret, mend=False)
    for node in dump_log(store, root, describe=describer(names_of(store, root))):
        click.echo(msgspec.json.encode(node).decode() if as_json else _line(node))


def _line(node: SegmentNode | BatchNode | EventNode | GapNode) -> str:
    """A node of the tree as one line, indented by its depth."""
    fields: dict[str, Any] = {name: getattr(node, name) for name in node.__struct_fields__}
    wrong = f"  !! {fields['problem']}" if fields["problem"] else ""
    kind = type(node).__name__
    if kind == "SegmentNode":
        return f"segment {fields['number']}, {output.size(fields['bytes'])}{wrong}"
    if kind == "BatchNode":
        return (
            f"  batch {fields['sequence']} at {fields['offset']}, {output.when(fields['time'])}, "
            f"{fields['events']} events, {output.size(fields['bytes'])}, device {fields['device'][:16]}{wrong}"
        )
    if kind == "EventNode":
        flags = f" {' '.join(fields['flags'])}" if fields["flags"] else ""
        what = f": {fields['what']}" if fields["what"] else ""
        return (
            f"    {fields['lane']} {fields['object']} version {fields['version']}, {output.size(fields['bytes'])}"
            f"{flags}{what}{wrong}"
        )
    return f"  gap at {fields['offset']}, {output.size(fields['bytes'])}{wrong}"


# -- verifying


def _verified(store: Path, root: bytes, *, data: bool) -> VerifyReport:
    from atedb.chain.verify import verify_log
    from atefs.mount.opening import heads_of

    with output.progress("verifying the log") as progress:
        return verify_log(store, root, data=data, heads=heads_of(store), progress=progress)


def _surveyed(store: Path, root: bytes) -> list[Problem]:
    from atefs.mount.opening import open_chain
    from atefs.vault.check import Survey

    with output.progress("reading the log") as progress:
        chain = open_chain(store, root, read_only=True, progress=progress)
    try:
        with output.progress("checking the tree") as progress:
            return Survey(chain).run(progress)
    finally:
        chain.close()


def _print_report(report: VerifyReport | RepairReport, **more: object) -> None:
    import msgspec

    output.print_json({**msgspec.to_builtins(report), **more})


def _show_verified(report: VerifyReport) -> None:
    click.echo(
        f"{report.batches} batches with {report.events} events, {output.size(report.bytes)} in {report.segments} "
        f"segments; {report.bodies} contents compared, {report.seals} seals opened."
    )
    for remark in report.remarks:
        click.echo(f"Mended when the vault is next mounted: {remark}")
    if report.tail:
        click.echo(
            f"The end of the log ({output.size(report.tail.length)}) was never acknowledged, and will be cut off."
        )
    for damage in report.damage:
        click.echo(f"Damaged: {damage}")


def _show_problems(problems: list[Problem]) -> None:
    for problem in problems[:_SHOWN]:
        click.echo(str(problem))
    if len(problems) > _SHOWN:
        click.echo(f"… and {len(problems) - _SHOWN} more")


# -- repairing


def _mend(store: Path, secret: secrets.SecretSource, as_json: bool) -> int:
    """First the keys, then the log, then the tree of files."""
    from atedb.chain.repair import repair
    from atefs.cli.describe import describer
    from atefs.mount.opening import heads_of, names_of
    from atefs.vault.codec import terms_of

    root, keys_mended = _rescued_root(store, secret)
    names = names_of(store, root)
    with output.progress("repairing the log") as progress:
        report = repair(
            store, root, heads=heads_of(store), progress=progress, terms=terms_of(names),
            describe=describer(names),
        )  # fmt: skip
    report.remarks[:0] = keys_mended
    mended, left = _mended(store, root)
    if as_json:
        _print_report(report, mended=[str(p) for p in mended], left=[str(p) for p in left])
    else:
        _show_repaired(report)
        _show_problems(mended)
    if left:
        raise DamagedError(
            f"{len(left)} things could not be put right, the first: {left[0]}; the rest of {store} is in order"
        )
    if not as_json:
        wrong = mended or report.found or report.remarks
        click.echo("The vault is in order." if wrong else "Nothing was wrong.")
    return ExitCode.OK


def _rescued_root(store: Path, secret: secrets.SecretSource) -> tuple[bytes, list[str]]:
    """The root key, and what was mended of the key slots.

    Where somebody else has altered them, only the one that was used is kept.
    """
    from atedb.crypto.slots import KeySlots

    slots = KeySlots.load(store)
    uneven = slots.uneven
    try:
        return secrets.unlock(slots, secret), [_UNEVEN] if uneven else []
    except DamagedError:
        with secrets.obtained(secret, "Passphrase, once more") as proven:
            root = slots.rescue(proven)
        slots.save(store)
        return root, [_ALTERED]


def _mended(store: Path, root: bytes) -> tuple[list[Problem], list[Problem]]:
    """What was wrong with the tree of files, and what still is."""
    from atefs.mount.opening import open_chain
    from atefs.vault.mend import mend

    mended: list[Problem] = []
    with output.progress("reading the log") as progress:
        chain = open_chain(store, root, progress=progress)
    try:
        left = mend(chain, mended.append)
    finally:
        chain.close()
    return mended, left


def _show_repaired(report: RepairReport) -> None:
    for damage in report.found:
        click.echo(f"Damaged: {damage}")
    for remark in report.remarks:
        click.echo(f"Mended: {remark}")
    for loss in report.put_back:
        click.echo(f"Put back in an older version ({loss.kept} of {loss.version}): {loss.what or loss.object}")
    for loss in report.lost[:_SHOWN]:
        click.echo(f"Lost: {loss.lane} object {loss.object}")
    if len(report.lost) > _SHOWN:
        click.echo(f"… and {len(report.lost) - _SHOWN} more objects lost")
    if report.moved_to:
        click.echo(f"The log as it was is kept in {report.moved_to}.")
