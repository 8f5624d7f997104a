"""The files `keys` and `keys.copy`: damage, crashes, full disks, two processes."""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atedb.crypto.hashing import digest
from atedb.crypto.recovery_code import generate_code
from atedb.crypto.slot_file import SlotTable
from atedb.crypto.slots import KeySlots, Secret
from atedb.errors import (
    AteError,
    DamagedError,
    InUseError,
    NoSpaceError,
    ReadOnlyError,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
    UnsupportedError,
    WrongSecretError,
)
from tests.crypto.conftest import CHEAP, ROOT, one_slot, passphrase

NAMES = ("keys", "keys.copy")


def rehashed(body: bytes) -> bytes:
    """A file with this text before its checksum line, as somebody who knows the format would write it."""
    return body + b' "checksum": "' + digest(body).hex().encode() + b'"\n}\n'


def body_of(text: bytes) -> bytes:
    return text[: text.rindex(b' "checksum"')]


def test_both_files_hold_the_same_and_are_for_their_owner_only(store: Path) -> None:
    assert (store / "keys").read_bytes() == (store / "keys.copy").read_bytes()
    assert {stat.S_IMODE((store / name).stat().st_mode) for name in NAMES} == {0o600}
    assert {path.name for path in store.iterdir()} == set(NAMES)


def test_no_secret_is_in_the_files(tmp_path: Path) -> None:
    code, key = generate_code(), os.urandom(48)
    slots = KeySlots.create(ROOT)
    for secret in (Secret.passphrase("canary-passphrase"), Secret.recovery_code(code), Secret.key_file(key)):
        slots.add(ROOT, secret, "", CHEAP)
    slots.save(tmp_path)
    written = b"".join((tmp_path / name).read_bytes() for name in NAMES)
    for canary in (b"canary-passphrase", code.encode(), code.replace("-", "")[4:].encode(), key, ROOT):
        for shape in (canary, canary.hex().encode(), base64.b64encode(canary), base64.b64encode(canary)[:-4]):
            assert shape not in written


@pytest.mark.parametrize("name", NAMES)
def test_any_flipped_byte_in_one_file_is_found_and_mended(
    store: Path, name: str, expect_log: Callable[[str], None]
) -> None:
    expect_log(f"WARNING .*{name} is damaged")
    good = (store / name).read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        (store / name).write_bytes(damaged)
        slots = KeySlots.load(store)
        assert (store / name).read_bytes() == damaged, "nothing is written before the root key vouches for it"
        if position % 50 == 0:
            assert slots.unlock(passphrase()) == ROOT
            assert (store / name).read_bytes() == good


def test_any_flipped_byte_in_both_files_is_found(store: Path) -> None:
    good = (store / "keys").read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        for name in NAMES:
            (store / name).write_bytes(damaged)
        with pytest.raises(DamagedError, match="put the file `keys` back from a backup"):
            KeySlots.load(store)


@pytest.mark.parametrize("length", [0, 1, 80, 81, 82, 400])
def test_a_file_cut_short_is_found(store: Path, length: int) -> None:
    for name in NAMES:
        os.truncate(store / name, length)
    with pytest.raises(DamagedError):
        KeySlots.load(store)


@given(st.binary(max_size=300))
def test_no_content_does_more_than_be_refused(junk: bytes) -> None:
    for text in (junk, rehashed(junk), rehashed(b"{" + junk + b",\n")):
        with pytest.raises(AteError):
            SlotTable.parse(text, "keys")


def test_deeply_nested_or_oversized_content_is_damage(store: Path) -> None:
    for text in (rehashed(b'{"format": ' + b"[" * 30_000), bytes(1 << 20)):
        for name in NAMES:
            (store / name).write_bytes(text)
        with pytest.raises(DamagedError):
            KeySlots.load(store)


def test_one_missing_file_is_written_again(store: Path) -> None:
    for name in NAMES:
        (store / name).unlink()
        assert KeySlots.load(store).unlock(passphrase()) == ROOT
        assert (store / "keys").read_bytes() == (store / "keys.copy").read_bytes()


def test_mending_can_be_forbidden(store: Path) -> None:
    (store / "keys.copy").unlink()
    assert KeySlots.load(store, mend=False).unlock(passphrase()) == ROOT
    assert not (store / "keys.copy").exists()


def test_a_wrong_secret_mends_nothing(store: Path) -> None:
    (store / "keys.copy").unlink()
    with pytest.raises(WrongSecretError):
        KeySlots.load(store).unlock(passphrase("wrong"))
    assert not (store / "keys.copy").exists()


@pytest.mark.expect_log("still not right: .*Read-only file system")
def test_a_disk_that_cannot_be_written_keeps_nobody_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "keys.copy").unlink()
    monkeypatch.setattr(os, "replace", failing(errno.EROFS))
    assert KeySlots.load(store).unlock(passphrase()) == ROOT


