"""Sealed sets: what is put in comes out, at any size, and the pages of one set look unrelated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atedb.chain.sets import PAGE_TARGET, SetSealer, load_set, merge_set
from atedb.crypto.aead import AES_256_GCM
from atedb.crypto.hashing import digest

GROUP, OTHER = bytes(16), bytes([1] * 16)


class DictStore(dict[bytes, bytes]):
    """Rows in memory."""

    def put(self, name: bytes, row: bytes) -> None:
        self[name] = row

    def delete(self, name: bytes) -> None:
        self.pop(name, None)


def sealer() -> SetSealer:
    return SetSealer(bytes(32), AES_256_GCM)


def member(number: int) -> bytes:
    return digest(number.to_bytes(4, "little"))[:16]


deltas = st.lists(st.dictionaries(st.integers(0, 400), st.none() | st.binary(max_size=4), max_size=300), max_size=5)


@given(deltas)
def test_a_set_holds_what_its_deltas_add_up_to(steps: list[dict[int, bytes | None]]) -> None:
    store, seal = DictStore(), sealer()
    model: dict[bytes, bytes] = {}
    for step in steps:
        merge_set(store, seal, GROUP, {member(n): value for n, value in step.items()})
        for number, value in step.items():
            if value is None:
                model.pop(member(number), None)
            else:
                model[member(number)] = value
        assert load_set(store, seal, GROUP) == model
    if not model:
        assert not store


def test_two_sets_do_not_mix() -> None:
    store, seal = DictStore(), sealer()
    merge_set(store, seal, GROUP, {member(1): b"one"})
    merge_set(store, seal, OTHER, {member(2): b"two"})
    assert load_set(store, seal, GROUP) == {member(1): b"one"}
    assert load_set(store, seal, OTHER) == {member(2): b"two"}


def test_a_large_set_changes_by_the_page_not_as_a_whole() -> None:
    store, seal = DictStore(), sealer()
    merge_set(store, seal, GROUP, {member(n): b"x" for n in range(10_000)})
    before = dict(store)
    merge_set(store, seal, GROUP, {member(5): b"y"})
    changed = [name for name, row in store.items() if before.get(name) != row]
    assert len(changed) == 2  # the page, and the head that counts
    assert max(map(len, store.values())) < 40 * 4 * PAGE_TARGET


def test_no_row_shows_its_group_or_members() -> None:
    store, seal = DictStore(), sealer()
    merge_set(store, seal, GROUP, {member(n): b"canary" for n in range(1000)})
    everything = b"".join(name + row for name, row in store.items())
    assert b"canary" not in everything
    assert member(7) not in everything
