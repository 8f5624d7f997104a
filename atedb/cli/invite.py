"""`atedb invite`: codes with which people may register."""

from __future__ import annotations

import time
from pathlib import Path

import click

from atedb.cli import output
from atedb.cli.settings import config_option
from atedb.cli.tenant import data_option


@click.command()
@click.argument("email", required=False)
@click.option("--admin", is_flag=True, help="Who registers with it administers the server.")
@data_option
@config_option
@output.json_option
def invite(email: str | None, *, admin: bool, data: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Make a code with which EMAIL, or anybody, may register within a week. It works once.

    The server need not be stopped. Administrators do the same from elsewhere: atefs user invite.

    \b
    Examples:
      atedb invite friend@example.com
      atedb invite --admin you@example.com
    """
    from atedb.account.email import require_email
    from atedb.node import config
    from atedb.node.data_folder import require_own
    from atedb.node.invitations import Invitations

    folder = config.load({"data": data}, config_file).data
    require_own(folder)
    code, invitation = Invitations(folder).make(require_email(email) if email else "", time.time(), admin=admin)
    if as_json:
        output.print_json({"code": code, "email": invitation.email, "expires": invitation.expires})
    else:
        click.echo(code)
        click.echo(f"Whoever has it registers with: atefs create-user {email or 'EMAIL'}", err=True)
