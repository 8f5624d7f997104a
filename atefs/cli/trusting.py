"""`atefs identity` and `atefs trust`: who we are to servers, and what is believed of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atedb.cli import output
from atedb.errors import AteError, ExitCode
from atefs.cli import opening, secrets

if TYPE_CHECKING:
    from atedb.chain.position import Position
    from atedb.chain.replica import Replica
    from atedb.net.client import ServerConnection
    from atedb.net.url import ServerUrl

_WHERE = click.argument("where", metavar="STORE-OR-MOUNTPOINT", type=click.Path(readable=False, path_type=Path))


class NoServerError(AteError):
    """The vault is on this machine only."""

    exit_code = ExitCode.USAGE


@click.command("identity")
@output.json_option
def identity(as_json: bool) -> None:
    """Print the public key by which servers know this user; whoever runs one can let it in.

    It is made when it is first needed. It opens no vault.

    \b
    Example:
      atefs identity
    And on the server:
      atedb tenant add you@example.com --key KEY
    """
    from atefs.mount.identity import identity as own
    from atefs.mount.identity import identity_file

    public = own().public.hex()
    if as_json:
        output.print_json({"key": public, "file": identity_file()})
    else:
        click.echo(public)


@click.group()
def trust() -> None:
    """Show what is believed of a vault's server, and why; accept one that was restored from a backup.

    What a server gives is proven: every batch is signed and names the one before it, and this machine remembers the
    newest one that the server has acknowledged. A server that loses, alters or reorders batches, or shows two machines
    different ones, is found out; the vault can then be read here, and no longer be changed.

    \b
    Examples:
      atefs trust show ~/vault
      atefs trust accept-rollback ~/vault
    """


@trust.command()
@_WHERE
@output.json_option
def show(where: Path, as_json: bool) -> None:
    """Show the server's key, the chain's, and the newest batch that the server has acknowledged."""
    from atedb.chain.disk import RealDisk
    from atedb.chain.header import load_header
    from atedb.chain.remote import load_remote
    from atefs.mount import servers

    store = opening.find_store(where)
    url = _server(store)
    header = load_header(RealDisk(), store)
    note = load_remote(RealDisk(), store)
    known = servers.known_servers().get(url.server)
    facts: dict[str, Any] = {
        "server": str(url),
        "fingerprint": known.hex() if known else None,
        "chain": header.chain_id.hex(),
        "root_public": header.root_public,
        "acknowledged": note.acked.sequence if note else 0,
        "acknowledged_hash": note.acked.hash.hex() if note else None,
    }
    mountpoint = opening.mountpoint_of(store)
    if mountpoint is not None:
        from atefs.mount import client

        state = client.ask(mountpoint, "status")["server"]
        facts |= {"acknowledged": state["acknowledged"], "state": state["state"], "error": state["error"]}
    if as_json:
        output.print_json(facts)
    else:
        output.fields({name.replace("_", " "): "-" if value is None else value for name, value in facts.items()})


@trust.command("accept-rollback")
@_WHERE
@secrets.secret_options
def accept_rollback(where: Path, *, secret: secrets.SecretSource) -> None:
    """Believe a server that has lost batches which it had acknowledged: it was restored from a backup.

    Nothing is given up: what this machine has beyond that is sent again, as far as it was written here. The vault must
    not be mounted.
    """
    import trio

    from atedb.chain.replica import Replica
    from atedb.net.client import connect
    from atefs.mount import servers
    from atefs.mount.opening import open_chain
    from atefs.mount.session import session_for

    store = opening.find_store(where)
    url = _server(store)
    opening.refuse_mounted(store, "unmount it first: atefs umount {0}")
    root = opening.unlock(store, secret, mend=True)
    chain = open_chain(store, root, remote=True)
    try:
        replica = Replica(chain)
        before = replica.acked

        async def find() -> Position:
            pin = url.pin or servers.known_servers().get(url.server)
            who = session_for(url.server).identity
            async with connect(url, who, pin, authorities=servers.authorities()) as connection:
                return await _common(connection, url, replica)

        common = trio.run(find)
        if common == before:
            click.echo(f"The server has all that it had acknowledged, up to batch {before.sequence}; nothing changes.")
            return
        replica.accept_rollback(common)
    finally:
        chain.close()
    click.echo(
        f"The server has what this machine has up to batch {common.sequence}; it had acknowledged {before.sequence}. "
        "From now on that is believed, and what came after it here is sent again."
    )


async def _common(connection: ServerConnection, url: ServerUrl, replica: Replica) -> Position:
    """The newest batch that both have, by bisection: whoever has a batch has all before it. Not after `acked`."""
    from atedb.chain.frame import decode_frame
    from atedb.chain.position import START, Position
    from atedb.net.errors import ProtocolError

    tail = (await connection.open(url.path)).tail
    low, high = START, min(tail.sequence, replica.acked.sequence)
    while low.sequence < high:
        middle = (low.sequence + high + 1) // 2
        following = connection.follow(middle)
        news = await anext(aiter(following))
        await following.aclose()
        if isinstance(news, Position):
            raise ProtocolError("the server takes its own batches for ours")
        theirs = Position(middle, decode_frame(news[0]).hash)
        if replica.position(middle) == theirs:
            low = theirs
        else:
            high = middle - 1
    return low


def _server(store: Path) -> ServerUrl:
    from atefs.mount import servers

    url = servers.attached(store)
    if url is None:
        raise NoServerError(f"the vault in {store} follows no server: there is nobody to trust")
    return url
