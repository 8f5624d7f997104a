"""`atedb tenant`: who may use a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atedb.cli.settings import config_option, size_or_none

if TYPE_CHECKING:
    from atedb.node.tenants import Tenant, Tenants

data_option = click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="The server's data folder, as for atedb solo."
)


@click.group()
def tenant() -> None:
    """Say who may use a server: tenants, by the public keys that their clients have.

    The server need not be stopped: it takes a change over within a second, and ends the connections of who is removed.
    The chains /NAME/… belong to the tenant NAME.
    """


@tenant.command()
@click.argument("name")
@click.option(
    "--key", "keys", multiple=True, metavar="PUBLIC", help="A key to let in; its owner has it from: atefs identity."
)
@click.option("--quota", callback=size_or_none, help="What all chains may take up together, for example 20G, or none.")
@click.option("--rate", callback=size_or_none, help="Bytes a second, for example 10M, or none.")
@click.option("--connections", type=int, help="At one time.")
@data_option
@config_option
def add(
    name: str, *, keys: tuple[str, ...], quota: int | str | None, rate: int | str | None, connections: int | None,
    data: Path | None, config_file: Path | None,
) -> None:  # fmt: skip
    """Let the tenant NAME in, or more of its keys, or change its limits; what is not named stays.

    \b
    Examples:
      atedb tenant add you@example.com --key 2f0c… --quota 100G
      atedb tenant add you@example.com --key 77ab…          a second machine
      atedb tenant add you@example.com --rate 10M
    """
    given = {"quota": quota, "rate": rate, "connections": connections}
    limits = {limit: None if value == "none" else int(value) for limit, value in given.items() if value is not None}
    tenants = _tenants(data, config_file)
    first = not tenants.required()
    now = tenants.add(name, keys, limits)
    click.echo(f"The tenant {name} has {_count(now)}{_limits(now)}.")
    if first:
        click.echo("From now on the server lets in tenants only.")


@tenant.command("list")
@data_option
@config_option
@output.json_option
def list_(*, data: Path | None, config_file: Path | None, as_json: bool) -> None:
    """List the tenants, their limits and how many keys each has; with --json, the keys too."""
    tenants = _tenants(data, config_file)
    found = sorted(tenants.all().items())
    if as_json:
        output.print_json([{"name": name, **_fields(one)} for name, one in found])
    elif not tenants.required():
        click.echo("There are no tenants; the server takes anybody on its machine.")
    else:
        rows = [(name, len(one.keys), _size(one.quota), _size(one.rate), one.connections or "-") for name, one in found]
        output.table(("tenant", "keys", "quota", "rate", "connections"), rows)


@tenant.command()
@click.argument("name")
@click.option("--key", "keys", multiple=True, metavar="PUBLIC", help="Remove only this key.")
@data_option
@config_option
def remove(name: str, *, keys: tuple[str, ...], data: Path | None, config_file: Path | None) -> None:
    """Let the tenant NAME, or with --key some of its keys, in no more. Its chains stay on the server.

    \b
    Examples:
      atedb tenant remove you@example.com --key 77ab…       a laptop that was lost
      atedb tenant remove you@example.com
    """
    left = _tenants(data, config_file).remove(name, keys)
    if left is None:
        click.echo(f"The tenant {name} is let in no more; its chains are kept.")
    else:
        click.echo(f"The tenant {name} has {_count(left)} left.")


def _tenants(data: Path | None, config_file: Path | None) -> Tenants:
    """The tenants of the server that the options name. Raises ConfigError, OwnerError."""
    from atedb.node import config
    from atedb.node.data_folder import require_own
    from atedb.node.tenants import Tenants

    folder = config.load({"data": data}, config_file).data
    require_own(folder)
    return Tenants(folder)


def _fields(one: Tenant) -> dict[str, object]:
    return {"keys": list(one.keys), "quota": one.quota, "rate": one.rate, "connections": one.connections}


def _count(one: Tenant) -> str:
    return "one key" if len(one.keys) == 1 else f"{len(one.keys)} keys"


def _limits(one: Tenant) -> str:
    parts = [
        f"a quota of {output.size(one.quota)}" if one.quota is not None else "",
        f"{output.size(one.rate)} a second" if one.rate is not None else "",
        f"{one.connections} connections" if one.connections is not None else "",
    ]
    return "".join(f", {part}" for part in parts if part)


def _size(value: int | None) -> str:
    return "-" if value is None else output.size(value)
