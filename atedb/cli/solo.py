"""`atedb solo`: the server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli.settings import config_option

if TYPE_CHECKING:
    from atedb.node.server import Running

_RESOURCE = "/db"


@click.command()
@click.argument("data", type=click.Path(file_okay=False, path_type=Path), required=False)
@click.option("--listen", metavar="ADDR", help="Address or name to listen on for chains. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port for chains; 0: any. Default: 5000.")
@click.option("--http-port", type=int, help="Port on loopback for health and metrics; 0: any. Default: 5080.")
@click.option(
    "--trust",
    type=click.Choice(["distributed", "centralized"]),
    help="Verify the signature of each batch, or have devices prove their keys once in each connection. "
    "Default: distributed.",
)
@click.option(
    "--tls-certificate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Certificate in PEM, and those that vouch for it: clients come by wss:// then.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The certificate's key, in PEM. Default: in the same file.",
)
@config_option
@click.pass_context
def solo(
    ctx: click.Context, data: Path | None, *, listen: str | None, port: int | None, http_port: int | None,
    trust: str | None, tls_certificate: Path | None, tls_key: Path | None, config_file: Path | None,
) -> None:  # fmt: skip
    """Serve the chains in the folder DATA, which is made if it is not there, until SIGTERM or Ctrl-C.

    Settings come from a TOML file, then from variables ATEDB_…, then from these options; what comes last counts. DATA
    is ~/.local/share/atedb if nothing names another folder.

    The first user registers with a code that is shown here, and is the administrator: atefs create-user. Whoever
    should not need an account is let in with: atedb tenant add. As long as there is nobody, a server that listens on
    loopback takes anybody; one that other machines can reach takes nobody.

    \b
    Examples:
      atedb solo
      atedb solo /srv/atedb --listen 0.0.0.0
      ATEDB_PORT=5001 atedb solo /srv/other
    """
    from atedb.daemon import logs
    from atedb.node import config, server

    given = {
        "data": data,
        "listen": listen,
        "port": port,
        "http_port": http_port,
        "trust": trust,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
    }
    settings = config.load(given, config_file)
    os.umask(0o077)
    logs.to_stderr(debug=ctx.obj["debug"])
    server.run(settings, _tell)


def _tell(running: Running) -> None:
    click.echo(f"The fingerprint of this server's key: {running.fingerprint.hex()}")
    for address in running.addresses:
        host = f"[{address}]" if ":" in address else address
        click.echo(f"Serving chains on {'wss' if running.tls else 'ws'}://{host}:{running.port}{_RESOURCE}/NAME/VAULT")
    click.echo(f"Health and metrics on http://127.0.0.1:{running.http_port}/health and /metrics")
    if not running.closed:
        click.echo("Nobody has registered yet: whoever can log in to this machine may use this server.")
    if running.first_code:
        click.echo(f"The first user is the administrator, and registers with the code {running.first_code}:")
        scheme = "wss" if running.tls else "ws"
        click.echo(f"    atefs create-user you@example.com --server {scheme}://THIS-SERVER:{running.port}")
