"""Two machines that follow one server."""

from __future__ import annotations

from pathlib import Path

from tests.chain.conftest import crash, noise
from tests.chain.followed import Device, Server


class Pair:
    """Two machines and their server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server()
        (folder / "one").mkdir()
        (folder / "two").mkdir()
        self.one = Device.make(folder / "one", self.server)
        self.two = Device.make(folder / "two", self.server, self.one.chain.header)

    def close(self) -> None:
        for device in (self.one, self.two):
            device.chain.close()

    def again(self, name: str, *, clean: bool = True) -> Device:
        """One of them closed, or killed, and opened anew."""
        device = self.one if name == "one" else self.two
        device.chain.close() if clean else crash(device.chain)
        fresh = Device.open(self.folder / name, self.server)
        setattr(self, name, fresh)
        return fresh


def followed(pair: Pair) -> Device:
    """The second machine, about to hear of three batches of the first."""
    pair.one.put(a="1")
    pair.one.put_blob("x", noise(3000))
    pair.one.put(a="2")
    pair.one.sync()
    return pair.two
