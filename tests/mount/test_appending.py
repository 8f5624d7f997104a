"""Where an append goes: to the end that the vault knows of, and not to the one that the kernel knew of."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from atefs.mount.direct.files import Files
from atefs.mount.direct.protocol import BODY, WRITE_CACHE, WRITE_IN
from atefs.mount.direct.request import Request
from atefs.mount.direct.services import Services


class Vault:
    """A file of ten bytes."""

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def getattr(self, ino: int) -> Any:
        return SimpleNamespace(size=10)

    def write(self, ino: int, offset: int, content: bytes, caller: object) -> None:
        self.offsets.append(offset)


@pytest.mark.parametrize(
    ("flags", "how", "asked", "offset"),
    [(os.O_APPEND, 0, 5, 10), (os.O_APPEND, 0, 15, 15), (0, 0, 5, 5), (os.O_APPEND, WRITE_CACHE, 5, 5)],
)
def test_what_is_appended_overwrites_nothing_that_others_have_appended_meanwhile(
    flags: int, how: int, asked: int, offset: int
) -> None:
    vault = Vault()
    committer = SimpleNamespace(touch=lambda: None)
    outdated: list[int] = []
    services = SimpleNamespace(vault=vault, committer=committer, brake=lambda: None, outdated=outdated.append)
    files = Files(cast(Services, services))
    data = bytes(BODY) + WRITE_IN.pack(0, asked, 3, how, 0, flags, 0) + b"abc"
    files.write(cast(Request, SimpleNamespace(node=7, data=data)))
    assert vault.offsets == [offset]
    assert outdated == ([7] if offset > asked else [])
