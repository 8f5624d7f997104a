"""What was synced and is in no batch yet: it is read like everything else, and goes with the next commit."""

from __future__ import annotations

from pathlib import Path

from atedb.chain.chain import Chain
from atedb.chain.disk import RealDisk
from atedb.chain.event import Change
from atedb.chain.header import load_header
from atedb.crypto.keys import KeyRing
from atefs.vault.codec import terms_of
from atefs.vault.vault import Vault
from tests.vault.conftest import ROOT_KEY, Bench


def promised(bench: Bench) -> list[Change]:
    """All that is not on stable storage, as if the chain had promised it."""
    frozen = bench.vault.freeze()
    assert frozen is not None
    loose = list(frozen.loose)
    bench.vault.promised(frozen)
    return loose


def test_what_was_promised_is_not_promised_again_and_goes_with_the_next_commit(bench: Bench) -> None:
    bench.committed()
    ino = bench.file(b"one", b"1" * 5000)
    first = promised(bench)
    assert promised(bench) == []
    bench.vault.write(ino, 0, b"2" * 5000)
    second = promised(bench)
    assert 0 < len(second) < len(first)
    changes = bench.committed()
    assert {change.key for change in changes} == {change.key for change in first + second}
    assert bench.committed() == []
    assert bench.reopen().read(ino, 0, 5000) == b"2" * 5000


def test_what_failed_to_be_committed_is_not_taken_for_promised(bench: Bench) -> None:
    bench.committed()
    bench.file(b"one")
    frozen = bench.vault.freeze()
    assert frozen is not None
    bench.vault.thaw(frozen)
    bench.file(b"two")
    assert {change.key for change in frozen.changes} <= {change.key for change in promised(bench)}


def test_everything_is_read_as_promised(bench: Bench) -> None:
    ino = bench.file(b"one", b"1" * 300_000)
    folder = bench.folder(b"folder")
    bench.committed()
    bench.vault.write(ino, 150_000, b"2")
    bench.vault.rename(1, b"one", folder, b"moved")
    promised(bench)
    bench.vault.unlink(folder, b"moved")
    promised(bench)
    bench.file(b"moved", b"3", folder)
    promised(bench)
    assert [row.name for row in bench.vault.readdir(folder)[2:]] == [b"moved"]
    assert bench.vault.read(bench.vault.lookup(folder, b"moved").ino, 0, 10) == b"3"
    assert [row.name for row in bench.vault.readdir(1)[2:]] == [b"folder"]


def test_a_vault_that_is_only_read_shows_what_was_promised_before_a_crash(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "store")
    assert isinstance(bench.chain, Chain)
    bench.committed()
    bench.chain.barrier()
    ino = bench.file(b"one", b"1" * 20_000)
    frozen = bench.vault.freeze()
    assert frozen is not None
    assert bench.chain.promise(frozen.loose)
    bench.chain._release()
    header = load_header(RealDisk(), tmp_path / "store")
    names = KeyRing(ROOT_KEY, header.chain_id, header.suite)
    chain = Chain.open(tmp_path / "store", ROOT_KEY, terms=terms_of(names), read_only=True)
    vault = Vault(chain)
    assert [row.name for row in vault.readdir(1)[2:]] == [b"one"]
    assert vault.read(ino, 0, 30_000) == b"1" * 20_000
    assert (vault.dirty_objects, vault.freeze(), vault.commit()) == (0, None, 0)
    chain.close()
