"""Where a node listens."""

from __future__ import annotations

import pytest
import trio

from atedb.errors import InUseError
from atedb.node import addresses
from atedb.node.config import ConfigError


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_this_machine_s_alone(address: str) -> None:
    assert addresses.are_loopback([address])


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.1", "::ffff:127.0.0.1", "fe80::1%eth0", "8.8.8.8"])
def test_every_other_address_is_not(address: str) -> None:
    assert not addresses.are_loopback(["127.0.0.1", address])


def test_a_name_stands_for_its_addresses_each_once() -> None:
    found = trio.run(addresses.resolve, "localhost")
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(found) == len(set(found)) > 0


@pytest.mark.parametrize("name", ["host.invalid", "1.2.3.4.5", "", "a" * 300])
def test_a_name_without_addresses_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        trio.run(addresses.resolve, name)


def test_all_addresses_have_one_port_also_where_the_system_chooses_it() -> None:
    async def main() -> None:
        listeners = await addresses.bind(["127.0.0.1", "127.0.0.2"], 0)
        ports = {addresses.port_of(listener) for listener in listeners}
        assert len(ports) == 1
        with pytest.raises(InUseError, match=f"port {ports.pop()} of 127.0.0.2 is in use"):
            await addresses.bind(["127.0.0.3", "127.0.0.2"], addresses.port_of(listeners[0]))
        for listener in listeners:
            await listener.aclose()

    trio.run(main)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"port 0 of 192\.0\.2\.1 cannot be listened on"):
        trio.run(addresses.bind, ["192.0.2.1"], 0)
