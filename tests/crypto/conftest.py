"""Key slots as the tests use them: real in everything but the cost of Argon2id."""

from __future__ import annotations

from pathlib import Path

import pytest

from atedb.crypto.slots import KdfParams, KeySlots, Secret

ROOT = bytes(range(32))
CHEAP = KdfParams(opslimit=1, memlimit=8 << 10)


def passphrase(text: str = "correct horse") -> Secret:
    return Secret.passphrase(text)


def one_slot(text: str = "correct horse") -> KeySlots:
    slots = KeySlots.create(ROOT, clock=lambda: 1)
    slots.add(ROOT, passphrase(text), "mine", CHEAP)
    return slots


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store folder with one passphrase slot, "correct horse"."""
    one_slot().save(tmp_path)
    return tmp_path
