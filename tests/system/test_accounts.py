"""Accounts through the real command lines, against a real server, from several machines' configurations."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from atedb.account.root import AccountRoot
from atedb.crypto.totp import STEP_SECONDS, totp_code
from atedb.errors import ExitCode
from atedb.node.accounts import Account
from tests.system.mounted import ATEFS, run, until
from tests.system.solo import ATEDB, Solo

pytestmark = [pytest.mark.needs("fuse")]

PASSWORD, OTHER = "correct horse battery", "staple and stable"
ANNA, BEN = "anna@example.com", "ben@example.com"


class Somebody:
    """A user at a machine of their own: their own configuration, vaults and state. server: named in the environment."""

    def __init__(self, folder: Path, name: str, solo: Solo) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self._solo = solo
        self._totp = b""
        self._step = 0
        self.said = ""
        self.given: dict[str, Any] = {}
        self.secret("password", PASSWORD)

    def secret(self, name: str, text: str) -> Path:
        """A file with a secret, closed to others."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    @property
    def environment(self) -> dict[str, str]:
        """Of all their commands."""
        folders = {
            "HOME": "",
            "XDG_STATE_HOME": "state",
            "ATE_HOME": "ate",
            "ATE_CONFIG": "config",
            "XDG_RUNTIME_DIR": "run",
        }
        (self.folder / "run").mkdir(mode=0o700, exist_ok=True)
        found = {name: os.fspath(self.folder / below) for name, below in folders.items()}
        return {**os.environ, **found, "ATE_SERVER": f"ws://127.0.0.1:{self._solo.port}"}

    def atefs(
        self, *words: str | Path, code: ExitCode = ExitCode.OK, environment: dict[str, Path] | None = None
    ) -> str:  # fmt: skip
        """`atefs …`; what it printed. Its errors are in `said`."""
        more = {name: os.fspath(value) for name, value in (environment or {}).items()}
        done = run(*ATEFS, *words, check=False, env={**self.environment, **more})
        self.said = done.stderr
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str | Path, environment: dict[str, Path] | None = None) -> Any:
        """What it prints for programs."""
        return json.loads(self.atefs(*words, "--json", environment=environment))

    def register(self, email: str, invitation: str) -> dict[str, Any]:
        """Make an account, and keep its second factor."""
        words = (
            "--invitation-file",
            self.secret("invitation", invitation),
            "--passphrase-file",
            self.folder / "password",
        )
        given: dict[str, Any] = self.json("create-user", email, *words)
        self.enrol(given["totp"])
        self.given = given
        return given

    def enrol(self, uri: str) -> None:
        """Let the authenticator read what is shown once."""
        self._totp = base64_of(parse_qs(urlsplit(uri).query)["secret"][0])

    def code(self) -> Path:
        """A file with a code of the authenticator that was not used before: at most two in 30 seconds."""
        self._step = max(self._step + 1, int(time.time()) // STEP_SECONDS)
        until(lambda: int(time.time()) // STEP_SECONDS >= self._step - 1, "the next code")
        return self.secret("code", totp_code(self._totp, self._step * STEP_SECONDS))

    def log_in(self, email: str, code: ExitCode = ExitCode.OK, password: str = "password") -> str:
        """Log in at this machine."""
        return self.atefs(
            "login", email, "--code-file", self.code(), "--passphrase-file", self.folder / password, code=code
        )

    def at(self, name: str) -> Somebody:
        """The same person at another machine."""
        other = Somebody(self.folder.parent, name, self._solo)
        other._totp, other._step = self._totp, self._step
        return other

    def url(self, path: str) -> str:
        """Of a chain on the server."""
        return f"{self.environment['ATE_SERVER']}/db{path}"

    def mount(self, name: str, path: str, *words: str | Path, code: ExitCode = ExitCode.OK) -> Path:
        """Mount a chain of the server."""
        self.atefs("mount", *words, self.folder / name, self.url(path), code=code)
        return self.folder / name


def base64_of(text: str) -> bytes:
    import base64

    return base64.b32decode(text + "=" * (-len(text) % 8))


def first_code(solo: Solo) -> str:
    """What the server showed when it was started."""
    found = re.search(r"registers with the code (\S+):", solo.out.read_text())
    assert found
    return found[1]


@pytest.fixture
def anna(tmp_path: Path, solo: Solo) -> Iterator[Somebody]:
    """The administrator of a server, logged in at a machine."""
    anna = Somebody(tmp_path, "anna", solo)
    anna.register(ANNA, first_code(solo))
    yield anna
    for path in tmp_path.glob("*/*"):
        subprocess.run(["umount", "-l", path], check=False, capture_output=True)


def test_a_registered_user_mounts_without_a_passphrase_here_and_after_a_login_elsewhere(anna: Somebody) -> None:
    vault = anna.mount("vault", f"/{ANNA}/vault")
    (vault / "file").write_text("content")
    anna.atefs("umount", vault)
    assert anna.json("whoami")["email"] == ANNA
    laptop = anna.at("laptop")
    laptop.mount("vault", f"/{ANNA}/vault", code=ExitCode.REFUSED)
    laptop.log_in(ANNA)
    assert (laptop.mount("vault", f"/{ANNA}/vault") / "file").read_text() == "content"
    laptop.atefs("umount", laptop.folder / "vault")
    laptop.atefs("logout")
    laptop.atefs("whoami", code=ExitCode.REFUSED)
    laptop.mount("vault", f"/{ANNA}/vault", code=ExitCode.USAGE)  # a passphrase is asked for, and there is none
    assert "a passphrase is needed" in laptop.said


def test_a_token_mounts_its_chain_alone_read_only_and_offline_and_not_when_it_is_revoked(
    anna: Somebody, solo: Solo
) -> None:
    vault = anna.mount("vault", f"/{ANNA}/vault")
    (vault / "file").write_text("content")
    anna.atefs("umount", vault)
    anna.atefs("umount", anna.mount("other", f"/{ANNA}/other"))
    robot = Somebody(anna.folder.parent, "robot", solo)
    text = anna.atefs("create-token", "--name", "robot", "--chain", f"/{ANNA}/vault", "--read-only")
    assert re.fullmatch(r"ate_[a-z2-7]{58}\n", text)
    token = robot.secret("token", text.strip())
    robot.mount("other", f"/{ANNA}/other", "--token-path", token, code=ExitCode.REFUSED)
    mounted = robot.mount("vault", f"/{ANNA}/vault", "--token-path", token)
    assert (mounted / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (mounted / "new").write_text("more")
    robot.atefs("umount", mounted)
    solo.stop()
    assert (robot.mount("vault", f"/{ANNA}/vault", "--token-path", token) / "file").read_text() == "content"
    robot.atefs("umount", mounted)
    solo.start()
    assert robot.json("token", "show", token)["name"] == "robot"
    listed = {one["name"]: one for one in anna.json("token", "list")}
    assert listed["robot"]["address"] == "127.0.0.1"
    robot.mount("vault", f"/{ANNA}/vault", "--token-path", token)
    anna.atefs("token", "revoke", listed["robot"]["id"])
    noted = [(one["what"], one["about"]) for one in anna.json("audit")]
    assert noted[-1] == ("token revoked", listed["robot"]["id"])
    assert ("chain refused", f"/{ANNA}/other, token {listed['robot']['id']}") in noted

    def put_out() -> bool:
        return bool(robot.json("status", mounted)["server"]["state"] == "offline")

    until(put_out, "the mount to be put out")
    robot.atefs("umount", mounted)
    robot.mount("vault", f"/{ANNA}/vault", "--token-path", token, code=ExitCode.REFUSED)


def test_what_is_no_password_makes_no_account(anna: Somebody, solo: Solo) -> None:
    ben = Somebody(anna.folder.parent, "ben", solo)
    words = ("create-user", BEN, "--invitation-file", ben.secret("invitation", solo_invite(solo, BEN)))
    ben.atefs(*words, "--passphrase-file", ben.secret("short", "1234567"), code=ExitCode.USAGE)
    ben.atefs(*words, "--key-file", ben.secret("key", "k" * 40), code=ExitCode.USAGE)
    ben.atefs(*words, "--passphrase-file", ben.secret("code", anna.given["recovery_code"]), code=ExitCode.USAGE)
    assert "An account has a password" in ben.said
    ben.atefs(*words, "--passphrase-file", ben.folder / "password")
    ben.atefs("login", BEN, "--key-file", ben.folder / "key", code=ExitCode.USAGE)
    vault = ben.mount("vault", f"/{BEN}/vault", "--passphrase-file", ben.secret("other", "of the vault alone"))
    ben.atefs("umount", vault)
    ben.atefs("create-token", "--chain", f"/{BEN}/vault", code=ExitCode.WRONG_SECRET)
    assert "key add --account" in ben.said
    ben.atefs("create-token", "--chain", f"/{BEN}/nothing", code=ExitCode.NOT_FOUND)


def test_an_existing_vault_is_opened_by_the_account_once_it_is_let(anna: Somebody) -> None:
    passphrase = anna.secret("passphrase", "of the vault alone")
    vault = anna.mount("vault", f"/{ANNA}/vault", "--passphrase-file", passphrase)
    anna.atefs("umount", vault)
    anna.mount("vault", f"/{ANNA}/vault", code=ExitCode.USAGE)
    assert "key add --account" in anna.said
    anna.atefs("key", "add", vault, "--account", "--passphrase-file", passphrase)
    anna.mount("vault", f"/{ANNA}/vault")
    until(lambda: "account" in {one["kind"] for one in anna.json("key", "list", vault)}, "the new key")
    anna.atefs("umount", vault)
    laptop = anna.at("laptop")
    laptop.log_in(ANNA)
    laptop.atefs("umount", laptop.mount("vault", f"/{ANNA}/vault"))


def test_passwords_are_changed_and_accounts_got_back(anna: Somebody, solo: Solo) -> None:
    old, new = anna.folder / "password", anna.secret("new", OTHER)
    anna.atefs("user", "passwd", "--code-file", anna.code(), "--passphrase-file", old, "--new-passphrase-file", new)
    anna.log_in(ANNA, ExitCode.REFUSED)
    assert "is not right" in anna.said
    anna.log_in(ANNA, password="new")
    code = solo_invite(solo, BEN)
    ben = Somebody(anna.folder.parent, "ben", solo)
    given = ben.register(BEN, code)
    recovery = ben.secret("recovery", given["recovery_code"])
    again = ben.json("user", "recover", BEN, "--recovery-code-file", recovery, "--new-passphrase-file", new)
    ben.enrol(again["totp"])
    assert again["recovery_code"] != given["recovery_code"]
    assert ben.json("whoami")["email"] == BEN
    ben.atefs(
        "user", "recover", BEN, "--recovery-code-file", recovery, "--new-passphrase-file", new, code=ExitCode.REFUSED
    )


def solo_invite(solo: Solo, email: str) -> str:
    """A code that the operator makes, while the server runs."""
    return run(*ATEDB, "invite", email, "--data", solo.data).stdout.strip()


def test_a_server_that_shows_other_keys_for_somebody_is_refused_until_they_have_said_theirs(
    anna: Somebody, solo: Solo
) -> None:
    ben = Somebody(anna.folder.parent, "ben", solo)
    ben.register(BEN, solo_invite(solo, BEN))
    told = ben.json("whoami")["fingerprint"]
    assert "remembered from now on" in anna.atefs("verify-user", BEN)
    assert anna.json("verify-user", BEN) == {"email": BEN, "fingerprint": told, "verified": False}
    spaced = " ".join(told[at : at + 4] for at in range(0, 64, 4)).upper()
    anna.atefs("verify-user", BEN, "--fingerprint", "0" * 64, code=ExitCode.REFUSED)
    assert "do not share anything" in anna.said
    assert "compared with what they said" in anna.atefs("verify-user", BEN, "--fingerprint", spaced)
    assert anna.json("verify-user", BEN)["verified"]
    solo.stop()
    file = solo.data / "accounts" / f"{BEN}.json"
    account = msgspec.json.decode(file.read_bytes(), type=Account)
    swapped = AccountRoot(b"m" * 32).card(BEN)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(account, card=swapped)))
    solo.start()
    anna.atefs("verify-user", BEN, code=ExitCode.REFUSED)
    assert "shows other keys for" in anna.said
    twin = anna.at("twin")  # of who has never met them: believes what it is shown
    twin.atefs("token", "list", code=ExitCode.REFUSED)
    text = anna.atefs("create-token")
    token = twin.secret("config-token", text.strip())
    shown = twin.json(
        "verify-user", BEN, "--server", f"ws://127.0.0.1:{solo.port}", environment={"ATE_TOKEN_FILE": token}
    )
    assert shown["fingerprint"] == swapped.fingerprint.hex()


def test_secrets_are_in_no_log_no_command_line_no_environment_and_nothing_that_the_server_has(
    anna: Somebody, solo: Solo
) -> None:
    code = anna.code().read_text().strip()
    anna.atefs("login", ANNA, "--code-file", anna.folder / "code", "--passphrase-file", anna.folder / "password")
    token = anna.atefs("create-token").strip()
    login = json.loads((anna.folder / "config" / "logins").read_text())[f"ws://127.0.0.1:{solo.port}"]
    vault = anna.mount("vault", f"/{ANNA}/vault")
    (vault / "file").write_text("content")
    process = Path("/proc") / str(anna.json("status", vault)["pid"])
    secrets = [PASSWORD, token, login["token"], login["account"], anna.given["recovery_code"], code, anna.given["totp"]]
    shown = [
        process / "cmdline",
        process / "environ",
        Path(f"/proc/{solo.pid}/cmdline"),
        Path(f"/proc/{solo.pid}/environ"),
    ]
    logs = [solo.log, *(anna.folder / "state").rglob("*.log")]
    stored = [path for path in solo.data.rglob("*") if path.is_file()]
    assert len(logs) > 1
    assert len(stored) > 5
    for path in (*shown, *logs, *stored):
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, path
    assert login["token"].encode() in (anna.folder / "config" / "logins").read_bytes()  # that it would be found
    for path in (anna.folder / "config").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_fresh_server_that_others_can_reach_lets_in_nobody_but_who_registers(tmp_path: Path) -> None:
    solo = Solo(tmp_path)
    solo.start("--listen", "0.0.0.0")
    try:
        stranger = Somebody(tmp_path, "stranger", solo)
        stranger.mount(
            "vault", f"/{ANNA}/vault", "--passphrase-file", stranger.folder / "password", code=ExitCode.REFUSED
        )
        stranger.register(ANNA, first_code(solo))
        stranger.atefs("umount", stranger.mount("vault", f"/{ANNA}/vault"))
        solo.stop()
        solo.start("--listen", "0.0.0.0")
        assert "registers with the code" not in solo.out.read_text()
    finally:
        solo.clean_up()
