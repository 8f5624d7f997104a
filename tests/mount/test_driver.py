"""The driver's life where something stands in its way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from atedb.chain.chain import Chain
from atedb.chain.log import Log
from atedb.errors import NotResident
from atefs.mount.adapter_pyfuse3 import PyfuseAdapter
from atefs.mount.direct.adapter import DirectAdapter
from atefs.mount.driver import Driver, MountPlan, kernel_options
from atefs.mount.opening import open_chain
from atefs.mount.options import DRIVERS, MountOptions, parse
from atefs.mount.preflight import NoFuseError
from atefs.mount.waiting import Waiting
from atefs.vault.atime import AtimePolicy, AtimeRule
from atefs.vault.vault import Vault

ROOT = bytes(range(32))


class Report:
    """Nobody listens."""

    is_ready = False

    def progress(self, done: int, total: int) -> None:
        pass

    def ready(self) -> None:
        self.is_ready = True


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with an empty vault."""
    chain = Chain.create(tmp_path / "store", ROOT)
    Vault.make(chain)
    chain.close()
    return tmp_path / "store"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses to mount anything, and this process stays as it is."""

    def refuse(*_: object) -> None:
        raise NoFuseError("the kernel refused")

    monkeypatch.setattr(DirectAdapter, "attach", refuse)
    monkeypatch.setattr(PyfuseAdapter, "attach", refuse)
    monkeypatch.setattr("atefs.mount.memory.reuse_freed_memory", lambda: None)
    monkeypatch.setattr("atefs.mount.memory.calm_collector", lambda: None)


def test_a_kernel_that_waits_for_its_pages_to_be_taken_does_not_keep_the_mount_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When requests are answered no more it waits in syncfs, until the connection is given up."""
    given_up = threading.Event()
    monkeypatch.setattr("atefs.mount.kernel.write_back", lambda _mountpoint: given_up.wait())
    driver = Driver(MountPlan(tmp_path, tmp_path, MountOptions(), ROOT), Report())
    monkeypatch.setattr(driver, "_loop", Waiting(), raising=False)
    monkeypatch.setattr(driver, "_where", lambda: tmp_path)

    async def main() -> bool:
        with trio.move_on_after(0.05) as scope:
            await driver._write_back()
        given_up.set()
        return scope.cancelled_caught

    assert trio.run(main)


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("driver", DRIVERS)
def test_when_the_kernel_refuses_the_vault_is_closed_and_the_reason_said(
    store: Path, tmp_path: Path, driver: str
) -> None:
    report = Report()
    with pytest.raises(NoFuseError, match="the kernel refused"):
        Driver(MountPlan(tmp_path, store, MountOptions(driver=driver), ROOT), report).run()
    assert not report.is_ready
    open_chain(store, ROOT).close()


@pytest.mark.usefixtures("refusing")
def test_what_a_mount_has_to_know_first_is_waited_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a page cache that never has what is wanted, as where memory is short."""
    real = Log.read

    def read(log: Log, segment: int, offset: int, length: int, *, nowait: bool = False) -> bytearray:
        if nowait:
            raise NotResident(lambda: None)
        return real(log, segment, offset, length)

    monkeypatch.setattr(Log, "read", read)
    with pytest.raises(NoFuseError):
        Driver(MountPlan(tmp_path, store, MountOptions(uid=1, gid=2), ROOT), Report()).run()


def test_a_plan_does_not_show_its_key(tmp_path: Path) -> None:
    assert repr(ROOT) not in repr(MountPlan(tmp_path, tmp_path, MountOptions(), ROOT))


def test_the_kernel_checks_permissions_whenever_others_are_let_in() -> None:
    assert "default_permissions" in kernel_options(MountOptions(allow_other=True))
    assert "ro" in kernel_options(MountOptions(read_only=True))


def test_of_options_about_access_times_the_last_one_counts() -> None:
    assert parse([]).atime_policy == AtimePolicy(AtimeRule.RELATIME, AtimeRule.RELATIME)
    assert parse(["noatime,strictatime"]).atime_policy == AtimePolicy(AtimeRule.STRICTATIME, AtimeRule.STRICTATIME)
    assert parse(["nodiratime"]).atime_policy == AtimePolicy(AtimeRule.RELATIME, AtimeRule.NOATIME)
    assert parse(["strictatime", "noatime"]).atime_policy == AtimePolicy(AtimeRule.NOATIME, AtimeRule.NOATIME)
    assert "noatime" in kernel_options(parse(["relatime,noatime"]))
    assert "noatime" not in kernel_options(parse(["noatime,relatime"]))
