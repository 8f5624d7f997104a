"""Key slots: what opens a vault, what does not, and what cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atedb.crypto import slot as slot_module
from atedb.crypto.recovery_code import generate_code
from atedb.crypto.slots import (
    MAX_SLOTS,
    KdfParams,
    KeySlots,
    NoSuchSlotError,
    Secret,
    SecretKind,
    SlotError,
)
from atedb.errors import WrongSecretError
from tests.crypto.conftest import CHEAP, ROOT, one_slot, passphrase


def test_every_kind_of_secret_opens_the_store(tmp_path: Path) -> None:
    code = generate_code()
    secrets = {
        "mine": Secret.passphrase("correct horse"),
        "stick": Secret.key_file(bytes(range(64))),
        "paper": Secret.recovery_code(code),
    }
    slots = KeySlots.create(ROOT, clock=lambda: 7)
    ids = {label: slots.add(ROOT, secret, label, CHEAP) for label, secret in secrets.items()}
    slots.save(tmp_path)
    for label, secret in secrets.items():
        loaded = KeySlots.load(tmp_path)
        assert loaded.unlock(secret) == ROOT
        assert loaded.unlocked_by == ids[label]
    assert [(info.id, info.kind, info.label, info.created) for info in KeySlots.load(tmp_path).list()] == [
        (ids["mine"], SecretKind.PASSPHRASE, "mine", 7),
        (ids["stick"], SecretKind.KEY_FILE, "stick", 7),
        (ids["paper"], SecretKind.RECOVERY, "paper", 7),
    ]


def test_a_new_slot_costs_what_rfc_9106_recommends() -> None:
    slots = KeySlots.create(ROOT)
    slots.add(ROOT, passphrase(), "mine")
    slots.add(ROOT, Secret.key_file(bytes(32)), "stick")
    assert [(info.opslimit, info.memlimit) for info in slots.list()] == [(3, 64 << 20)] * 2
    assert slots.unlock(passphrase()) == ROOT


@settings(max_examples=25)
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40), st.binary(min_size=32, max_size=32))
def test_only_the_same_passphrase_opens(right: str, wrong: str, root: bytes) -> None:
    slots = KeySlots.create(root)
    slots.add(root, passphrase(right), "mine", CHEAP)
    assert slots.unlock(passphrase(right)) == root
    if passphrase(right).reveal() != passphrase(wrong).reveal():
        with pytest.raises(WrongSecretError):
            slots.unlock(passphrase(wrong))


def test_a_secret_is_tried_on_slots_of_its_kind_only() -> None:
    slots = KeySlots.create(ROOT)
    slots.add(ROOT, Secret.key_file(b"k" * 32), "stick", CHEAP)
    with pytest.raises(WrongSecretError):
        slots.unlock(Secret.passphrase("k" * 32))


def test_every_cause_of_failure_has_the_same_words_and_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[tuple[int, int]] = []
    stretch = slot_module.stretch

    def counted(secret: Secret, salt: bytes, kdf: KdfParams) -> bytes:
        costs.append((kdf.opslimit, kdf.memlimit))
        return stretch(secret, salt, kdf)

    standard = KeySlots.create(ROOT)
    standard.add(ROOT, passphrase(), "mine")
    no_such_kind = KeySlots.create(ROOT)
    no_such_kind.add(ROOT, Secret.key_file(bytes(32)), "stick")
    monkeypatch.setattr(slot_module, "stretch", counted)
    seen = set()
    for slots in (standard, no_such_kind, KeySlots.create(ROOT)):
        with pytest.raises(WrongSecretError) as caught:
            slots.unlock(passphrase("wrong"))
        seen.add((str(caught.value), *costs))
        costs.clear()
    assert len(seen) == 1


def test_every_slot_is_tried_though_the_first_one_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = one_slot()
    slots.add(ROOT, passphrase("second"), "other", CHEAP)
    tried: list[bytes] = []
    stretch = slot_module.stretch

    def counted(secret: Secret, salt: bytes, kdf: KdfParams) -> bytes:
        tried.append(salt)
        return stretch(secret, salt, kdf)

    monkeypatch.setattr(slot_module, "stretch", counted)
    assert slots.unlock(passphrase()) == ROOT
    assert len(set(tried)) == 2


def test_after_a_change_of_passphrase_the_old_one_opens_nothing(store: Path) -> None:
    slots = KeySlots.load(store)
    root = slots.unlock(passphrase())
    assert slots.unlocked_by is not None
    slots.replace(root, slots.unlocked_by, passphrase("new"), CHEAP)
    slots.save(store)
    for name in ("keys", "keys.copy"):
        (store / name).rename(store / (name + ".aside"))
        assert KeySlots.load(store, mend=False).unlock(passphrase("new")) == ROOT
        with pytest.raises(WrongSecretError):
            KeySlots.load(store, mend=False).unlock(passphrase())
        (store / (name + ".aside")).rename(store / name)
    assert [info.label for info in KeySlots.load(store).list()] == ["mine"]


def test_without_the_change_the_old_passphrase_still_opens(store: Path) -> None:
    slots = KeySlots.load(store)
    slots.add(slots.unlock(passphrase()), passphrase("new"), "new", CHEAP)
    slots.save(store)
    assert KeySlots.load(store).unlock(passphrase()) == ROOT
    assert KeySlots.load(store).unlock(passphrase("new")) == ROOT


def test_a_removed_slot_opens_nothing_and_the_others_still_do(store: Path) -> None:
    slots = KeySlots.load(store)
    other = slots.add(ROOT, passphrase("other"), "other", CHEAP)
    slots.remove(ROOT, other)
    slots.save(store)
    assert KeySlots.load(store).unlock(passphrase()) == ROOT
    with pytest.raises(WrongSecretError):
        KeySlots.load(store).unlock(passphrase("other"))


def test_the_last_slot_stays() -> None:
    slots = one_slot()
    with pytest.raises(SlotError, match="the only one"):
        slots.remove(ROOT, slots.list()[0].id)
    assert slots.unlock(passphrase()) == ROOT


def test_a_store_without_slots_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SlotError, match="never be opened"):
        KeySlots.create(ROOT).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_there_is_room_for_sixteen_slots() -> None:
    slots = KeySlots.create(ROOT)
    for number in range(MAX_SLOTS):
        slots.add(ROOT, passphrase(f"number {number}"), "", CHEAP)
    with pytest.raises(SlotError, match="all 16 key slots are taken"):
        slots.add(ROOT, passphrase("one more"), "", CHEAP)


def test_one_secret_gets_one_slot_only() -> None:
    slots = one_slot()
    with pytest.raises(SlotError, match="already"):
        slots.add(ROOT, passphrase(), "again", CHEAP)
    other = slots.add(ROOT, passphrase("other"), "other", CHEAP)
    with pytest.raises(SlotError, match="already"):
        slots.replace(ROOT, other, passphrase(), CHEAP)
    slots.replace(ROOT, other, passphrase("other"), CHEAP)


@pytest.mark.parametrize("secret", [Secret.passphrase(""), Secret.key_file(b""), Secret.key_file(b"k" * 31)])
def test_a_secret_that_protects_nothing_is_refused(secret: Secret) -> None:
    with pytest.raises(SlotError, match="nothing was changed"):
        one_slot().add(ROOT, secret, "", CHEAP)


@pytest.mark.parametrize("label", ["x" * 65, "two\nlines", "\x1b[31mred", "\u202ereversed"])
def test_a_label_that_could_confuse_a_terminal_is_refused(label: str) -> None:
    with pytest.raises(SlotError, match="printable"):
        one_slot().add(ROOT, passphrase("other"), label, CHEAP)


def test_a_slot_keeps_its_kind() -> None:
    slots = one_slot()
    with pytest.raises(SlotError, match="holds a passphrase and not a key-file"):
        slots.replace(ROOT, slots.list()[0].id, Secret.key_file(bytes(32)), CHEAP)


def test_a_slot_that_is_not_there_is_named() -> None:
    slots = one_slot()
    with pytest.raises(NoSuchSlotError, match="'00000000'"):
        slots.remove(ROOT, "00000000")
    with pytest.raises(NoSuchSlotError, match="'00000000'"):
        slots.replace(ROOT, "00000000", passphrase("new"), CHEAP)


def test_every_change_counts_up_the_generation() -> None:
    slots = one_slot()
    before = slots.generation
    slots.add(ROOT, passphrase("other"), "other", CHEAP)
    slots.replace(ROOT, slots.list()[1].id, passphrase("third"), CHEAP)
    slots.remove(ROOT, slots.list()[0].id)
    assert slots.generation == before + 3
