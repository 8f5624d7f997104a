"""A network of its own for a test: a server and machines, each in a network namespace, with a cable to the server each.

A cable that is pulled drops what is on it without a word: nobody is told that a connection has ended, as on a real one.
Nothing outside is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.system.machine import held
from tests.system.mounted import run

_HOLD = ("unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec cat")


def _inside(pid: int) -> list[str]:
    """What a command begins with that is run where a process is."""
    return ["nsenter", f"--target={pid}", "--net", "--"]


class Cable:
    """Between one machine and the server. inside: what a command of the machine begins with; server: its address."""

    def __init__(self, number: int, server: Sequence[str], pid: int) -> None:
        self.inside = _inside(pid)
        self.server = f"10.77.{number}.1"
        self._name = f"cable{number}"
        self._at_server = server
        run(*server, "ip", "link", "add", self._name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        run(*server, "ip", "address", "add", f"{self.server}/24", "dev", self._name)
        run(*self.inside, "ip", "address", "add", f"10.77.{number}.2/24", "dev", "eth0")
        run(*self.inside, "ip", "link", "set", "eth0", "up")
        self.plug()

    def pull(self) -> None:
        """Nothing gets through any more."""
        run(*self._at_server, "ip", "link", "set", self._name, "down")

    def plug(self) -> None:
        """Everything does again."""
        run(*self._at_server, "ip", "link", "set", self._name, "up")


@contextmanager
def network(count: int) -> Iterator[tuple[list[str], list[Cable]]]:
    """What a command of the server begins with, and a cable to each of so many machines."""
    with ExitStack() as stack:
        server = _inside(stack.enter_context(held(*_HOLD)))
        yield server, [Cable(number, server, stack.enter_context(held(*_HOLD))) for number in range(count)]
