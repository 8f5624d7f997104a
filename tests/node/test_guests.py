"""Who is let in, as what, and until when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from atedb.errors import LimitError
from atedb.net.errors import RefusedError
from atedb.net.host import Guest
from atedb.node import guests as guests_module
from atedb.node.config import Config
from atedb.node.guests import LEAST_COST, Guests, NodeGuest
from atedb.node.reception import Reception
from atedb.node.tenants import Tenants

KEYS = [bytes([number]) * 32 for number in range(1, 6)]


class Used:
    """What tenants store."""

    def used(self, tenant: str) -> int:
        return len(tenant)


class Door:
    """A node's guests, and who of them was put out."""

    def __init__(self, tmp_path: Path) -> None:
        self.tenants = Tenants(tmp_path)
        self.config = Config(data=tmp_path, connections=7, tenant_connections=3, tenant_rate=LEAST_COST)
        self.reception = Reception(tmp_path, bytes(32), lambda _: 0)
        self.out: list[bytes] = []

    def add(self, name: str, *keys: bytes, **limits: int) -> None:
        self.tenants.add(name, [key.hex() for key in keys], limits)

    def remove(self, name: str, *keys: bytes) -> None:
        self.tenants.remove(name, [key.hex() for key in keys])

    def guests(self) -> Guests:
        return Guests(self.tenants, self.config, Used(), self.reception)

    def admit(self, guests: Guests, key: bytes) -> NodeGuest:
        return guests.admit(key, lambda: self.out.append(key))


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


def run(main: Callable[[], object]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))  # type: ignore[arg-type]


def test_without_tenants_anybody_may_open_anything(door: Door) -> None:
    async def main() -> None:
        guest: Guest = door.admit(door.guests(), KEYS[0])
        assert guest.authorize("/anna/vault") == (None, True, True)
        assert guest.used() == len("anna")

    run(main)


def test_a_tenant_opens_its_own_chains_only_and_is_refused_others_in_the_same_words(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0], quota=77)
        door.add("anna2", KEYS[1])
        guest = door.admit(door.guests(), KEYS[0])
        assert guest.authorize("/anna/vault") == (77, True, True)
        words = set()
        for path in ("/anna2/vault", "/nobody/vault", "/", "", "anna/vault", "//anna/vault", "/../anna/vault"):
            with pytest.raises(RefusedError) as refused:
                guest.authorize(path)
            words.add(str(refused.value))
        assert len(words) == 1

    run(main)


def test_a_stranger_is_not_let_in(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        guests = door.guests()
        with pytest.raises(RefusedError):
            door.admit(guests, KEYS[1])
        assert (guests.connected, guests.refused) == (0, 1)

    run(main)


def test_who_was_just_added_comes_in_at_once(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        guests = door.guests()
        door.add("ben", KEYS[1])
        door.admit(guests, KEYS[1]).authorize("/ben/vault")

    run(main)


@pytest.mark.parametrize("how", ["key", "tenant", "file"])
def test_who_is_removed_is_put_out_and_the_others_stay(door: Door, how: str) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0], KEYS[1])
        door.add("ben", KEYS[2])
        guests = door.guests()
        for key in KEYS[:3]:
            door.admit(guests, key)
        if how == "key":
            door.remove("anna", KEYS[0])
        elif how == "tenant":
            door.remove("anna")
        else:
            (door.tenants.folder / "anna.toml").write_text(f'keys = ["{KEYS[1].hex()}"]\n')
        assert door.out == []
        await guests.renew()
        assert set(door.out) == (set(KEYS[:2]) if how == "tenant" else {KEYS[0]})
        with pytest.raises(RefusedError):
            door.admit(guests, KEYS[0])

    run(main)


def test_a_server_that_gets_its_first_tenant_is_closed_and_stays_so(door: Door) -> None:
    async def main() -> None:
        guests = door.guests()
        door.admit(guests, KEYS[0])
        door.add("anna", KEYS[1])
        door.admit(guests, KEYS[1])
        assert door.out == [KEYS[0]]
        door.remove("anna")
        door.tenants.folder.rmdir()
        with pytest.raises(RefusedError):
            door.admit(guests, KEYS[0])

    run(main)


