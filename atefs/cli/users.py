"""`atefs create-user`, `atefs user`, `atefs login|logout|whoami`: accounts on a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atefs.cli import secrets
from atefs.cli.asking import about_account, logged_in, server_option, which_server

if TYPE_CHECKING:
    from atedb.account.client import AccountClient, Enrolment, Entry
    from atedb.account.messages import NewToken
    from atedb.account.token import Token
    from atedb.crypto.secret import Secret
    from atedb.net.url import ServerUrl

LOGIN_DAYS = 90
LEAST_PASSWORD = 8
CODE_FILE = click.option(
    "--code-file", type=click.Path(readable=False, path_type=Path),
    help="Read the authenticator's code from this file.",
)  # fmt: skip
_NEW_PASSWORD = click.option(
    "--new-passphrase-file", type=click.Path(readable=False, path_type=Path),
    help="Read the new password from this file.",
)  # fmt: skip


@click.command("create-user")
@click.argument("email")
@server_option
@click.option(
    "--invitation-file", type=click.Path(readable=False, path_type=Path),
    help="Read the code of the invitation from this file.",
)  # fmt: skip
@secrets.secret_options
@output.json_option
def create_user(
    email: str, *, server: str | None, invitation_file: Path | None, secret: secrets.SecretSource, as_json: bool
) -> None:
    """Register as EMAIL on a server, and log in there.

    It takes the code of an invitation: a new server prints one for its administrator, who invites others with atefs
    user invite. Shown once are a QR code for the authenticator, which gives the second factor, and a recovery code.
    The password is made into keys on this machine; the server gets nothing that opens anything.

    \b
    Examples:
      atefs create-user you@example.com --server ws://server:5000
      atefs mount ~/vault ws://server:5000/db/you@example.com/vault
    """
    from atedb.account.email import require_email
    from atedb.account.token import Token

    email, url, token = require_email(email), which_server(server), Token.generate()
    invitation = secrets.read_line(invitation_file, "invitation", "The invitation's code").upper()
    with _new_password(secret) as password:
        new = about_account(
            url, None, lambda client: client.register(invitation, email, password, _login_token(token), token)
        )
    _keep(url, email, new.entry)
    _show_factors(email, url, new, as_json)


@click.command()
@click.argument("email")
@server_option
@CODE_FILE
@secrets.secret_options
def login(email: str, *, server: str | None, code_file: Path | None, secret: secrets.SecretSource) -> None:
    """Log in as EMAIL, for 90 days or until atefs logout: vaults of the account are mounted without a passphrase then.

    \b
    Examples:
      atefs login you@example.com --server ws://server:5000
    """
    from atedb.account.email import require_email
    from atedb.account.token import Token

    email, url, token = require_email(email), which_server(server), Token.generate()
    with _password(secret, "Password") as password:
        code = authenticator_code(code_file)
        entry = about_account(
            url, None, lambda client: client.log_in(email, password, code, _login_token(token), token)
        )
    _keep(url, email, entry)
    click.echo(f"Logged in to {url.server} as {email}.")


@click.command()
@server_option
def logout(server: str | None) -> None:
    """Log out: this machine's login is let in no more, and opens nothing any more.

    Vaults that are mounted stay so until they are unmounted, without their server.

    \b
    Example:
      atefs logout
    """
    from atedb.errors import AteError
    from atefs.mount import session

    url = which_server(server)
    who = logged_in(url)
    try:
        about_account(url, who, lambda client: client.leave())
    except AteError as error:
        click.echo(f"The server was not told, and lets the login in until it expires: {error}", err=True)
    session.forget(url.server)
    click.echo(f"Logged out from {url.server}.")


@click.command()
@server_option
@output.json_option
def whoami(server: str | None, as_json: bool) -> None:
    """Show as whom, with which token and until when you are known to a server.

    \b
    Examples:
      atefs whoami
      ATE_TOKEN_FILE=photos.token atefs whoami --server ws://server:5000
    """
    _show_me(server, as_json)


@click.group()
def user() -> None:
    """Accounts: make one, look at it, change its password, get it back, invite others.

    \b
    Examples:
      atefs user details
      atefs user passwd
      atefs user recover you@example.com --server ws://server:5000
      atefs user invite friend@example.com
    """


user.add_command(create_user, "create")


@user.command()
@server_option
@output.json_option
def details(server: str | None, as_json: bool) -> None:
    """As `atefs whoami`."""
    _show_me(server, as_json)


@user.command("passwd")
@server_option
@CODE_FILE
@_NEW_PASSWORD
@secrets.secret_options
def passwd(
    *, server: str | None, code_file: Path | None, new_passphrase_file: Path | None, secret: secrets.SecretSource
) -> None:
    """Change the account's password; the old one is good for nothing any more. Logins and tokens stay."""
    url = which_server(server)
    who = logged_in(url)
    with _password(secret, "Current password") as old:
        code = authenticator_code(code_file)
        with _new_password(secrets.SecretSource(new_passphrase_file)) as new:

            async def change(client: AccountClient) -> None:
                assert who.account is not None
                await client.sudo(code)
                await client.change_password(who.email, who.account, old, new)

            about_account(url, who, change)
    click.echo("The password is changed; the old one is good for nothing any more.")


