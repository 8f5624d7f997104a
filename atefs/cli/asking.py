"""Connecting to a server for one question, and about accounts."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from atedb.errors import AteError, ExitCode

if TYPE_CHECKING:
    from atedb.account.client import AccountClient
    from atedb.crypto.signing import SigningKey
    from atedb.net.client import ServerConnection
    from atedb.net.url import ServerUrl
    from atefs.mount.session import Session

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
VARIABLE = "ATE_SERVER"


class WhichServerError(AteError):
    """It is not clear which server is meant."""

    exit_code = ExitCode.USAGE


class NotLoggedInError(AteError):
    """A command needs somebody who has logged in."""

    exit_code = ExitCode.REFUSED


def server_option(function: F) -> F:
    """The option --server."""
    return click.option(
        "--server", metavar="URL",
        help=f"For example ws://server:5000. Default: ${VARIABLE}, or the one that you are logged in to.",
    )(function)  # fmt: skip


def which_server(named: str | None) -> ServerUrl:
    """The server that an option, the environment or a login names. Raises WhichServerError, UrlError."""
    from atedb.net.url import ServerUrl
    from atefs.mount.session import logins

    text = named or os.environ.get(VARIABLE)
    if text:
        return ServerUrl.parse_server(text)
    known = list(logins())
    if len(known) == 1:
        return ServerUrl.parse_server(known[0])
    raise WhichServerError(
        f"which server is meant? nothing was sent; name it: --server ws://server:5000, or set {VARIABLE}"
    )


def ask(url: ServerUrl, identity: SigningKey | None, question: Callable[[ServerConnection], Awaitable[T]]) -> T:
    """Connect, ask, and leave. A server that is met for the first time is pinned, and its fingerprint shown.

    identity: None for a visitor.
    """
    import trio

    from atedb.net.client import connect
    from atefs.mount import servers

    known = url.pin or servers.known_servers().get(url.server)

    async def asked() -> T:
        async with connect(url, identity, known, authorities=servers.authorities()) as connection:
            if known is None:
                click.echo(
                    f"{url.server} is met for the first time; it is known by this fingerprint from now on:", err=True
                )
                click.echo(f"    {connection.fingerprint.hex()}", err=True)
            servers.pin(url.server, connection.fingerprint)
            return await question(connection)

    return trio.run(asked)


def about_account(
    url: ServerUrl, session: Session | None, question: Callable[[AccountClient], Awaitable[T]]
) -> T:  # fmt: skip
    """As `ask`, about an account. session: None for a visitor."""
    from atedb.account.client import AccountClient

    identity = session.identity if session is not None else None
    return ask(url, identity, lambda connection: question(AccountClient(connection)))


def logged_in(url: ServerUrl) -> Session:
    """The login to a server. Raises NotLoggedInError."""
    from atefs.mount.session import session_for

    session = session_for(url.server)
    if session.account is None:
        raise NotLoggedInError(
            f"you are not logged in to {url.server}; nothing was changed; say: atefs login you@example.com "
            f"--server {url.server}"
        )
    return session
