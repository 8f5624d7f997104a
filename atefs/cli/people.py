"""`atefs verify-user`: who other users are."""

from __future__ import annotations

import re

import click

from atedb.cli import output
from atefs.cli.asking import about_account, server_option, which_server


@click.command("verify-user")
@click.argument("email")
@server_option
@click.option("--fingerprint", metavar="HEX", help="What they read to you: compare it, and believe it if it is right.")
@output.json_option
def verify_user(email: str, *, server: str | None, fingerprint: str | None, as_json: bool) -> None:
    """Show the fingerprint of EMAIL's keys, and remember it; a server that shows other keys later is refused.

    Who has the keys, the fingerprint alone tells: have them read theirs to you, from atefs whoami, by telephone or face
    to face, and name it with --fingerprint. Blanks in it do not matter.

    \b
    Examples:
      atefs verify-user friend@example.com
      atefs verify-user friend@example.com --fingerprint "5f1c 99a0 …"
    """
    from atedb.account.email import require_email
    from atefs.mount import people
    from atefs.mount.session import session_for

    email, url = require_email(email), which_server(server)
    said = re.sub(r"\s", "", fingerprint).lower() if fingerprint is not None else None
    if said is not None and not re.fullmatch(r"[0-9a-f]{64}", said):
        raise click.UsageError("A fingerprint has 64 hexadecimal digits.")
    card = about_account(url, session_for(url.server), lambda client: client.card(email))
    known = email in people.met(url.server)
    person = people.verify(url.server, card, said) if said is not None else people.require_same(url.server, card)
    if as_json:
        output.print_json({"email": email, "fingerprint": person.fingerprint, "verified": person.verified})
        return
    groups = [person.fingerprint[at : at + 4] for at in range(0, len(person.fingerprint), 4)]
    click.echo(f"{email} on {url.server}:")
    for at in range(0, len(groups), 8):
        click.echo("    " + " ".join(groups[at : at + 8]))
    if person.verified:
        click.echo("This was compared with what they said themselves.")
    else:
        click.echo("Met before, and the same." if known else "Met for the first time, and remembered from now on.")
        click.echo("Have them read theirs to you: atefs whoami shows it.")