def test_no_vault_and_no_folder_are_the_same_answer(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreNotFoundError, match="atefs init"):
            KeySlots.load(folder)


def test_a_newer_format_is_refused_by_name_even_beside_an_older_copy(store: Path) -> None:
    text = (store / "keys").read_bytes()
    (store / "keys").write_bytes(rehashed(body_of(text).replace(b'"version": 1', b'"version": 2, "more": 1')))
    with pytest.raises(UnsupportedError, match="version 2"):
        KeySlots.load(store)


@pytest.mark.parametrize("name", [b"argon2id", b"xchacha20-poly1305"])
def test_an_unknown_algorithm_is_refused_by_name(store: Path, name: bytes) -> None:
    (store / "keys").write_bytes(rehashed(body_of((store / "keys").read_bytes()).replace(name, b"rot13")))
    with pytest.raises(UnsupportedError, match="'rot13'"):
        KeySlots.load(store)


def test_two_files_of_one_age_that_differ_are_not_chosen_between(store: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    one_slot().save(other)
    (store / "keys.copy").write_bytes((other / "keys").read_bytes())
    with pytest.raises(DamagedError, match="differ though they are of one age"):
        KeySlots.load(store)


def test_a_new_vault_does_not_overwrite_another(store: Path) -> None:
    before = (store / "keys").read_bytes()
    with pytest.raises(StoreExistsError):
        one_slot("intruder").save(store)
    assert (store / "keys").read_bytes() == before


def test_a_change_made_meanwhile_by_another_process_is_not_lost(store: Path) -> None:
    mine, theirs = KeySlots.load(store), KeySlots.load(store)
    theirs.add(ROOT, passphrase("theirs"), "theirs", CHEAP)
    theirs.save(store)
    mine.add(ROOT, passphrase("mine"), "mine", CHEAP)
    with pytest.raises(InUseError, match="run the command again"):
        mine.save(store)
    assert KeySlots.load(store).unlock(passphrase("theirs")) == ROOT


def test_saving_twice_is_no_conflict_with_oneself(tmp_path: Path) -> None:
    slots = one_slot()
    slots.save(tmp_path)
    slots.add(ROOT, passphrase("other"), "other", CHEAP)
    slots.save(tmp_path)
    assert KeySlots.load(tmp_path).unlock(passphrase("other")) == ROOT


def test_a_link_left_in_the_way_is_not_followed(store: Path, tmp_path_factory: Any) -> None:
    victim = tmp_path_factory.mktemp("victim") / "file"
    victim.write_bytes(b"untouched")
    (store / "keys.tmp").symlink_to(victim)
    slots = KeySlots.load(store)
    slots.add(ROOT, passphrase("other"), "other", CHEAP)
    slots.save(store)
    assert victim.read_bytes() == b"untouched"
    assert not (store / "keys.tmp").exists()


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, NoSpaceError), (errno.EROFS, ReadOnlyError), (errno.EIO, StorageError)]
)
def test_what_the_disk_refuses_leaves_the_old_slots(
    store: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[AteError]
) -> None:
    slots = KeySlots.load(store)
    slots.add(ROOT, passphrase("other"), "other", CHEAP)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(number))
        with pytest.raises(kind):
            slots.save(store)
    assert [info.label for info in KeySlots.load(store).list()] == ["mine"]
    slots.save(store)
    assert KeySlots.load(store).unlock(passphrase("other")) == ROOT


class Crash(BaseException):
    """The machine stops here."""


def crash_at(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the call numbered `point` of those that change the disk or wait for it."""
    count = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def before(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                raise Crash
            return call(*args, **kwargs)

        return before

    for name in ("open", "fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_a_crash_at_any_point_leaves_the_old_slots_or_the_new(store: Path) -> None:
    outcomes = []
    for point in range(1, 100):
        slots = KeySlots.load(store)
        slots.unlock(passphrase())
        before = slots.generation
        added = slots.add(ROOT, passphrase(f"added {point}"), "other", CHEAP)
        crashed = False
        with pytest.MonkeyPatch.context() as patched:
            crash_at(point, patched)
            try:
                slots.save(store)
            except Crash:
                crashed = True
        after = KeySlots.load(store)
        assert after.unlock(passphrase()) == ROOT
        assert (store / "keys").read_bytes() == (store / "keys.copy").read_bytes(), "unlocking heals"
        outcomes.append(after.generation - before)
        if after.generation > before:
            assert after.unlock(passphrase(f"added {point}")) == ROOT
            after.remove(ROOT, added)
            after.save(store)
        if not crashed:
            break
    assert outcomes[-1] == 1
    assert set(outcomes) == {0, 1}
    assert len(outcomes) >= 10
    assert outcomes == sorted(outcomes), "once the new slots are there they stay"
