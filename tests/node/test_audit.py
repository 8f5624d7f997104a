"""The index of a chain compared with its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from atedb.chain import log as log_module
from atedb.chain.disk import RealDisk
from atedb.engine.files import chain_store
from atedb.node.audit import audit
from atedb.node.host import ChainHost
from atedb.node.index import Index, Row, index_folder
from tests.engine.frames import Author
from tests.node.chains import PATH, with_chain


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Author]:
    """The folders of a chain and of its index, both closed."""
    monkeypatch.setattr(log_module, "SEGMENT_TARGET", 4000)
    author = Author()

    async def body(host: ChainHost, author: Author) -> None:
        for number in range(20):
            await host.append("client", [author.frame(author.meta(f"m{number % 3}"), author.blob(f"b{number}"))])
        await host.append("client", [author.frame(author.end("b3"), author.end("m1"))])

    with_chain(tmp_path, body, author)
    return chain_store(tmp_path / "chains", PATH[1:]), index_folder(tmp_path / "index", PATH), author


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "lock.mdb"}


def test_an_index_that_agrees_with_its_log_is_right_and_is_left_alone(kept: tuple[Path, Path, Author]) -> None:
    store, folder, _ = kept
    before = files(folder), files(store)
    seen: list[tuple[int, int]] = []
    assert audit(store, folder, lambda done, whole: seen.append((done, whole))) is None
    assert (files(folder), files(store)) == before
    assert seen[-1] == (21, 21)


def altered(kept: tuple[Path, Path, Author], *, row: bool) -> str | None:
    """What is found when the index was sealed with a row, or a number, that is not so."""
    store, folder, author = kept
    index = Index(RealDisk(), folder, author.header.chain_id)
    state = index.state.copy()
    rows: dict[bytes, Row] = {}
    if row:
        key = author.key("b5")
        found = index.get(key)
        assert found is not None
        rows[key] = found._replace(version=found.version + 1)
    else:
        state.segments[0].lanes[1].live += 1
    index.write(rows, state)
    index.close()
    return audit(store, folder)


def test_a_wrong_row_is_named(kept: tuple[Path, Path, Author]) -> None:
    assert f"about object {kept[2].key('b5').hex()}" in (altered(kept, row=True) or "")


def test_a_wrong_account_is_found(kept: tuple[Path, Path, Author]) -> None:
    assert "does not agree with the log up to batch 21" in (altered(kept, row=False) or "")


def test_an_index_that_is_missing_or_damaged_is_made_anew_and_that_is_said(kept: tuple[Path, Path, Author]) -> None:
    store, folder, _ = kept
    data = bytearray((folder / "data.mdb").read_bytes())
    data[5000] ^= 1
    (folder / "data.mdb").write_bytes(data)
    assert "is damaged" in (audit(store, folder) or "")
    (folder / "seal").unlink()
    assert "is missing" in (audit(store, folder) or "")
