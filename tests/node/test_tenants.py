"""Who may come in, as the files in the folder of tenants say."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from atedb.errors import StoreNotFoundError
from atedb.node.tenants import Tenant, TenantError, Tenants

KEYS = [f"{number:064x}" for number in range(8)]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    return Tenants(tmp_path / "data")


def test_a_tenant_is_what_its_file_says_also_to_another_process(tenants: Tenants, tmp_path: Path) -> None:
    tenants.add("you@example.com", KEYS[:2], {"quota": 10 << 30, "rate": 1 << 20, "connections": 3})
    expected = Tenant((KEYS[0], KEYS[1]), 10 << 30, 1 << 20, 3)
    assert tenants.all() == Tenants(tmp_path / "data").all() == {"you@example.com": expected}
    assert tenants.get("you@example.com") == expected


def test_adding_again_lets_more_keys_in_and_changes_only_what_is_named(tenants: Tenants) -> None:
    tenants.add("anna", KEYS[:1], {"quota": 5})
    assert tenants.add("anna", [KEYS[1].upper(), KEYS[0]], {}) == Tenant((KEYS[0], KEYS[1]), 5)
    assert tenants.add("anna", [], {"quota": None, "rate": 5000}) == Tenant((KEYS[0], KEYS[1]), None, 5000)


def test_a_key_or_the_whole_tenant_is_removed(tenants: Tenants) -> None:
    tenants.add("anna", KEYS[:3], {})
    assert tenants.remove("anna", [KEYS[1]]) == Tenant((KEYS[0], KEYS[2]))
    with pytest.raises(StoreNotFoundError, match="has no key"):
        tenants.remove("anna", [KEYS[0], KEYS[1]])
    assert tenants.get("anna").keys == (KEYS[0], KEYS[2])
    assert tenants.remove("anna") is None
    with pytest.raises(StoreNotFoundError):
        tenants.get("anna")


def test_after_the_last_tenant_left_somebody_is_still_required(tenants: Tenants) -> None:
    assert not tenants.required()
    tenants.add("anna", KEYS[:1], {})
    tenants.remove("anna")
    assert tenants.required()
    assert tenants.all() == {}


@pytest.mark.parametrize("act", [Tenants.remove, Tenants.get])
def test_asking_for_a_tenant_that_is_not_there_does_not_close_an_open_server(
    tenants: Tenants, act: Callable[[Tenants, str], object]
) -> None:
    with pytest.raises(StoreNotFoundError):
        act(tenants, "anna")
    assert not tenants.required()


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "a\n", "ä", "x" * 101, "-x", "@", "a.chain"])
def test_what_cannot_be_a_part_of_a_path_is_no_name(tenants: Tenants, name: str) -> None:
    with pytest.raises(TenantError, match="cannot be a tenant's name"):
        tenants.add(name, [], {})
    assert not tenants.required()


@pytest.mark.parametrize("key", ["", "ab", KEYS[0] + "0", "g" * 64])
def test_what_is_no_public_key_is_refused(tenants: Tenants, key: str) -> None:
    with pytest.raises(TenantError, match="is not a public key"):
        tenants.add("anna", [key], {})
    assert not tenants.required()


@pytest.mark.parametrize("limits", [{"quota": -1}, {"rate": 1}, {"connections": 0}])
def test_a_limit_that_makes_no_sense_is_refused_and_nothing_changes(tenants: Tenants, limits: dict[str, int]) -> None:
    tenants.add("anna", KEYS[:1], {})
    with pytest.raises(TenantError, match="cannot be like that"):
        tenants.add("anna", KEYS[1:2], dict(limits))
    assert tenants.get("anna") == Tenant((KEYS[0],))


def test_a_key_lets_in_as_one_tenant_only(tenants: Tenants) -> None:
    tenants.add("anna", KEYS[:2], {})
    with pytest.raises(TenantError, match="is the tenant anna's"):
        tenants.add("ben", KEYS[1:3], {})
    assert set(tenants.all()) == {"anna"}
    tenants.remove("anna", KEYS[1:2])
    tenants.add("ben", KEYS[1:3], {})


def test_files_are_their_owner_s_alone(tenants: Tenants) -> None:
    tenants.add("anna", KEYS[:1], {})
    assert stat.S_IMODE((tenants.folder / "anna.toml").stat().st_mode) == 0o600
    assert stat.S_IMODE(tenants.folder.stat().st_mode) == 0o700


def test_a_file_written_by_hand_is_seen_and_only_changed_files_are_read_again(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants.add("anna", KEYS[:1], {})
    tenants.add("ben", KEYS[1:2], {})
    tenants.all()
    read = []
    real = Path.read_text

    def read_text(path: Path, encoding: str | None = None) -> str:
        read.append(path.name)
        return real(path, encoding)

    monkeypatch.setattr(Path, "read_text", read_text)
    (tenants.folder / "ben.toml").write_text(f'# by hand\nkeys = ["{KEYS[2]}"]\nquota = 1_000\n')
    (tenants.folder / "ben.toml~").write_text("an editor's leftover")
    assert tenants.all() == {"anna": Tenant((KEYS[0],)), "ben": Tenant((KEYS[2],), 1000)}
    assert read == ["ben.toml"]


@pytest.mark.parametrize(
    "text",
    ["keys = [", 'keys = ["short"]', "qota = 5", "quota = -1", "keys = 5", pytest.param("#" * (1 << 20), id="large")],
)
@pytest.mark.expect_log("WARNING atedb.node.tenants: the tenant's file .*anna.toml cannot be used")
def test_by_a_file_that_is_none_nobody_comes_in_and_the_others_stay(tenants: Tenants, text: str) -> None:
    tenants.add("anna", KEYS[:1], {})
    tenants.add("ben", KEYS[1:2], {})
    (tenants.folder / "anna.toml").write_text(text + "\n")
    assert tenants.all() == {"anna": Tenant(), "ben": Tenant((KEYS[1],))}
    with pytest.raises(TenantError):
        tenants.add("anna", KEYS[2:3], {})
    assert (tenants.folder / "anna.toml").read_text() == text + "\n"
    tenants.remove("anna")
    assert set(tenants.all()) == {"ben"}


def test_two_who_add_keys_at_once_lose_none(tenants: Tenants, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=Tenants(tmp_path / "data").add, args=("anna", [key], {})) for key in KEYS for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tenants.get("anna").keys) == KEYS
    assert sorted(os.listdir(tenants.folder)) == ["anna.toml"]
