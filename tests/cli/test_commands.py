"""The commands that need no mount, in this process: what they print, and what they end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atedb.cli.running import run
from atedb.crypto.hashing import digest
from atedb.errors import ExitCode
from atefs.cli import secrets
from atefs.cli.main import COMMANDS, atefs

PASSPHRASE = "a passphrase"


class Cli:
    """`atefs …` in this process, on one store. `out` and `err` are what the last command printed."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._capture = capture
        self.passphrase_file = self.secret("passphrase", PASSPHRASE)
        self.out = self.err = ""

    def secret(self, name: str, text: str | bytes) -> Path:
        """A private file with a secret in it."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def bare(self, *arguments: str | Path) -> int:
        """Run a command; its exit code."""
        self._capture.readouterr()
        code = run(atefs, [os.fspath(word) for word in arguments], "atefs")
        self.out, self.err = self._capture.readouterr()
        return code

    def __call__(self, *arguments: str | Path, code: ExitCode = ExitCode.OK) -> str:
        """Run a command with the passphrase; what it printed. It must end with `code`."""
        assert self.bare(*arguments, "--passphrase-file", self.passphrase_file) == code, self.err
        return self.out


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """A store with a few files."""
    cli = Cli(tmp_path, capfd)
    cli("init", cli.store)
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    (source / "folder/file").write_bytes(b"content")
    (source / "large").write_bytes(os.urandom(300_000))
    (source / "sparse").touch()
    os.truncate(source / "sparse", 5 << 20)
    (source / "link").symlink_to("folder/file")
    os.setxattr(source / "large", "user.note", b"kept")
    os.chmod(source / "large", 0o640)
    os.utime(source / "large", ns=(1_000_000_007, 2_000_000_009))
    cli("put", cli.store, source, "/")
    return cli


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys\nfrom atefs.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'pyfuse3', 'trio', 'cryptography', 'lmdb', 'nacl', 'msgspec', 'blake3'} & set(sys.modules)\n"
    code += "assert not heavy, heavy\n"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 2
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, cli: Cli) -> None:
    assert cli.bare(name, "--help") == ExitCode.OK
    assert f"atefs {name}" in cli.out.replace("Usage: atefs", "", 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, cli: Cli) -> None:
    assert cli.bare("completion", shell) == ExitCode.OK
    assert "_ATEFS_COMPLETE" in cli.out


def test_files_come_out_as_they_went_in(cli: Cli) -> None:
    assert cli("ls", cli.store, "source").split() == ["folder", "large", "link", "sparse"]
    assert cli("cat", cli.store, "source/folder/file") == "content"
    cli("get", cli.store, "source", cli.folder / "out")
    info = (cli.folder / "out/large").stat()
    for name in ("folder/file", "large", "sparse"):
        assert (cli.folder / "out" / name).read_bytes() == (cli.folder / "source" / name).read_bytes()
    assert os.readlink(cli.folder / "out/link") == "folder/file"
    assert (info.st_mode & 0o7777, info.st_atime_ns, info.st_mtime_ns) == (0o640, 1_000_000_007, 2_000_000_009)
    assert os.getxattr(cli.folder / "out/large", "user.note") == b"kept"
    assert (cli.folder / "out/sparse").stat().st_blocks == 0


def test_nothing_is_overwritten(cli: Cli) -> None:
    cli("get", cli.store, "source/large", cli.folder / "source/large", code=ExitCode.EXISTS)
    cli("put", cli.store, cli.folder / "source", "/", code=ExitCode.EXISTS)
    cli("init", cli.store, code=ExitCode.EXISTS)
    cli("init", cli.folder, code=ExitCode.EXISTS)


def test_a_file_may_be_put_under_another_name(cli: Cli) -> None:
    cli("put", cli.store, cli.folder / "source/large", "/renamed")
    row = json.loads(cli("stat", cli.store, "renamed", "--json"))
    assert (row["size"], row["mode"]) == (300_000, "-rw-r-----")
    assert "300000" in cli("stat", cli.store, "renamed")


def test_what_is_not_there_is_named(cli: Cli) -> None:
    cli("cat", cli.store, "source/nothing", code=ExitCode.NOT_FOUND)
    assert "source/nothing" in cli.err
    cli("ls", cli.folder / "no vault", code=ExitCode.NOT_FOUND)
    assert cli.bare("ls", cli.store, "--passphrase-file", cli.folder / "absent") == ExitCode.NOT_FOUND
    assert cli.bare("umount", cli.folder) == ExitCode.NOT_FOUND


def test_listings_as_json(cli: Cli) -> None:
    rows = json.loads(cli("ls", cli.store, "source", "--json"))
    assert [row["name"] for row in rows] == ["folder", "large", "link", "sparse"]
    assert rows[2]["target"] == "folder/file"
    assert json.loads(cli("verify", cli.store, "--json"))["damage"] == []
    assert json.loads(cli("fsck", cli.store, "--json"))["problems"] == []
    nodes = [json.loads(line) for line in cli("dump", cli.store, "--json").splitlines()]
    assert {node["kind"] for node in nodes} == {"segment", "batch", "event"}
    assert cli.bare("info", cli.store, "--json") == ExitCode.OK
    assert json.loads(cli.out)["suite"]
    assert cli.bare("key", "list", cli.store, "--json") == ExitCode.OK
    assert {row["kind"] for row in json.loads(cli.out)} == {"passphrase", "recovery"}
    assert cli.bare("status", "--json") == ExitCode.OK
    assert isinstance(json.loads(cli.out), list)


def test_checks_of_a_sound_vault(cli: Cli) -> None:
    assert "Nothing is wrong." in cli("fsck", cli.store)
    assert "whole" in cli("verify", "--data", cli.store)
    assert "'large' in folder" in cli("dump", cli.store)
    assert "Nothing was wrong." in cli("fsck", "--repair", cli.store)
    assert cli.bare("info", cli.store) == ExitCode.OK
    assert "passphrase" in cli.out


def test_fsck_without_repair_changes_nothing(cli: Cli) -> None:
    segment = cli.store / "segments/00000001.seg"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2 if len(content) < 1 << 20 else 200_000] ^= 0x40
    segment.write_bytes(content)
    before = {path: path.read_bytes() for path in cli.store.rglob("*") if path.is_file()}
    cli("fsck", cli.store, code=ExitCode.DAMAGED)
    assert "--repair" in cli.err
    assert {path: path.read_bytes() for path in cli.store.rglob("*") if path.is_file()} == before
    cli("fsck", "--repair", cli.store)
    cli("fsck", cli.store)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["keys", "keys.copy", "manifest", "device", "view.seal", "view/data.mdb", "lock"])
@pytest.mark.parametrize("spoil", [_flip, Path.unlink])
def test_looking_at_what_mends_itself_mends_nothing(
    cli: Cli, name: str, spoil: Callable[[Path], None], expect_log: Callable[[str], None]
) -> None:
    if name == "lock":
        (cli.store / name).write_bytes(b"whoever")
    spoil(cli.store / name)
    before = everything(cli.store)
    if name == "manifest":
        expect_log("manifest is made anew")
    if name.startswith("keys") and spoil is _flip:
        expect_log("the other copy is used")
    for command in ("fsck", "verify", "ls", "dump"):
        said = cli(command, cli.store)
        assert everything(cli.store) == before, command
        if name.startswith("keys") and command in ("fsck", "verify"):
            assert f"{name} is damaged" in said or f"`{name}` with the key slots is missing" in said
    assert cli.bare("info", cli.store) == cli.bare("key", "list", cli.store) == ExitCode.OK
    assert everything(cli.store) == before
    assert name.startswith("keys") <= ("Mended: one of `keys` and `keys.copy`" in cli("fsck", "--repair", cli.store))
    assert "next mounted" not in cli("fsck", cli.store)


def test_a_store_that_has_lost_its_header_is_damaged_and_not_taken_for_none(cli: Cli) -> None:
    (cli.store / "chain").unlink()
    for command in ("fsck", "ls", "verify"):
        cli(command, cli.store, code=ExitCode.DAMAGED)
        assert "from a copy" in cli.err
    cli("init", cli.store, code=ExitCode.EXISTS)


def test_key_slots_that_somebody_altered_are_named_and_repaired_to_the_one_key_given(cli: Cli) -> None:
    for name in ("keys", "keys.copy"):
        body = (cli.store / name).read_bytes().replace(b'"first key"', b'"other key"')[:-82]
        (cli.store / name).write_bytes(body + b' "checksum": "%s"\n}\n' % digest(body).hex().encode())
    before = everything(cli.store)
    cli("fsck", cli.store, code=ExitCode.DAMAGED)
    assert everything(cli.store) == before
    said = cli("fsck", "--repair", cli.store)
    assert "altered by somebody else" in said
    assert "Nothing was wrong" not in said
    assert cli.bare("key", "list", cli.store, "--json") == ExitCode.OK
    assert len(json.loads(cli.out)) == 1
    cli("fsck", cli.store)


def everything(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """All that is in a folder: inode numbers, times of change, contents."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino, path.stat().st_ctime_ns, path.read_bytes() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


