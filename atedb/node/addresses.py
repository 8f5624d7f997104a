"""Where a node listens: which addresses a name stands for, whether they are this machine's alone, and their sockets."""

from __future__ import annotations

import errno
import ipaddress

import trio

from atedb.errors import AteError, ExitCode, InUseError
from atedb.node.config import ConfigError

LOOPBACK = "127.0.0.1"


class OpenServerError(AteError):
    """A server that takes anybody would be reachable from other machines."""

    exit_code = ExitCode.USAGE


async def resolve(listen: str) -> list[str]:
    """The addresses that `listen` names, each once. Raises ConfigError."""
    try:
        found = await trio.socket.getaddrinfo(listen, 0, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot even be asked for
        why = error.strerror if isinstance(error, OSError) else "this is no name"
        raise ConfigError(f"there is no address to listen on at {listen!r}: {why}; nothing was started") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def require_loopback(addresses: list[str]) -> None:
    """Raises OpenServerError unless only this machine can reach all of the addresses."""
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            raise OpenServerError(
                f"this server has no tenants and takes anybody, so it may not listen on {address}, where other "
                "machines could reach it; nothing was started; let somebody in first: atedb tenant add NAME --key "
                f"PUBLIC, or listen on {LOOPBACK}"
            )


async def bind(addresses: list[str], port: int) -> list[trio.SocketListener]:
    """A listening socket on each address, all with one port; 0: which one is the system's choice.

    Raises InUseError, or ConfigError for an address that is not this machine's or a port that one may not have.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            listeners += await trio.open_tcp_listeners(port, host=address)
            port = port or port_of(listeners[0])
    except OSError as error:
        for listener in listeners:
            await listener.aclose()
        where = f"port {port} of {address}"
        if error.errno == errno.EADDRINUSE:
            raise InUseError(
                f"{where} is in use by another program; nothing was started; choose another port"
            ) from None
        raise ConfigError(f"{where} cannot be listened on: {error.strerror}; nothing was started") from None
    return listeners


def port_of(listener: trio.SocketListener) -> int:
    """The port that a socket listens on."""
    return int(listener.socket.getsockname()[1])
