"""`atefs audit`: what a server has noted about an account."""

from __future__ import annotations

import click

from atedb.cli import output
from atefs.cli.asking import about_account, logged_in, server_option, which_server


@click.command()
@server_option
@click.option("-n", "--last", type=click.IntRange(1), help="Only so many of the newest.")
@output.json_option
def audit(server: str | None, last: int | None, as_json: bool) -> None:
    """Show logins, tokens, changes of the account and what was refused, as the server has noted it, the newest last.

    Entries are sealed for you: the server can write them, and read none again. This machine remembers how far it has
    seen them; a server that has taken some away, or altered them, is found out.

    \b
    Examples:
      atefs audit
      atefs audit --last 20 --json
    """
    from atefs.mount import audit_marks

    url = which_server(server)
    who = logged_in(url)
    assert who.account is not None
    account, before = who.account, audit_marks.seen(url.server, who.email)
    found = about_account(url, who, lambda client: client.audit(who.email, account, before))
    audit_marks.note(url.server, who.email, found.last)
    entries = found.entries[-last:] if last else found.entries
    first = found.last.number - len(entries) + 1
    if as_json:
        output.print_json(
            [
                {"number": number, "time": one.time, "what": str(one.what), "about": one.about, "address": one.address}
                for number, one in enumerate(entries, first)
            ]
        )
        return
    if found.first.number and not last:
        click.echo(f"The first {found.first.number} entries are not kept any more.", err=True)
    rows = [
        [number, output.when(one.time * 1_000_000_000), one.what, one.about or "-", one.address or "-"]
        for number, one in enumerate(entries, first)
    ]
    output.table(["NUMBER", "TIME", "WHAT", "ABOUT", "FROM"], rows)
