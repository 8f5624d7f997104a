"""What a vault needs of its machine: fusermount3 or root, and no compiler, headers, libfuse or pyfuse3."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from atedb.errors import ExitCode
from tests.system.mounted import ATEFS, ONCE, Mounted, run

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = [sys.executable, "-c", "import sys; sys.modules['pyfuse3'] = None; from atefs.cli.main import main; main()"]
"""`atefs …` where pyfuse3 cannot be imported."""


@ONCE
@pytest.mark.needs("fuse")
def test_a_vault_is_mounted_and_written_where_there_is_no_pyfuse3(place: Mounted) -> None:
    place.command = PLAIN
    place.mount()
    (place / "file").write_text("content")
    place.remount()
    assert (place / "file").read_text() == "content"
    place.umount()


@ONCE
@pytest.mark.needs("fuse")
def test_the_command_of_the_readme_brings_the_vault_back_also_when_its_driver_was_killed(place: Mounted) -> None:
    environment = {**os.environ, "MOUNT": str(place.path), "ATE_PASSPHRASE_FILE": str(place.passphrase_file)}

    def mount_vault() -> str:
        return run("sh", REPOSITORY / "scripts" / "mount-vault", env=environment).stdout

    assert f"Your vault is {place.path}" in mount_vault()
    place.write_synced("file", b"content")
    assert "mounted already" in mount_vault()
    place.pid = place.status()["pid"]
    place.kill()
    assert "mounted already" not in mount_vault()
    place.pid = place.status()["pid"]
    assert (place / "file").read_text() == "content"
    place.umount()


@pytest.mark.needs("fuse")
@pytest.mark.parametrize("driver", ["pyfuse3"], indirect=True)
def test_without_pyfuse3_its_driver_is_refused_before_a_vault_is_made(place: Mounted) -> None:
    arguments = ("mount", "--driver", "pyfuse3", "--passphrase-file", place.passphrase_file, place.path)
    done = run(*PLAIN, *arguments, check=False)
    assert done.returncode == ExitCode.NO_FUSE
    assert "-m pip install 'atefs[pyfuse3]'" in done.stderr
    assert not place.store.exists()
    place.command = ATEFS
    place.mount()


def test_a_plain_install_asks_for_nothing_that_is_compiled_for_libfuse() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not [wanted for wanted in project["dependencies"] if "fuse" in wanted]
    assert [wanted for wanted in project["optional-dependencies"]["pyfuse3"] if "fuse" in wanted]


@pytest.mark.parametrize(("arguments", "wanted"), [((), set()), (("test",), {"gcc", "pkg-config", "libfuse3-dev"})])
def test_the_system_is_asked_for_a_compiler_only_to_test(
    tmp_path: Path, arguments: tuple[str, ...], wanted: set[str]
) -> None:
    """On a system that has Python and fusermount3 only, with an apt-get that notes what it is to install."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "basename", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    stubs = {
        "python3": f'exec {sys.executable} "$@"',
        "id": "echo 0",
        "fusermount3": "",
        "apt-get": f'echo "$@" >> {tmp_path}/asked',
    }
    for name, line in stubs.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    run(programs / "bash", REPOSITORY / "scripts" / "system-packages", *arguments, env={"PATH": str(programs)})
    asked = tmp_path / "asked"
    words = set(asked.read_text().split()) if asked.exists() else set()
    assert words & {"gcc", "pkg-config", "libfuse3-dev"} == wanted
    assert bool(words) == bool(wanted)
