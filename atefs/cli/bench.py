"""`atefs bench`: how quick a vault is on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from atedb.cli import output

FILES = 1_000
FILE_BYTES = 4_096
SEQUENTIAL_MIB = 256
SYNCS = 200


@click.command()
@click.argument(
    "where", required=False, metavar="[FOLDER]", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--files", default=FILES, show_default=True, type=click.IntRange(10, 1_000_000))
@click.option("--mib", default=SEQUENTIAL_MIB, show_default=True, type=click.IntRange(1, 1 << 20))
@output.json_option
@click.pass_context
def bench(ctx: click.Context, where: Path | None, files: int, mib: int, as_json: bool) -> None:
    """Measure small files, large files and fsync in FOLDER, or in a temporary vault.

    FOLDER may lie in a mounted vault or, for comparison, anywhere else. What is written there is removed again.

    \b
    Examples:
      atefs bench
      atefs bench ~/vault
      atefs bench /tmp
    """
    with _temporary_vault(ctx) if where is None else contextlib.nullcontext(where) as folder:
        work = Path(tempfile.mkdtemp(prefix="atefs-bench-", dir=folder))
        try:
            rows = _measure(work, files, mib)
        finally:
            shutil.rmtree(work)
    if as_json:
        output.print_json([{"name": name, "rate": rate, "unit": unit} for name, rate, unit in rows])
    else:
        output.table(["WHAT", "RATE", ""], [[name, f"{rate:,.0f}", unit] for name, rate, unit in rows])


@contextlib.contextmanager
def _temporary_vault(ctx: click.Context) -> Iterator[Path]:
    """A vault of its own in the folder of local vaults, so that the disk measured is the one that matters."""
    from atefs.cli.creating import create_store
    from atefs.cli.mounting import mount_vault, unmount_vault
    from atefs.cli.secrets import SecretSource
    from atefs.mount import places
    from atefs.mount.options import MountOptions

    from atedb.crypto.slots import Secret  # isort: skip

    home = places.private_folder(places.chains_home())
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=home) as base:
        mountpoint, passphrase = Path(base, "mnt"), Path(base, "passphrase")
        mountpoint.mkdir()
        passphrase.touch(mode=0o600)
        passphrase.write_bytes(os.urandom(32).hex().encode())
        create_store(Path(base, "store"), Secret.passphrase(passphrase.read_bytes()))
        mount_vault(
            mountpoint, str(Path(base, "store")), MountOptions(log_file=Path(base, "log")),
            SecretSource(passphrase_file=passphrase), foreground=False, debug=ctx.obj["debug"],
            quiet=True,
        )  # fmt: skip
        try:
            yield mountpoint
        finally:
            unmount_vault(mountpoint)


def _measure(work: Path, files: int, mib: int) -> list[tuple[str, float, str]]:
    content = os.urandom(FILE_BYTES)
    names = [os.fspath(work / f"file{number:06}") for number in range(files)]
    steps: list[tuple[str, Callable[[str], object]]] = [
        ("create, 4 KiB each", lambda name: _write(name, content)),
        ("stat", os.stat),
        ("open and read", _read),
        ("overwrite", lambda name: _write(name, content)),
        ("rename", lambda name: os.rename(name, name + ".r")),
        ("unlink", lambda name: os.unlink(name + ".r")),
    ]
    rows = []
    for label, step in steps:
        seconds = _timed(lambda step=step: [step(name) for name in names])  # type: ignore[misc]
        rows.append((label, files / seconds, "files/s"))
    rows.append(("append 4 KiB and fsync", SYNCS / _timed(lambda: _append_synced(names[0], content)), "syncs/s"))
    big = os.fspath(work / "big")
    block = os.urandom(1 << 20)
    rows.append(("sequential write, synced", mib / _timed(lambda: _write_big(big, block, mib)), "MiB/s"))
    rows.append(("sequential read", mib / _timed(lambda: _read(big)), "MiB/s"))
    return rows


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _write(name: str, content: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _read(name: str) -> None:
    fd = os.open(name, os.O_RDONLY)
    try:
        while os.read(fd, 1 << 20):
            pass
    finally:
        os.close(fd)


def _append_synced(name: str, content: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for _ in range(SYNCS):
            os.write(fd, content)
            os.fdatasync(fd)
    finally:
        os.close(fd)


def _write_big(name: str, block: bytes, mib: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for _ in range(mib):
            os.write(fd, block)
        os.fsync(fd)
    finally:
        os.close(fd)
