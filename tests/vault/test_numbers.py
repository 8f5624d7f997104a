"""Inode numbers: each device has a range, no number is given out twice, and old vaults go on."""

from __future__ import annotations

from atefs.vault import codec
from atefs.vault.check import Kind
from atefs.vault.inode import Attributes
from atefs.vault.limits import INO_RANGE
from atefs.vault.numbers import Numbers
from atefs.vault.objects import Objects
from tests.vault.conftest import ME, Bench
from tests.vault.memory_chain import MemoryChain
from tests.vault.replicas import survey


def numbers(chain: MemoryChain) -> Numbers:
    return Numbers(Objects(chain))


def test_a_range_begins_at_random_and_goes_on_after_a_restart() -> None:
    chain = MemoryChain()
    one = numbers(chain)
    first = one.allocate()
    assert 2**40 <= first < 2**63 - 2**40
    assert one.dirty
    chain.commit([one.change(chain)])
    assert [one.allocate() for _ in range(3)] == [first + 1, first + 2, first + 3]
    assert not one.dirty
    assert numbers(chain).allocate() == first + INO_RANGE
    assert numbers(MemoryChain()).allocate() != first


def test_a_device_that_makes_nothing_reserves_nothing(quick: Bench) -> None:
    quick.vault.setattr(1, Attributes(mode=0o700))
    quick.committed()
    assert not quick.chain.exists(codec.numbers_key(quick.chain, quick.chain.device))


def test_a_vault_with_numbers_from_before_there_were_ranges_goes_on(quick: Bench) -> None:
    chain = quick.chain
    assert isinstance(chain, MemoryChain)
    chain.commit([codec.superblock_change(chain, 0, 65_538, 0)])
    old = quick.vault.getattr(1)
    assert old.ino < 65_538
    assert quick.reopen().mknod(1, b"new", 0o644, 0, ME).ino > 65_538
    quick.committed()
    assert survey(chain) == []


def test_ranges_that_meet_are_found(quick: Bench) -> None:
    chain = quick.chain
    assert isinstance(chain, MemoryChain)
    file = quick.file()
    quick.committed()
    chain.commit([codec.numbers_change(chain, codec.NumbersRecord(b"another", file + 5, file + 6))])
    assert {problem.kind for problem in survey(chain)} == {Kind.NEXT_INO}
