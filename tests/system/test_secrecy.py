"""A canary in names, contents, attributes and link targets is found in nothing that the store, log or state holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system.mounted import ONCE, PASSPHRASE, Mounted, atefs

pytestmark = [pytest.mark.needs("fuse"), ONCE]

CANARY = b"CaNaRy-8d1f3a"


def traces(folder: Path, needles: list[bytes]) -> list[Path]:
    """Files below the folder whose name or content has one of the needles."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if any(needle in content or needle in os.fsencode(path.name) for needle in needles):
            found.append(path)
    return found


def plant(vault: Mounted) -> None:
    name = os.fsdecode(CANARY)
    (vault / f"folder-{name}").mkdir()
    file = vault / f"folder-{name}/file-{name}"
    file.write_bytes(CANARY * 3)
    (vault / "large").write_bytes((CANARY + bytes(50)) * 40_000)
    os.setxattr(file, f"user.{name}", CANARY)
    os.symlink(f"/nowhere/{name}", vault / "link")
    os.rename(file, vault / f"renamed-{name}")
    (vault / f"gone-{name}").write_bytes(CANARY)
    (vault / f"gone-{name}").unlink()


def test_no_file_of_the_store_and_no_log_line_has_the_canary(vault: Mounted) -> None:
    plant(vault)
    home = Path(os.environ["HOME"])
    vault.remount()
    assert (vault / f"renamed-{os.fsdecode(CANARY)}").read_bytes() == CANARY * 3
    needles = [CANARY, CANARY.hex().encode(), PASSPHRASE.encode()]
    assert list(vault.store.rglob("*.seg"))
    assert vault.log.exists()
    assert traces(home, needles) == []
    vault.kill()
    assert traces(home, needles) == []
    atefs("umount", vault.path)


def test_the_search_would_find_it(vault: Mounted) -> None:
    """The negative twin: beside the store, the canary is found by name and by content."""
    home = Path(os.environ["HOME"])
    (home / "leak").write_bytes(b"..." + CANARY)
    (home / os.fsdecode(CANARY)).mkdir()
    assert len(traces(home, [CANARY])) == 2
