"""Where an append goes, which depends on who knows best where the file ends: the vault or the kernel."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from atedb.errors import NotResident
from atefs.mount.direct.files import Files
from atefs.mount.direct.protocol import BODY, WRITE_CACHE, WRITE_IN
from atefs.mount.direct.request import Request
from atefs.mount.direct.services import Services


class Vault:
    """A file of ten bytes. raising: what the next write raises."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.raising: Exception | None = None

    def getattr(self, ino: int) -> Any:
        return SimpleNamespace(size=10)

    def write(self, ino: int, offset: int, content: bytes, caller: object) -> None:
        if self.raising is not None:
            raise self.raising
        self.offsets.append(offset)


class Scene:
    """Requests to write three bytes to the file, of inode 7."""

    def __init__(self, *, shared: bool) -> None:
        self.vault = Vault()
        self.outdated: list[int] = []
        committer = SimpleNamespace(touch=lambda: None)
        services = SimpleNamespace(
            vault=self.vault, committer=committer, brake=lambda: None, outdated=self.outdated.append, shared=shared
        )
        self._files = Files(cast(Services, services))

    def write(self, flags: int, how: int, offset: int) -> None:
        data = bytes(BODY) + WRITE_IN.pack(0, offset, 3, how, 0, flags, 0) + b"abc"
        self._files.write(cast(Request, SimpleNamespace(node=7, data=data)))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("flags", "how", "asked"), [(0, 0, 5), (0, 0, 15), (os.O_APPEND, WRITE_CACHE, 5)])
def test_what_is_not_appended_goes_where_the_kernel_says(shared: bool, flags: int, how: int, asked: int) -> None:
    scene = Scene(shared=shared)
    scene.write(flags, how, asked)
    assert (scene.vault.offsets, scene.outdated) == ([asked], [])


@pytest.mark.parametrize("asked", [5, 10, 15])
def test_where_others_append_and_cut_the_end_that_is_here_counts_and_the_kernel_forgets_the_one_it_knew(
    asked: int,
) -> None:
    """Before it: the others' bytes would be overwritten. Behind it: what they have cut would come back as zeros."""
    scene = Scene(shared=True)
    scene.write(os.O_APPEND, 0, asked)
    assert scene.vault.offsets == [10]
    assert scene.outdated == ([7] if asked != 10 else [])


@pytest.mark.parametrize(("asked", "offset"), [(5, 10), (15, 15)])
def test_on_a_local_vault_an_append_goes_behind_what_the_kernel_has_not_handed_over_yet(
    asked: int, offset: int
) -> None:
    scene = Scene(shared=False)
    scene.write(os.O_APPEND, 0, asked)
    assert scene.vault.offsets == [offset]


def test_the_kernel_is_told_of_an_append_only_when_it_has_happened() -> None:
    """Each run of a request that has to wait would have another thread wait for the page that the request holds."""
    scene = Scene(shared=True)
    scene.vault.raising = NotResident(lambda: None)
    for _ in range(3):
        with pytest.raises(NotResident):
            scene.write(os.O_APPEND, 0, 5)
    assert scene.outdated == []
    scene.vault.raising = None
    scene.write(os.O_APPEND, 0, 5)
    assert scene.outdated == [7]
