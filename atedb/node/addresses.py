"""Where a node listens: which addresses a name stands for, whether they are this machine's alone, and their sockets."""

from __future__ import annotations

import errno
import ipaddress

import trio

from atedb.errors import InUseError
from atedb.node.config import ConfigError

LOOPBACK = "127.0.0.1"


async def resolve(listen: str) -> list[str]:
    """The addresses that `listen` names, each once. Raises ConfigError."""
    try:
        found = await trio.socket.getaddrinfo(listen, 0, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot even be asked for
        why = error.strerror if isinstance(error, OSError) else "this is no name"
        raise ConfigError(f"there is no address to listen on at {listen!r}: {why}; nothing was started") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def are_loopback(addresses: list[str]) -> bool:
    """Whether only this machine can reach all of the addresses."""
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


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