def test_the_old_passphrase_opens_nothing_any_more(cli: Cli) -> None:
    new = cli.secret("new", "another one")
    cli("passwd", cli.store, "--new-passphrase-file", new)
    cli("ls", cli.store, code=ExitCode.WRONG_SECRET)
    assert cli.bare("ls", cli.store, "--passphrase-file", new) == ExitCode.OK


def test_keys_come_and_go(cli: Cli) -> None:
    key = cli.secret("key", os.urandom(64))
    added = cli("key", "add", cli.store, "--new-key-file", key, "--label", "stick").split()[-1].rstrip(".")
    assert cli.bare("ls", cli.store, "--key-file", key) == ExitCode.OK
    assert cli.bare("key", "list", cli.store) == ExitCode.OK
    assert "stick" in cli.out
    cli("key", "remove", cli.store, added)
    assert cli.bare("ls", cli.store, "--key-file", key) == ExitCode.WRONG_SECRET
    cli("key", "remove", cli.store, "nonsense", code=ExitCode.NOT_FOUND)


def test_a_forgotten_passphrase_is_replaced_with_the_recovery_code(cli: Cli) -> None:
    code = cli("key", "add", cli.store, "--recovery-code")
    recovery = cli.secret("recovery", next(word for word in code.split() if word.startswith("ATER-")))
    new = cli.secret("new", "another one")
    assert cli.bare("passwd", cli.store, "--passphrase-file", recovery, "--new-passphrase-file", new) == ExitCode.OK
    assert cli.bare("ls", cli.store, "--passphrase-file", new) == ExitCode.OK
    cli("ls", cli.store, code=ExitCode.WRONG_SECRET)