@user.command()
@click.argument("email")
@server_option
@_NEW_PASSWORD
@click.option(
    "--recovery-code-file", type=click.Path(readable=False, path_type=Path),
    help="Read the recovery code from this file.",
)  # fmt: skip
@output.json_option
def recover(
    email: str, *, server: str | None, new_passphrase_file: Path | None, recovery_code_file: Path | None, as_json: bool
) -> None:
    """Get the account EMAIL back with its recovery code: a new password, second factor and recovery code.

    All logins and tokens that there were end.
    """
    from atedb.account.email import require_email
    from atedb.account.token import Token
    from atedb.crypto.secret import Secret

    email, url, token = require_email(email), which_server(server), Token.generate()
    with (
        Secret.recovery_code(secrets.read_line(recovery_code_file, "recovery code", "Recovery code")) as old,
        _new_password(secrets.SecretSource(new_passphrase_file)) as password,
    ):
        new = about_account(url, None, lambda client: client.recover(email, old, password, _login_token(token), token))
    _keep(url, email, new.entry)
    _show_factors(email, url, new, as_json)


@user.command()
@click.argument("email", required=False)
@server_option
@output.json_option
def invite(email: str | None, *, server: str | None, as_json: bool) -> None:
    """Make a code with which EMAIL, or anybody, may register within a week. For administrators, after token sudo."""
    from atedb.account.email import require_email

    url, whom = which_server(server), require_email(email) if email else ""
    invited = about_account(url, logged_in(url), lambda client: client.invite(whom))
    if as_json:
        output.print_json({"code": invited.code, "email": email or "", "expires": invited.expires})
    else:
        click.echo(invited.code)
        click.echo(
            f"Whoever has it registers with: atefs create-user {email or 'EMAIL'} --server {url.server}", err=True
        )


def _login_token(token: Token) -> NewToken:
    import socket

    from atedb.account.client import login_token
    from atedb.account.messages import MAX_NAME

    name = f"login on {socket.gethostname() or 'a machine'}"[:MAX_NAME]
    return login_token(token, name, int(time.time()) + LOGIN_DAYS * 86_400)


def _keep(url: ServerUrl, email: str, entry: Entry) -> None:
    from atefs.mount import session

    session.keep(url.server, session.Login(email, entry.token.text, entry.root.secret))


def authenticator_code(file: Path | None) -> str:
    """The second factor's code, as it is shown: spaces do not matter."""
    code = "".join(secrets.read_line(file, "code", "Code of your authenticator").split())
    if not (code.isascii() and code.isdigit() and len(code) == 6):
        raise click.UsageError("A code of the authenticator has six digits.")
    return code


def _password(where: secrets.SecretSource, prompt: str) -> Secret:
    """A password that there is."""
    return _of_an_account(secrets.obtained(where, prompt))


def _of_an_account(secret: Secret) -> Secret:
    from atedb.crypto.secret import SecretKind

    if secret.kind is not SecretKind.PASSPHRASE:
        raise click.UsageError(
            "An account has a password: no key file, and no recovery code, which is for: atefs user recover"
        )
    return secret


def _new_password(where: secrets.SecretSource) -> Secret:
    password = _of_an_account(secrets.new_secret(where, "New password"))
    if len(password) < LEAST_PASSWORD:
        raise click.UsageError(f"A password has {LEAST_PASSWORD} characters at least.")
    return password


def _show_factors(email: str, url: ServerUrl, new: Enrolment, as_json: bool) -> None:
    """The one time that they are shown."""
    import sys

    from atedb.crypto.totp import totp_uri
    from atefs.cli.creating import show_recovery_code

    uri = totp_uri(new.totp, email, f"atefs {url.host}")
    if as_json:
        output.print_json({"email": email, "server": url.server, "totp": uri, "recovery_code": new.recovery})
        return
    click.echo(f"You are {email} on {url.server}, and logged in.")
    click.echo("Let your authenticator read this, once; its codes are asked for when you log in:")
    if sys.stdout.isatty():
        import segno

        segno.make(uri).terminal(compact=True)
    click.echo(f"    {uri}")
    show_recovery_code(new.recovery, "get the account back")


def _show_me(server: str | None, as_json: bool) -> None:
    from atefs.mount.session import session_for

    url = which_server(server)
    me = about_account(url, session_for(url.server), lambda client: client.me())
    shown = {
        "email": me.email, "server": url.server, "administrator": me.admin, "token": me.token.name, "id": me.token.id,
        "login": me.token.login, "expires": me.token.expires, "chains": list(me.token.chains),
        "rights": str(me.token.rights), "sudo": me.sudo, "fingerprint": me.card.fingerprint.hex(),
    }  # fmt: skip
    if as_json:
        output.print_json(shown)
        return
    output.fields(
        {
            "user": me.email + (", administrator" if me.admin else ""),
            "server": url.server,
            "fingerprint": me.card.fingerprint.hex(),
            "token" if not me.token.login else "login": f"{me.token.id}, {me.token.name}",
            "until": output.when(me.token.expires * 1_000_000_000),
            "chains": ", ".join(me.token.chains),
            "rights": str(me.token.rights),
            "second factor": f"for another {me.sudo // 60 + 1} min" if me.sudo else "not given lately",
        }
    )