def test_after_the_last_tenant_left_nobody_comes_in(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        door.remove("anna")
        with pytest.raises(RefusedError):
            door.admit(door.guests(), KEYS[0])

    run(main)


def test_the_connections_of_a_tenant_are_counted_and_others_have_their_own(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0], connections=2)
        door.add("ben", KEYS[1])
        guests = door.guests()
        first = door.admit(guests, KEYS[0])
        door.admit(guests, KEYS[0])
        with pytest.raises(LimitError):
            door.admit(guests, KEYS[0])
        for _ in range(3):
            door.admit(guests, KEYS[1])
        with pytest.raises(LimitError):
            door.admit(guests, KEYS[1])
        first.close()
        first.close()
        door.admit(guests, KEYS[0])
        assert guests.connected == 5

    run(main)


def test_the_connections_of_a_tenant_share_its_rate_and_its_memory_and_reconnecting_pays_no_debt(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0], KEYS[1])
        door.add("ben", KEYS[2])
        guests = door.guests()
        one, two, other = (door.admit(guests, key) for key in KEYS[:3])
        assert one.memory is two.memory is not other.memory
        await one.spend(6 * LEAST_COST)
        one.close()
        two.close()
        await guests.renew()
        start = trio.current_time()
        await other.spend(1)
        assert trio.current_time() == start
        await door.admit(guests, KEYS[1]).spend(1)
        assert trio.current_time() - start == pytest.approx(5)

    run(main)


def test_the_memory_of_all_tenants_together_is_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(guests_module, "MEMORY", 100)
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 75, "SC_PAGE_SIZE": 4}[name])
        door.add("anna", KEYS[0])
        door.add("ben", KEYS[1])
        guests = door.guests()
        anna, ben = (door.admit(guests, key).memory for key in KEYS[:2])
        await anna.take(90)
        await ben.take(60)
        with trio.move_on_after(1) as bound:
            await ben.take(30)
        assert bound.cancelled_caught
        anna.give(90)
        await ben.take(40)
        await anna.take(50)
        assert (anna.free, ben.free) == (50, 0)
        for budget, size in ((anna, 50), (ben, 60), (ben, 40)):
            budget.give(size)
        assert (anna.free, ben.free) == (100, 100)
        await anna.take(100)

    run(main)


def test_small_requests_cost_something_too(door: Door) -> None:
    async def main() -> None:
        guest = door.admit(door.guests(), KEYS[0])
        start = trio.current_time()
        for _ in range(11):
            await guest.spend(0)
        assert trio.current_time() - start == pytest.approx(9)

    run(main)


def test_a_changed_limit_holds_for_those_who_are_there(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        guests = door.guests()
        guest = door.admit(guests, KEYS[0])
        door.add("anna", quota=5, connections=1)
        await guests.renew()
        assert guest.authorize("/anna/vault").quota == 5
        with pytest.raises(LimitError):
            door.admit(guests, KEYS[0])

    run(main)


def test_what_was_read_before_somebody_came_in_does_not_put_him_out(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        guests = door.guests()
        real = guests._read

        def come_in() -> None:
            monkeypatch.undo()
            door.admit(guests, KEYS[1])

        def late() -> object:
            found = real()
            door.add("ben", KEYS[1])
            trio.from_thread.run_sync(come_in)
            return found

        monkeypatch.setattr(guests, "_read", late)
        await guests.renew()
        assert guests.connected == 1
        assert door.out == []

    run(main)


def test_the_folder_is_looked_at_again_and_again(door: Door) -> None:
    async def main() -> None:
        door.add("anna", KEYS[0])
        guests = door.guests()
        gone = trio.Event()
        guests.admit(KEYS[0], gone.set)
        door.remove("anna")
        async with trio.open_nursery() as nursery:
            await nursery.start(guests.watch)
            with trio.fail_after(60):
                await gone.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
