"""One server in memory, and devices that follow it."""

from __future__ import annotations

from pathlib import Path

from tests.chain.conftest import crash
from tests.chain.followed import Device, Server


class World:
    """A server and devices by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server()
        self.devices: dict[str, Device] = {}

    def __getitem__(self, name: str) -> Device:
        if name not in self.devices:
            (self.folder / name).mkdir()
            header = next(iter(self.devices.values())).chain.header if self.devices else None
            self.devices[name] = Device.make(self.folder / name, self.server, header)
        return self.devices[name]

    def again(self, name: str, *, clean: bool = True) -> Device:
        """Close or kill it, and open it anew."""
        device = self.devices.pop(name)
        device.chain.close() if clean else crash(device.chain)
        self.devices[name] = Device.open(self.folder / name, self.server)
        return self.devices[name]

    def close(self) -> None:
        for device in self.devices.values():
            device.chain.close()