def test_a_passphrase_from_a_descriptor_and_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, PASSPHRASE.encode() + b"\n")
    os.close(theirs)
    assert cli.bare("ls", cli.store, "--passphrase-fd", str(ours)) == ExitCode.OK
    monkeypatch.setenv("ATE_PASSPHRASE_FILE", str(cli.passphrase_file))
    assert cli.bare("ls", cli.store) == ExitCode.OK


def test_a_secret_that_others_can_read_is_remarked(cli: Cli) -> None:
    cli.passphrase_file.chmod(0o644)
    cli("ls", cli.store)
    assert "chmod 600" in cli.err


def test_without_a_terminal_nobody_is_asked(cli: Cli) -> None:
    command = [sys.executable, "-m", "atefs.cli", "ls", str(cli.store)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == ExitCode.USAGE
    assert "--passphrase-file" in done.stderr


def test_at_a_prompt_a_slip_may_be_repeated(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["wrong", PASSPHRASE])
    monkeypatch.setattr(secrets, "_require_terminal", lambda: None)
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(typed))
    assert cli.bare("ls", cli.store) == ExitCode.OK


def test_usage_errors_and_defects(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.bare("nonsense") == ExitCode.USAGE
    assert cli.bare("ls") == ExitCode.USAGE
    defect: Callable[..., Path] = lambda *_: 1 / 0  # type: ignore[assignment]  # noqa: E731
    monkeypatch.setattr("atefs.cli.opening.find_store", defect)
    assert cli.bare("info", cli.store) == ExitCode.FAILED
    assert "ZeroDivisionError" in cli.err
    assert "Traceback" not in cli.err
    assert cli.bare("--debug", "info", cli.store) == ExitCode.FAILED
    assert "Traceback" in cli.err


def test_a_quota_is_kept(cli: Cli) -> None:
    small = cli.folder / "small"
    cli("init", "--quota", "1M", small)
    cli("put", small, cli.folder / "source/large", "/one")
    big = cli.folder / "big"
    big.write_bytes(os.urandom(2 << 20))
    code = cli.bare("put", small, big, "/two", "--passphrase-file", cli.passphrase_file)
    assert code != ExitCode.OK
    assert "quota" in cli.err.lower()
    assert cli.bare("init", "--quota", "lots", cli.folder / "x") == ExitCode.USAGE


@pytest.mark.needs("fuse")
def test_bench_measures_a_vault_of_its_own(cli: Cli) -> None:
    assert cli.bare("bench", "--files", "20", "--mib", "2", "--json") == ExitCode.OK, cli.err
    rows = json.loads(cli.out)
    assert len(rows) == 9
    assert all(row["rate"] > 0 for row in rows)
    assert list(Path(os.environ["ATE_HOME"]).iterdir()) == []
