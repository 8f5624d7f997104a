"""Telling the service manager how far we are (man 3 sd_notify)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send one state, for example "READY=1". True: there was a manager to tell.

    A manager that does not listen is no reason to fail: errors are swallowed.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    name = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(name)
            sock.sendall(state.encode())
    except OSError:
        return False
    return True
