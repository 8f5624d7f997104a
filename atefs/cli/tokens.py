"""`atefs create-token`, `atefs token`: what lets somebody, or something, in within limits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atedb.cli import output
from atefs.cli.asking import about_account, ask, logged_in, server_option, which_server
from atefs.cli.users import CODE_FILE, authenticator_code

if TYPE_CHECKING:
    from atedb.account.messages import TokenInfo
    from atedb.account.root import AccountRoot
    from atedb.account.token import Bundle
    from atedb.net.client import ServerConnection
    from atedb.net.url import ServerUrl
    from atefs.mount.session import Session

DAYS = 30


@click.command("create-token")
@server_option
@click.option("--name", default="", help="What lists will call it.")
@click.option("--days", type=click.IntRange(1, 3650), default=DAYS, show_default=True, help="After so many, it ends.")
@click.option(
    "--chain", "chains", multiple=True, metavar="PATH",
    help="Only for this chain, such as /you@example.com/vault; may be repeated. Default: all of yours.",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="It changes nothing.")
@output.json_option
def create_token(
    *, server: str | None, name: str, days: int, chains: tuple[str, ...], read_only: bool, as_json: bool
) -> None:
    """Make a token and print it, once: it mounts your vaults where nobody can be asked.

    A token for one chain has the key of that chain and no other. Keep it in a file that is closed to others, and name
    that with --token-path or ATE_TOKEN_FILE.

    \b
    Examples:
      atefs create-token --name backup > ~/.config/ate/token
      atefs create-token --chain /you@example.com/photos --read-only --days 7 > photos.token
      atefs mount --token-path photos.token ~/photos ws://server:5000/db/you@example.com/photos
    """
    from atedb.account.messages import ALL_CHAINS, NewToken, Rights
    from atedb.account.token import Token

    url = which_server(server)
    who = logged_in(url)
    token = Token.generate()
    new = NewToken(
        token.identity.public, name or f"token of {time.strftime('%Y-%m-%d')}", int(time.time()) + days * 86_400,
        chains or (ALL_CHAINS,), Rights.READ if read_only else Rights.WRITE, token.seal(_bundle(url, who, chains)),
    )  # fmt: skip
    about_account(url, who, lambda client: client.make_token(new))
    if as_json:
        output.print_json({"token": token.text, "id": token.id, "name": new.name, "expires": new.expires})
    else:
        click.echo(token.text)
        click.echo(f"Token {token.id}, {new.name}, until {output.when(new.expires * 1_000_000_000)}.", err=True)


@click.group()
def token() -> None:
    """Tokens: make, list and revoke them, and give the second factor.

    \b
    Examples:
      atefs token list
      atefs token revoke 3fa9c2d1b04e
      atefs token sudo
    """


token.add_command(create_token, "create")


@token.command("list")
@server_option
@output.json_option
def list_(server: str | None, as_json: bool) -> None:
    """List the tokens and logins of your account, with when and from where each was used last."""
    url = which_server(server)
    found = about_account(url, logged_in(url), lambda client: client.tokens())
    if as_json:
        output.print_json([_plain(one) for one in found])
        return
    rows = [
        [one.id, "login" if one.login else "token", one.name, ", ".join(one.chains), one.rights, _time(one.expires),
         f"{_time(one.used)} from {one.address or 'here'}" if one.used else "never"]
        for one in found
    ]  # fmt: skip
    output.table(["ID", "KIND", "NAME", "CHAINS", "RIGHTS", "UNTIL", "USED"], rows)


@token.command()
@click.argument("token_id", metavar="ID")
@server_option
def revoke(token_id: str, server: str | None) -> None:
    """Let the token or login ID in no more; connections that it has open are ended at once."""
    url = which_server(server)
    about_account(url, logged_in(url), lambda client: client.revoke(token_id))
    click.echo(f"Revoked {token_id}.")


@token.command()
@click.argument("file", type=click.Path(readable=False, path_type=Path))
@server_option
@output.json_option
def show(file: Path, server: str | None, as_json: bool) -> None:
    """Show whose the token in FILE is, what it is for and until when."""
    from atefs.mount.session import session_for

    url = which_server(server)
    me = about_account(url, session_for(url.server, file), lambda client: client.me())
    if as_json:
        output.print_json({"email": me.email, **_plain(me.token)})
        return
    output.fields(
        {
            "token": f"{me.token.id}, {me.token.name}",
            "of": me.email,
            "until": _time(me.token.expires),
            "chains": ", ".join(me.token.chains),
            "rights": me.token.rights,
        }
    )


@token.command()
@server_option
@CODE_FILE
def sudo(server: str | None, code_file: Path | None) -> None:
    """Give the second factor: for 15 minutes, this login may invite, and change who belongs to what."""
    url = which_server(server)
    who, code = logged_in(url), authenticator_code(code_file)
    about_account(url, who, lambda client: client.sudo(code))
    click.echo("For the next 15 minutes, this login may do what needs a second factor.")


def _bundle(url: ServerUrl, who: Session, chains: tuple[str, ...]) -> Bundle:
    """The keys of these chains, or, without any, of the account."""
    from atedb.account.token import Bundle, ChainKey
    from atedb.net.url import require_path

    assert who.account is not None
    if not chains:
        return Bundle(account=who.account.secret)
    return Bundle(
        chains=tuple(ChainKey(path, _chain_root(url, who, require_path(path), who.account)) for path in chains)
    )


def _chain_root(url: ServerUrl, who: Session, path: str, account: AccountRoot) -> bytes:
    """The root key of a chain on the server, which the account opens. Raises WrongSecretError, StoreNotFoundError."""
    from atedb.chain.header import parse_header, verify_root
    from atedb.crypto.slots import KeySlots
    from atedb.errors import WrongSecretError
    from atefs.mount.shared_slots import SLOTS

    async def fetch(connection: ServerConnection) -> tuple[bytes, bytes]:
        opened = await connection.open(path)
        return opened.header, (await connection.document(SLOTS))[0]

    header, keys = ask(url, who.identity, fetch)
    with account.slot_secret() as secret:
        try:
            root = KeySlots.parse(keys).unlock(secret)
        except WrongSecretError:
            raise WrongSecretError(
                f"your account does not open {path}; no token was made; let it: atefs key add --account "
                "STORE-OR-MOUNTPOINT"
            ) from None
    verify_root(parse_header(header), root)
    return root


def _plain(one: TokenInfo) -> dict[str, object]:
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(one)
    return fields


def _time(seconds: int) -> str:
    return output.when(seconds * 1_000_000_000)
