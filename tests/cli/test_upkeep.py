"""`atedb verify` and `atedb repair`: what they say, what they end with, and what they leave alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import trio

from atedb.chain.lock import ChainLock
from atedb.engine.files import chain_store
from atedb.errors import ExitCode
from atedb.node.host import ChainHost
from tests.chain.conftest import noise
from tests.cli.test_atedb import Cli, cli
from tests.engine.frames import Author
from tests.node.chains import PATH, make_hosts

__all__ = ["cli"]
NAME, OTHER = PATH[1:], "ben@example.com/notes"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A server's folder with two chains."""

    async def main() -> None:
        hosts = make_hosts(tmp_path / "data")
        for name, root in ((NAME, b"1" * 32), (OTHER, b"2" * 32)):
            author = Author(root=root)
            async with hosts.open("/" + name, create=author.files) as host:
                await fill(host, author)
        await hosts.aclose()

    trio.run(main)
    return tmp_path / "data"


async def fill(host: ChainHost, author: Author) -> None:
    for number in range(8):
        frame = author.frame(author.meta(f"m{number}", noise(300)), author.blob("b", noise(600)))
        await host.append("client", [frame])


def segment(data: Path) -> Path:
    return chain_store(data / "chains", NAME) / "segments" / "00000001.seg"


def flip(path: Path, at: int) -> None:
    found = bytearray(path.read_bytes())
    found[at] ^= 1
    path.write_bytes(found)


def content(folder: Path) -> dict[str, bytes]:
    return {os.fspath(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole_chains_are_said_to_be_whole_and_are_left_alone(cli: Cli, data: Path) -> None:
    before = content(data)
    said = cli("verify", data)
    assert f"{NAME}: whole, up to batch 8;" in said
    assert f"{OTHER}: whole, up to batch 8;" in said
    assert "index" not in said
    assert OTHER not in cli("verify", data, NAME)
    assert content(data) == before
    reports = {one["chain"]: one["report"] for one in json.loads(cli("verify", data, "--json"))}
    assert reports.keys() == {NAME, OTHER}
    assert reports[NAME]["batches"] == 8
    assert reports[NAME]["damage"] == reports[NAME]["remarks"] == []


def test_a_damaged_chain_is_named_with_its_place_and_the_others_are_verified_all_the_same(cli: Cli, data: Path) -> None:
    flip(segment(data), 300)
    said = cli("verify", data, code=ExitCode.DAMAGED)
    assert f"{NAME}: damaged" in said
    assert "segment 1 at offset 128" in said
    assert "batches missing: 1" in said
    assert f"{OTHER}: whole" in said
    assert "1 of 2 chains are damaged" in cli.err
    [report] = [one["report"] for one in json.loads(cli("verify", data, NAME, "--json", code=ExitCode.DAMAGED))]
    assert report["damage"][0]["missing"] == [[1, 1]]
    cli("verify", data, OTHER)


def test_a_chain_whose_header_is_damaged_does_not_end_the_others(cli: Cli, data: Path) -> None:
    flip(chain_store(data / "chains", NAME) / "chain", 20)
    said = cli("verify", data, code=ExitCode.DAMAGED)
    assert f"{NAME}: the header" in said
    assert f"{OTHER}: whole" in said


def test_an_index_that_is_gone_is_a_remark(cli: Cli, data: Path) -> None:
    shutil.rmtree(data / "index")
    assert "made anew when the chain is opened next" in cli("verify", data, NAME)


def test_what_is_not_there_is_said_to_be_so(cli: Cli, data: Path, tmp_path: Path) -> None:
    cli("verify", data, "nobody/nothing", code=ExitCode.NOT_FOUND)
    cli("verify", tmp_path, code=ExitCode.NOT_FOUND)
    cli("repair", data, "nobody/nothing", code=ExitCode.NOT_FOUND)
    cli("verify", data, "../../etc", code=ExitCode.FAILED)


def test_a_chain_is_repaired_from_a_copy(cli: Cli, data: Path, tmp_path: Path) -> None:
    sound = content(data / "chains")
    shutil.copytree(chain_store(data / "chains", NAME), tmp_path / "copy")
    flip(segment(data), 300)
    flip(segment(data), 3500)
    assert "Batches put back: 2." in cli("repair", data, NAME, "--from", tmp_path / "copy")
    assert "is whole, up to batch 8" in cli.err
    now = content(data / "chains")
    assert {path: now[path] for path in sound if not path.endswith("lock")} == {
        path: before for path, before in sound.items() if not path.endswith("lock")
    }
    cli("repair", data, NAME)
    assert "is whole" in cli.err


@pytest.mark.expect_log("index of chain .* is made anew")
def test_without_a_copy_nothing_changes_until_the_chain_is_cut(cli: Cli, data: Path) -> None:
    flip(segment(data), 1850)
    damaged = segment(data).read_bytes()
    assert "batch 2 is lost" in cli("repair", data, NAME, code=ExitCode.DAMAGED)
    assert "with --cut" in cli.err
    assert segment(data).read_bytes() == damaged
    said = json.loads(cli("repair", data, NAME, "--cut", "--json"))
    assert said["restored"] == []
    assert (Path(said["kept"]) / "00000001.seg").read_bytes() == damaged
    assert "whole, up to batch 1" in cli("verify", data, NAME)

    async def main() -> None:
        hosts = make_hosts(data)
        async with hosts.open(PATH) as host:
            assert host.tail.sequence == 1
        await hosts.aclose()

    trio.run(main)


def test_a_chain_that_is_in_use_is_verified_and_not_repaired(cli: Cli, data: Path) -> None:
    lock = ChainLock(chain_store(data / "chains", NAME))
    assert "whole" in cli("verify", data, NAME)
    cli("repair", data, NAME, code=ExitCode.IN_USE)
    lock.release()
